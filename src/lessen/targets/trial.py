"""Ranges picked by trial: each rule's are put into the graph, its weights still float, and the outputs compared."""

from __future__ import annotations

import hashlib
import itertools
import logging
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch

from .calibrate import calibrated, chunks, fixed_batch, maker
from .clipping import live_noise, noise
from .coded import INTEGERS, Coded, Execution
from .dynamic import live_inputs
from .graph import Array, answers, session_on
from .locate import Site, locate_all
from .placement import Rules, place
from .qdq import activations, quantized
from .ranges import Histogram, Importance, Range, Rule

log = logging.getLogger("lessen")
TRIED: tuple[Rule, ...] = ("mse", "weighted", "minmax")
LIVE_GAIN = 4.0  # times less noise, before a range that is found in every batch is worth depending on it
Inputs = TypeVar("Inputs", bound=Sequence[Any])  # of a few samples
Answers = list[list[Array]]  # of each part of a few samples, each output
SAMPLES = 16  # that the trials run


def ranges(
    model: ir.Model, coded: Coded, batches: Iterable[Sequence[Any]], rules: Rules, rule: Rule | None
) -> dict[str, Range]:
    """Ranges of all activations that `quantized` will put a pair on.

    Args:
        model: the float graph, low-rank layers already in two.
        rule: how to find them; None tries several and takes the one whose graph answers most like the float one.
    """
    tensors = activations(model, coded, rules).tensors
    if not tensors:
        return {}
    parts = chunks(batches, None)
    head = first(parts)
    seen = calibrated(model, tensors, itertools.chain(head, parts), importances(model, coded)).found
    _warn(model, seen)
    live = live_tensors(model, coded, rules)
    if rule is not None:
        return _ranges(seen, rule, live)
    return _best(model, coded, rules, seen, live, head)


def first(parts: Iterable[Inputs], most: int = SAMPLES) -> list[Inputs]:
    """The parts that the trials run: so many samples, or all if there are fewer."""
    head: list[Inputs] = []
    samples = 0
    for part in parts:
        head.append(part)
        samples += len(part[0])
        if samples >= most:
            break
    return head


def live_tensors(model: ir.Model, coded: Coded, rules: Rules) -> set[str]:
    """Inputs of linear layers whose range the runtime can find anew in every batch."""
    if not rules.live:
        return set()
    integer = {n: s for n, s in locate_all(model, coded.layers).items() if coded.how(s) == "int8"}
    return live_inputs(place(model, list(integer.values()), rules), integer)


def _ranges(seen: Mapping[str, Histogram], rule: Rule, live: set[str]) -> dict[str, Range]:
    """One rule's; live where no fixed range comes near.

    Against the fixed range of least noise, not the rule's own: one that clips what hardly matters is noisy on purpose,
    and to let a batch's extremes set the step brings back what it left out. Where smoothing made channels a thousand
    times larger that were silent on the calibration data, such extremes took the whole range (Whisper: 17 points).
    """
    found = {name: h.range(rule) for name, h in seen.items()}
    gains = {n for n in live if not found[n].empty and _least_noise(seen[n]) > LIVE_GAIN * live_noise(seen[n])}
    return {name: replace(r, live=name in gains) for name, r in found.items()}


def _least_noise(histogram: Histogram) -> float:
    """Of all fixed ranges."""
    return noise(histogram, histogram.range("mse"))


def _warn(model: ir.Model, seen: Mapping[str, Histogram]) -> None:
    """Says which activations calibration can't tell the range of; they stay in float."""
    for name, h in seen.items():
        if h.range("minmax").empty:
            log.warning(
                "%s (made by %s) was 0 on all calibration samples: what reads it stays in float; "
                "give samples that reach it", name, maker(model, name),
            )  # fmt: skip


def _best(
    model: ir.Model, coded: Coded, rules: Rules, seen: Mapping[str, Histogram], live: set[str],
    head: Sequence[tuple[Array, ...]],
) -> dict[str, Range]:  # fmt: skip
    trials, tried = _trials(model, head), dict[Rule, tuple[float, dict[str, Range]]]()
    for rule in TRIED:
        found = _ranges(seen, rule, live)
        tried[rule] = (trials.error(model, coded, found, rules, head), found)
    best = min(tried, key=lambda r: tried[r][0])
    log.info("ranges by %s: %s", best, {r: f"{e:.3g}" for r, (e, _) in tried.items()})
    return tried[best][1]


def disturbance(
    model: ir.Model, coded: Coded, found: Mapping[str, Range], rules: Rules, batches: Iterable[Sequence[Any]]
) -> float:
    """Squared error of the outputs by their squared size when activations are rounded to these ranges, weights not."""
    head = first(chunks(batches, None))
    return _trials(model, head).error(model, coded, found, rules, head)


def answers_rounded(
    model: ir.Model, coded: Coded, found: Mapping[str, Range], rules: Rules, batches: Iterable[Sequence[Any]],
    samples: int = SAMPLES,
) -> Iterator[tuple[str, Answers, Answers]]:  # fmt: skip
    """(layer, outputs of the float graph, outputs with only its activations rounded) of each integer layer in `coded`.

    With those, what its place in the graph asks for is rounded: the sum that it is added to, the pool behind it.
    """
    head = first(chunks(batches, None), samples)
    wanted, bare = _trials(model, head).wanted, _bare(model, coded)
    for name, how in [(n, how) for n, how in bare.execution.items() if how in INTEGERS]:
        alone: dict[str, Execution] = {x.name: how if x.name == name else "float" for x in bare.layers}
        yield name, wanted, _outputs(quantized(model, replace(bare, execution=alone), found, rules), head)


@dataclass(frozen=True, eq=False)
class _Trials:
    """What a float graph answers to a few samples, and how far off it is with pairs put in: each is found once."""

    wanted: Answers
    errors: dict[Any, float] = field(default_factory=dict)

    def error(
        self, model: ir.Model, coded: Coded, found: Mapping[str, Range], rules: Rules, head: Sequence[tuple[Array, ...]]
    ) -> float:
        """Of the graph with its activations rounded to these ranges, its weights not."""
        bare = _bare(model, coded)
        key = (rules, frozenset(bare.execution.items()), frozenset(found.items()))
        if key not in self.errors:
            self.errors[key] = _error(self.wanted, _outputs(quantized(model, bare, found, rules), head))
        return self.errors[key]


def _trials(model: ir.Model, head: Sequence[tuple[Array, ...]]) -> _Trials:
    """Those of this very graph on samples of these values; they go with the graph."""
    asked, key = _asked.setdefault(model, {}), _digest(head)
    if key not in asked:
        asked[key] = _Trials(_outputs(model, head))
    return asked[key]


_asked: weakref.WeakKeyDictionary[ir.Model, dict[bytes, _Trials]] = weakref.WeakKeyDictionary()


def _digest(head: Sequence[tuple[Array, ...]]) -> bytes:
    h = hashlib.blake2b(digest_size=16)
    for array in itertools.chain.from_iterable(head):
        h.update(f"{array.dtype}{array.shape}".encode())
        h.update(array.tobytes())
    return h.digest()


def _bare(model: ir.Model, coded: Coded) -> Coded:
    """The same layers in integers, their weights as they are."""
    how = {name: coded.how(site) for name, site in locate_all(model, coded.layers).items()}  # that of its coding
    return Coded(coded.layers, {}, {x.name: how.get(x.name, "float") for x in coded.layers})


def _outputs(model: ir.Model, head: Sequence[tuple[Array, ...]]) -> Answers:
    session = session_on(model, intra_op_num_threads=torch.get_num_threads())
    return [answers(session, part) for part in chunks(head, fixed_batch(session))]


def _error(wanted: Answers, got: Answers) -> float:
    """How far two sets of answers lie apart, mean over samples and over the outputs."""
    pairs = [p for mine, other in zip(wanted, got, strict=True) for p in zip(mine, other, strict=True)]
    return float(np.mean([_apart(a, b) for a, b in pairs])) if pairs else 0.0


def _apart(wanted: Array, got: Array) -> float:
    """Squared error by squared size, mean over the samples; of anything but floats the share that differs."""
    if wanted.dtype.kind != "f":
        return float(np.mean(wanted != got))
    a, b = (x.astype(np.float64).reshape(len(x) if x.ndim else 1, -1) for x in (wanted, got))
    return float((np.square(a - b).sum(1) / np.maximum(np.square(a).sum(1), 1e-30)).mean())


def importances(model: ir.Model, coded: Coded) -> dict[str, Importance]:
    """How much the channels of what layers read matter: sum_r G_r w_rc^2 over all layers that read the tensor."""
    found: dict[str, Array] = {}
    axes: dict[str, int] = {}
    for site in locate_all(model, coded.layers).values():
        if site.layer.kind not in ("conv", "linear") or not site.uses:
            continue
        channels = _channels(site, coded)
        for node, _ in site.uses:
            x = node.inputs[0]
            if x is not None and x.name and len(found.get(x.name, channels)) == len(channels):
                found[x.name] = found.get(x.name, 0.0) + channels
                axes[x.name] = 1 if site.layer.kind == "conv" else -1
    return {n: Importance(axes[n], c / c.mean()) for n, c in found.items() if c.mean() > 0 and np.isfinite(c).all()}


def _channels(site: Site, coded: Coded) -> Array:
    layer = site.layer
    squares = layer.matrix.double().square()
    if (G := coded.fisher.get(layer.name)) is not None:
        squares = squares * G.double()[:, None]
    kernel = layer.weight[0, 0].numel() if layer.kind == "conv" else 1
    grouped = squares.reshape(layer.groups, -1, squares.shape[1]).sum(1)
    return grouped.reshape(-1, kernel).sum(1).numpy()
