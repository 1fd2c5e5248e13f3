"""How quantization-aware training goes through its lesson: in another order each time, the teacher asked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.utils.parametrize as parametrize
from torch import Tensor, nn

from ..data import Batch
from .distill import first
from .method import Lesson
from .samples import shuffled

_MOST = 1 << 26  # numbers that the teacher's answers may take; where they are more it is asked again


class Once(nn.Module):
    """The network's main output, every weight quantized once in a pass, however often a cell or a layer reads it.

    Under `torch.autocast` the output is in float32 all the same: losses are small differences.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.channels_last = any(isinstance(m, nn.Conv2d) for m in network.modules())  # faster on every CPU

    def forward(self, *inputs: Tensor) -> Tensor:
        with parametrize.cached():
            output = first(self._passed(inputs))
        return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output

    def _passed(self, inputs: tuple[Tensor, ...]) -> Any:
        if self.channels_last:
            try:
                return self.network(*map(_channels_last, inputs))
            except RuntimeError:  # it views its activations as if they lay otherwise
                self.channels_last = False
        return self.network(*inputs)


def _channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x


class Taught(nn.Module):
    """A lesson's samples in another random order in each epoch, and the teacher, who tells what it said before.

    As a module it gives the teacher's output for the batch that `batches` gave last.

    Args:
        epochs: with one there is nothing to be remembered.
        before: called before each epoch.
    """

    def __init__(self, lesson: Lesson, epochs: int, before: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.before = before
        self.part, self.n, self.teacher = lesson.part, lesson.part.n, lesson.teacher
        self.generator = torch.Generator().manual_seed(lesson.seed)
        self.now: Tensor | None = None
        self.answers = self._answers() if epochs > 1 else None

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        size = batch_size or self.part.batch_size
        self.before()
        if self.answers is None:
            yield from shuffled(self.part, size, self.generator)
            return
        blocks = (b.with_input(a) for b, a in zip(self.part.blocks, self.answers, strict=True))
        for batch in shuffled(replace(self.part, blocks=tuple(blocks), finish=None), size, self.generator):
            *inputs, self.now = batch.inputs
            finish = self.part.finish
            yield replace(batch, inputs=tuple(inputs) if finish is None else finish(tuple(inputs)))

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return first(self.teacher(*inputs)) if self.now is None else self.now

    def _answers(self) -> list[Tensor] | None:
        """For each block, [its samples, ...]; None where they are too many or do not go with the samples."""
        found: list[Tensor] = []
        for block in self.part.blocks:
            told: list[Tensor] = []
            for batch in replace(self.part, blocks=(block,)).batches():
                told.append(self(*batch.inputs))
                numbers = math.prod(told[-1].shape[1:]) * self.n
                if told[-1].ndim == 0 or len(told[-1]) != batch.n or batch.whole or numbers > _MOST:
                    return None
            found.append(torch.cat(told))
        return found
