"""What a file is worth: its score in the target's runtime, its size, time and memory beside another's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .data import Part, Score, evaluate, outputs_of, paired_drop
from .data.interval import Drop
from .job import Job
from .memory import stretches, trim
from .targets.target import Session

_VALUES = 2**17  # inputs that a runtime gets at once, 512 kB: what it makes of them takes many times their memory
_SAMPLES = 8  # that it gets at once at most: of a few tokens it makes as much as of an image


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
            session = self._session(self.baseline)
            if self.job.metric.against == "reference":
                self._reference[part.name] = outputs_of(session, part)
            self._scores[part.name] = evaluate(self.job.metric, session, part, self._reference.get(part.name))
        return self._scores[part.name]

    def drop(self, path: Path, part: Part) -> tuple[Score, Drop]:
        """A file's score on a part, and how far it is below the original's; the same bytes are run once."""
        with path.open("rb") as file:
            key = (hashlib.file_digest(file, "sha256").hexdigest(), part.name)
        if key not in self._known:
            original = self.original(part)
            self.consulted += part.name == "test"
            score = evaluate(self.job.metric, self._session(path), part, self._reference.get(part.name))
            self._known[key] = (score, paired_drop(original, score))
        return self._known[key]

    def _session(self, path: Path) -> Session:
        trim()  # what it was written from
        target = self.job.target
        opened = getattr(target, "scoring", target.session)
        return piecewise(opened(path, torch.get_num_threads()))


def piecewise(session: Session, values: int = _VALUES) -> Session:
    """The same session, which is handed large samples one by one or a few at a time.

    A runtime holds the activations of all that it is handed at once, and of the largest such for as long as it lives.
    """

    def run(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        samples = {x.shape[0] for x in inputs if x.ndim}
        n = samples.pop() if len(samples) == 1 else 1
        step = min(max(1, values * n // max(sum(x.numel() for x in inputs if x.ndim), 1)), _SAMPLES)
        if step >= n:
            return session(inputs)
        pieces = []
        for start in range(0, n, step):
            made = session([x[start : start + step] if x.ndim else x for x in inputs])
            if any(y.ndim == 0 or y.shape[0] != min(step, n - start) for y in made):
                return session(inputs)  # its outputs do not count samples
            pieces.append(made)
        return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))

    return run


def one_sample(part: Part) -> tuple[Tensor, ...]:
    """Inputs of the first sample: what latency is measured on."""
    return next(part.batches(1)).inputs


def sqnr_db(weight: Tensor, decoded: Tensor) -> float | None:
    """Signal-to-quantization-noise ratio of a weight in decibels; None when it is exact."""
    noise = signal = 0.0
    for rows in stretches(len(weight), weight.numel() // max(len(weight), 1)):
        exact = weight[rows].double()
        noise += float((exact - decoded[rows]).square_().sum())
        signal += float(exact.square().sum())
    return None if noise == 0 or signal == 0 else float(10 * torch.log10(torch.tensor(signal / noise)))
