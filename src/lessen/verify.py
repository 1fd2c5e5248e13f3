"""What a file is worth: its score in the target's runtime, its size, time and memory beside another's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .data import Part, Score, evaluate, outputs_of, paired_drop
from .data.interval import Drop
from .job import Job
from .memory import stretches


@dataclass(eq=False)
class Judge:
    """Scores files on the parts of the data, always against the float original in the same runtime.

    Args:
        job: data and metric.
        baseline: the original's file.
    """

    job: Job
    baseline: Path

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[Score, Drop]] = {}
        self._reference: dict[str, list[Tensor]] = {}
        self._scores: dict[str, Score] = {}
        self.consulted = 0

    def original(self, part: Part) -> Score:
        """The original's own score on a part; run once."""
        if part.name not in self._scores:
            session = self.job.target.session(self.baseline, torch.get_num_threads())
            if self.job.metric.against == "reference":
                self._reference[part.name] = outputs_of(session, part)
            self._scores[part.name] = evaluate(self.job.metric, session, part, self._reference.get(part.name))
        return self._scores[part.name]

    def drop(self, path: Path, part: Part) -> tuple[Score, Drop]:
        """A file's score on a part, and how far it is below the original's; the same bytes are run once."""
        key = (hashlib.sha256(path.read_bytes()).hexdigest(), part.name)
        if key not in self._known:
            original = self.original(part)
            self.consulted += part.name == "test"
            score = evaluate(
                self.job.metric,
                self.job.target.session(path, torch.get_num_threads()),
                part,
                self._reference.get(part.name),
            )
            self._known[key] = (score, paired_drop(original, score))
        return self._known[key]


def one_sample(part: Part) -> tuple[Tensor, ...]:
    """Inputs of the first sample: what latency is measured on."""
    return next(part.batches(1)).inputs


def sqnr_db(weight: Tensor, decoded: Tensor) -> float | None:
    """Signal-to-quantization-noise ratio of a weight in decibels; None when it is exact."""
    noise = signal = 0.0
    for rows in stretches(len(weight), weight.numel() // max(len(weight), 1)):
        exact = weight[rows].double()
        noise += float((exact - decoded[rows].double()).square().sum())
        signal += float(exact.square().sum())
    return None if noise == 0 or signal == 0 else float(10 * torch.log10(torch.tensor(signal / noise)))
