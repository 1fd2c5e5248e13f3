"""NNCF's `quantize_with_accuracy_control`, with the same demand as ours."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from int8_tools import Clock, Feed, Made, asked, nncf_quiet

from lessen.data import Part, outputs_of
from lessen.job import Job
from lessen.targets import target

MAX_DROP = 0.005
PATIENCE = 300.0  # processor seconds: it measures again for every quantizer that it takes back


def nncf_control(source: Path, samples: Sequence[Feed], out: Path, transformer: bool, job: Job) -> Made:
    """Half a point of the metric may be lost on the validation part; of the OpenVINO model."""
    import openvino

    nncf = nncf_quiet()
    part = job.data.validation
    batches = list(part.batches())
    reference = _reference(job, source, part)
    clock = Clock()

    def validate(model: Any, indices: Iterable[int]) -> tuple[float, None]:
        if time.process_time() - clock.started[1] > PATIENCE:
            raise TimeoutError(f"not done after {PATIENCE:.0f} s of processor time")
        outputs, wanted = [], []
        for i in indices:
            outputs.append(torch.from_numpy(model([x.numpy() for x in batches[i].inputs])[0].copy()))
            wanted.append(batches[i].labels if reference is None else reference[i])
        rows = job.metric.rows(torch.cat(outputs), torch.cat(wanted))
        return float(rows.mean()), None

    (calibration,), named = asked(nncf, samples, transformer)
    model = nncf.quantize_with_accuracy_control(
        openvino.Core().read_model(source), calibration, nncf.Dataset(range(len(batches))), validate,
        max_drop=MAX_DROP, **named,
    )  # fmt: skip
    path = out.with_suffix(".xml")
    openvino.save_model(model, path)
    return clock.made(path)


def _reference(job: Job, source: Path, part: Part) -> list[torch.Tensor] | None:
    if job.metric.against != "reference":
        return None
    return outputs_of(target("openvino").session(source), part)
