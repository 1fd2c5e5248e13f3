"""Remove units for good, and prove it before handing the result over."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lessen.errors import LessenError
from lessen.models.groups.grouping import Grouping, find_groups
from lessen.models.groups.trace import Inputs, call, plain_eval, tensors
from lessen.models.surgery.attributes import ambiguous, generic_settings, standard_settings
from lessen.models.surgery.cut import Cut, Removals, edits_of
from lessen.models.surgery.edits import Edit, Setting, apply_settings, slice_tensors
from lessen.models.surgery.graph import rewritten
from lessen.models.surgery.oracle import disagreement, distance, masked_outputs

_DOUBLE_UP_TO = 60_000_000  # values; larger networks are compared in their own precision


class Unprovable(LessenError):
    """No way of editing the network gives what the masked original gives."""


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A network with units removed.

    Attributes:
        model: the edited copy.
        edits: what was done, to be done again by `apply_edits` (which refuses form "graph", and says why).
        form: "module": still the original class; "graph": an exported graph, because the class's own code has sizes
            in it that could not be put right.
        why_graph: what was wrong with the original class, for form "graph".
    """

    model: nn.Module
    edits: tuple[Edit | Setting, ...]
    form: str
    why_graph: str = ""


def shrink(model: nn.Module, removals: Removals, example_inputs: Inputs, grouping: Grouping | None = None) -> nn.Module:
    """A copy of `model` without these units; see `shrink_with_edits`."""
    return shrink_with_edits(model, removals, example_inputs, grouping).model


def shrink_with_edits(
    model: nn.Module, removals: Removals, example_inputs: Inputs, grouping: Grouping | None = None
) -> Shrunk:
    """Remove units of groups, and check the result against the masked original.

    Args:
        model: any network; never touched.
        removals: name of a group → units to remove.
        example_inputs: as for `find_groups`.
        grouping: what `find_groups` said of this model, if it has been asked already.

    Raises:
        LessenError: unknown group, no unit left, or weights that are not finite: nothing could be proved with them.
        Unprovable: no way to edit the network gives what the masked one gives.
    """
    _check_finite(model)
    grouping = grouping or find_groups(model, example_inputs)
    edits = edits_of(grouping, removals)
    if not edits:
        return Shrunk(copy.deepcopy(model), (), "module")
    cut = Cut(grouping.flow, edits)
    judge = _Judge(model, example_inputs, cut)
    complaint = ""
    for attempt in _attempts(model, cut):
        candidate = _tried(attempt)
        wrong = judge(candidate[0]) if isinstance(candidate, tuple) else candidate
        if not wrong and isinstance(candidate, tuple):
            return Shrunk(candidate[0], candidate[1], "module")
        complaint = complaint or wrong
    return _as_graph(model, example_inputs, cut, judge, (complaint, ", ".join(removals)))


def _check_finite(model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if p.is_floating_point() and not bool(torch.isfinite(p).all()):
            raise LessenError(
                "it holds values that are not finite", where=name, mend="repair the weights before anything is removed"
            )


def shrink_what_works(
    model: nn.Module, removals: Removals, example_inputs: Inputs, grouping: Grouping | None = None
) -> tuple[Shrunk, dict[str, str]]:
    """As `shrink_with_edits`, but groups that can't be removed from are left alone.

    Returns:
        The result, and for each group left alone the reason.
    """
    grouping = grouping or find_groups(model, example_inputs)
    with contextlib.suppress(Unprovable):
        return shrink_with_edits(model, removals, example_inputs, grouping), {}
    good: dict[str, torch.Tensor | Sequence[int]] = {}
    refused: dict[str, str] = {}
    for name, units in removals.items():
        try:
            shrink_with_edits(model, {**good, name: units}, example_inputs, grouping)
            good[name] = units
        except Unprovable as error:
            refused[name] = error.what
    return shrink_with_edits(model, good, example_inputs, grouping), refused


Attempt = Callable[[], tuple[nn.Module, tuple[Edit | Setting, ...]]]


def _attempts(model: nn.Module, cut: Cut) -> Iterator[Attempt]:
    """In order of daring: the layers' own attributes, then other numbers of the module, then of its parents."""
    doubtful = ambiguous(model, cut)
    tries = [
        (0, ()),
        (0, tuple(doubtful)),
        *((0, (name,)) for name in doubtful[:6]),
        (1, ()),
        (3, ()),
        (3, tuple(doubtful)),
    ]
    for reach, bold in dict.fromkeys(tries):

        def attempt(reach: int = reach, bold: tuple[str, ...] = bold) -> tuple[nn.Module, tuple[Edit | Setting, ...]]:
            edited = copy.deepcopy(model)
            slice_tensors(edited, cut.edits)
            settings = (*standard_settings(edited, cut), *generic_settings(edited, cut, reach, bold))
            apply_settings(edited, settings)
            return edited, (*cut.edits, *settings)

        yield attempt


def _tried(attempt: Attempt) -> tuple[nn.Module, tuple[Edit | Setting, ...]] | str:
    try:
        return attempt()
    except Exception as error:  # any module may object to an attribute in its own way
        return f"{type(error).__name__}: {error}"


class _Judge:
    """Compares candidates with the masked original: in double precision where the network can, else in its own."""

    def __init__(self, model: nn.Module, inputs: Inputs, cut: Cut) -> None:
        self.inputs, self.doubles = inputs, None
        self.expected, _ = masked_outputs(model, inputs, cut)
        self.noise = 1e-5  # relative; where both precisions are known, what rounding really does here
        if sum(p.numel() for p in model.parameters()) <= _DOUBLE_UP_TO:
            with contextlib.suppress(Exception):  # code that insists on single precision
                doubles, mixed = masked_outputs(copy.deepcopy(model).double(), _double(inputs), cut)
                recomputed = any(".parametrizations." in e.path for e in cut.edits)  # in single precision
                self.noise = max(1e-6, 10 * distance(self.expected, doubles))
                self.doubles, self.fine = doubles, self.noise if mixed or recomputed else 1e-8

    def __call__(self, candidate: nn.Module) -> str:
        """What is wrong with it, or an empty string."""
        try:
            if self.doubles is not None:
                wrong = self._compare(copy.deepcopy(candidate).double(), _double(self.inputs), self.doubles, self.fine)
                if wrong:
                    return wrong
            return self.single(candidate)
        except Exception as error:  # whatever the edited network's own code raises
            return f"{type(error).__name__}: {error}"

    def single(self, candidate: nn.Module) -> str:
        """In the network's own precision only: exported graphs have it written in."""
        return self._compare(candidate, self.inputs, self.expected, self.noise)

    @staticmethod
    def _compare(candidate: nn.Module, inputs: Inputs, expected: list[Tensor], tolerance: float) -> str:
        with plain_eval(candidate):
            return disagreement(tensors(call(candidate, inputs)), expected, tolerance)


def _double(inputs: Inputs) -> Inputs:
    def change(value: object) -> object:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    return torch.utils._pytree.tree_map(change, inputs)


def _as_graph(model: nn.Module, inputs: Inputs, cut: Cut, judge: _Judge, why: tuple[str, str]) -> Shrunk:
    complaint, names = why
    mend = "leave these groups out, or declare what couples them with couple()"
    if getattr(model, "has_branches", False):
        lost = "an exported graph would keep only the branch that these inputs take"
        raise Unprovable(f"can't remove units ({complaint}); {lost}", where=names, mend="leave these groups out")
    try:
        candidate = rewritten(copy.deepcopy(model), inputs, cut.edits, cut.flow)
    except Exception as error:  # the exporter raises whatever it likes
        raise Unprovable(f"can't remove units ({complaint}); as a graph: {error}", where=names, mend=mend) from error
    try:
        wrong = judge.single(candidate)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        raise Unprovable(f"can't remove units ({complaint}); as a graph: {wrong}", where=names, mend=mend)
    return Shrunk(candidate, (*cut.edits, Setting("", "graph", 1)), "graph", complaint)
