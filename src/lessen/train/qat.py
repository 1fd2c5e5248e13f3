"""What the methods of quantization-aware training share: settings, the start, the way from these to a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from torch import nn

from ..errors import LessenError
from ..quantize import HalfSteps, Uniform
from .loop import FineTune, finetune
from .method import Lesson, Trained
from .qat_inputs import InputRange, freeze_inputs, input_ranges, put_inputs
from .qat_kept import Kept, set_aside
from .qat_lesson import Once, Taught
from .qat_quantizer import Slope
from .qat_start import SAMPLES, Start, rounded
from .qat_weights import through_grids

_STEPS = 600  # that coarse grids take at least; with 150 a few hundred samples are half learned


@dataclass(frozen=True, eq=False)
class Quantized(Trained):
    """What quantization-aware training leaves: the codings, and the ranges of the activations.

    Args:
        inputs: range of each layer's quantized input, by layer name.
    """

    inputs: Mapping[str, InputRange] = field(default_factory=dict)


@dataclass(frozen=True)
class QuantizationAware:
    """Settings of every method that trains a network which computes with quantized weights and activations.

    Args:
        bits: of the weights, 2 to 8.
        activations: bits of each layer's input, 2 to 8; None leaves them in float. Below 8 they are simulated: the
            network computes what integers would, but no runtime here has such kernels.
        per: one step for each output "channel", or for the whole "tensor".
        epochs: passes over the training data; 0 gives the post-training result that training starts from. None: 2, and
            for coarse grids (weights below 4 bits, activations of 4 and fewer) as many more as make 600 steps.
        lr: peak learning rate of Adam; it rises over the first tenth and falls to 0 along a cosine. None: 0.002 for
            coarse grids, 0.0005 elsewhere, where the start is already close.
        batch_size: samples per step.
    """

    folds: ClassVar[bool] = True  # batch norms are folded before, and so frozen

    bits: int = 8
    activations: int | None = 8
    per: str = "channel"
    epochs: int | None = None
    lr: float | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not (_is_bits(self.bits) and (self.activations is None or _is_bits(self.activations))):
            raise LessenError(f"bits={self.bits!r}, activations={self.activations!r}", where=type(self).__name__,
                              mend="give 2 to 8 bits; activations may be None")  # fmt: skip
        if self.per not in ("channel", "tensor"):
            raise LessenError(f"per={self.per!r}", where=type(self).__name__, mend='give "channel" or "tensor"')
        _ = self.settings

    @property
    def coarse(self) -> bool:
        """Whether the grids are so coarse that the start is far from where training leads."""
        return self.bits < 4 or (self.activations or 8) <= 4

    @property
    def settings(self) -> FineTune:
        lr = self.lr if self.lr is not None else 2e-3 if self.coarse else 5e-4
        return FineTune(2 if self.epochs is None else self.epochs or 1, lr, self.batch_size)

    def passes(self, n: int) -> int:
        """Epochs over so many training samples."""
        if self.epochs is not None:
            return self.epochs
        return max(2, math.ceil(_STEPS / math.ceil(n / self.batch_size))) if self.coarse else 2

    def steps(self, n: int) -> int:
        """Optimizer steps over so many training samples."""
        return self.passes(n) * math.ceil(n / self.batch_size)

    @property
    def grid(self) -> Uniform | HalfSteps:
        """How weights are rounded first. -2..1 is lopsided: with 2 bits each step has a zero of its own."""
        return Uniform(self.bits, self.per) if self.bits > 2 else HalfSteps(self.bits, self.per)

    @property
    def slopes(self) -> tuple[Slope | None, Slope | None]:
        """How the steps of weights and of activations learn; None leaves them as they are."""
        raise NotImplementedError

    def fit(self, student: nn.Module, lesson: Lesson) -> Quantized:
        """Quantizes `student` in place and trains it; afterwards fake quantizers stand before its layers.

        Its weights decode from the codings returned, to the bit. Layers whose input can't be reached, and embeddings,
        have quantized weights and float inputs; `notes` names the former. What is returned is also the student's
        attribute `quantized`, of which `write_integers` makes a file. That gives what the student gives, but for two
        roundings that only the file has: of what a layer without weights reads, like a pool, where the runtime
        computes it in integers; and of biases, to multiples of (step of the input) x (step of the weight).
        """
        start = rounded(student, lesson.layers, lesson.part, self.grid)
        return self.fit_from(start if self.activations else replace(start, inputs=()), student, lesson)

    def fit_from(self, start: Start, student: nn.Module, lesson: Lesson) -> Quantized:
        """`fit` for a network that is coded already, whatever its codings; `bits` and `per` don't matter then.

        Before the first epoch and after each one the student is judged on `lesson.check` (every tenth to fifth sample
        where that is None, which then no step trains on). The end is what is left, unless an earlier state was better
        on these samples by more than chance; the start stays where no state is surely better (`qat_kept`).
        """
        weights, inputs = self.slopes
        for module in student.modules():
            module.training = False  # a network that torch.export made refuses eval()
        asked, part = [start.layers[n] for n in start.inputs], lesson.part.head(SAMPLES)
        quantizers, why = put_inputs(student, asked, self.activations or 8, inputs, part.batches())
        losses: list[float] = []
        notes = tuple(f"{n}: {reason}" for n, reason in why.items())
        with through_grids(student, start.layers, start.codings, weights, start.pruned, start.scales) as codings:
            if self.epochs != 0:
                losses, kept = self._trained(Once(student), set_aside(lesson))
                notes += kept
        ranges = input_ranges(quantizers)
        freeze_inputs(student)
        told = Quantized(tuple(losses), codings=dict(codings), notes=notes, inputs=ranges)
        student.quantized = told  # type: ignore[assignment]
        return told

    def _trained(self, student: Once, lesson: Lesson) -> tuple[list[float], tuple[str, ...]]:
        """The loss of every step, and what to tell of the end; the student holds the state that is kept."""
        kept = Kept(student, lesson)
        epochs = self.passes(lesson.part.n)
        taught = Taught(lesson, epochs, kept.look)
        settings = replace(self.settings, epochs=epochs, distillation=lesson.distillation)
        losses = finetune(student, taught, taught, settings, lesson.step)
        kept.look()
        kept.restore()
        return losses, kept.told

    @classmethod
    def offers(cls) -> tuple[Self, ...]:
        """Integers that both runtimes execute, the mildest first."""
        return (cls(bits=8, activations=8), cls(bits=4, activations=8))


def _is_bits(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 2 <= value <= 8
