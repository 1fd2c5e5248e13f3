"""`diagnose`: a float model and what was made of it, side by side; which layer pays, why, and what would mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import Part
from ..data.interval import Drop
from ..data.metrics import Score
from ..report import Progress
from ..targets.calibrate import as_array, chunks, observed
from ..targets.graph import answers, ort_session
from ..verify import Judge
from .blame import Share, Switchboard, blamed
from .measure import NONE, Batches, Noise, decibels, measured
from .mends import InFloat, Mend
from .normal import OUTPUT
from .pair import Pair, open_pair
from .propose import mends_of
from .reasons import Finding, findings
from .restore import restored
from .state import State
from .units import Unit

if TYPE_CHECKING:
    from .repair import Fixed

SAMPLES = 32  # of the calibration part, for the noise of each layer
SWITCHED = 8  # of these, for switching layers one by one
LARGE = 4096  # values of one sample above which a quarter of them will do: a picture has many positions
BROKEN = 20.0  # decibels: a layer whose noise is more than a hundredth of its signal
NOISY = 36.0  # decibels below which a layer's own noise asks for a reason; eight even bits give about 40
TESTED = 5  # layers whose mends are tried out
ENOUGH = 3.0  # decibels that a cheap mend must bring, or a dearer one is named


@dataclass(frozen=True, eq=False)
class LayerNoise:
    """What is known of one layer.

    Args:
        unit: name of its node in the compressed file.
        kind: its operator.
        name: of its weight in the original; the node's where it has none.
        by: how the weight was matched: "name", "order", or "" without one.
        arrives_db: signal to noise at its output, in the file as it is.
        alone_db: the same with nothing but this layer rounded.
        weights_db: the same with nothing but its weights rounded.
        pays: share of the output error that goes when this layer alone is put back to float; None if not tried.
        only_db: signal to noise at the network's outputs with only this layer rounded; None if not tried.
        findings: why, the largest part first.
        mend: the cheapest that helps; None if the layer needs none.
        mended_db: `alone_db` with it, as tried out; None if it was not.
    """

    unit: str
    kind: str
    name: str
    by: str
    arrives_db: float
    alone_db: float
    weights_db: float
    pays: float | None = None
    only_db: float | None = None
    findings: tuple[Finding, ...] = ()
    mend: Mend | None = None
    mended_db: float | None = None

    @property
    def why(self) -> str:
        """The main reason in words."""
        return str(self.findings[0].reason) if self.findings else ""


@dataclass(frozen=True, eq=False)
class Cause:
    """Layers whose noise has the same kind of reason.

    Args:
        reason: the type.
        units: their nodes.
        pays: share of the output error that goes when all of them are put back to float.
        mend: what helps most of them.
    """

    reason: type
    units: tuple[str, ...]
    pays: float
    mend: Mend | None


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What a comparison found.

    Args:
        pair: the two models.
        state: what mends work on.
        layers: in order of execution.
        causes: what the noisy layers have in common, the one that pays most first.
        original, score, drop: on the validation part, measured on the files.
        whole_db: signal to noise at the outputs of the file.
        exact_db: the same with every layer back in float: how much of the difference is rounding at all.
        runs_db: the file as the runtime executes it against the same in float arithmetic.
        samples: of the calibration part, that the layers were compared on.
    """

    pair: Pair
    state: State
    layers: tuple[LayerNoise, ...]
    causes: tuple[Cause, ...]
    original: Score
    score: Score
    drop: Drop
    whole_db: float
    exact_db: float
    runs_db: float
    samples: int
    notes: tuple[str, ...] = ()
    noise: Mapping[str, Noise] = field(default_factory=dict, repr=False)

    @property
    def first_broken(self) -> LayerNoise | None:
        """The first layer whose signal arrives with less than `BROKEN` decibels."""
        return next((x for x in self.layers if x.arrives_db < BROKEN), None)

    def fix(self, path: str | Path, max_drop: Any = None) -> Fixed:
        """Mends the file until it loses at most `max_drop`, measured on the file; see `repair.fix`."""
        from .repair import fix

        return fix(self, path, max_drop)

    def worst(self, count: int = 5) -> list[LayerNoise]:
        """The layers that pay most."""
        return sorted((x for x in self.layers if x.pays is not None), key=lambda x: -(x.pays or 0))[:count]


def diagnose(
    original: Any, compressed: str | Path, data: Any, metric: Any = None, progress: Progress | None = None
) -> Diagnosis:
    """Compares a compressed file with the model it was made of, layer by layer, on calibration data.

    Args:
        original: an `nn.Module`, "file.py:factory", or the path of an .onnx file.
        compressed: an .onnx file (of lessen, ONNX Runtime's quantizer, NNCF, ...), a .lessen file, or a run's folder.
        data: as for `compress`.
        metric: as for `compress`.
        progress: where to tell how far it is.

    Raises:
        LessenError: a file can't be read, the two don't belong together, or the data don't fit.

    The score is measured in ONNX Runtime on the file itself; what single layers do is measured in float arithmetic on
    the same graph, where any of them can be put back to float.
    """
    progress = progress or Progress(quiet=True)
    with progress.stage("load"):
        pair = open_pair(original, compressed, data, metric)
    return examined(pair, progress)


def examined(pair: Pair, progress: Progress) -> Diagnosis:
    """`diagnose` for what is open already."""
    part = pair.job.data.calibration
    state = State.of(pair, inputs_of(part))
    few = inputs_of(some(part, SAMPLES))
    with progress.stage("score"):
        judge = judge_of(pair)
        score, drop = judge.drop(pair.runnable, pair.job.data.validation)
    with progress.stage("layers"):
        noise = measured(state.graph, state.units, state.exact, few)
    with progress.stage("blame"):
        board = Switchboard(state.graph, state.units, state.exact, inputs_of(some(part, SWITCHED)))
        shares = blamed(board, noise)
    with progress.stage("mends"):
        layers = layers_of(pair, state, noise, shares, few)
    exact_db, runs_db, whole_db = _outputs(pair, state, few)
    return Diagnosis(
        pair, state, layers, causes_of(layers, board), judge.original(pair.job.data.validation), score, drop,
        whole_db, exact_db, runs_db, sum(len(b[0]) for b in few), _notes(pair, exact_db, whole_db, runs_db), noise,
    )  # fmt: skip


def some(part: Part, count: int) -> Part:
    """The first samples of a part; fewer where they are large."""
    first = next(part.batches(1)).inputs
    return part.head(count // 4 if sum(x.numel() for x in first) > LARGE else count)


def judge_of(pair: Pair) -> Judge:
    """Scores files of this pair."""
    return Judge(pair.job, pair.original)


def inputs_of(part: Part) -> list[tuple[Any, ...]]:
    """The batches of a part, inputs alone."""
    return [b.inputs for b in part.batches()]


def layers_of(
    pair: Pair, state: State, noise: Mapping[str, Noise], shares: Mapping[str, Share], few: Batches
) -> tuple[LayerNoise, ...]:
    """One row for each unit, the reasons and mends of those that matter."""
    names = {m.unit: m.original.name for m in reversed(pair.matches)}
    by = {m.unit: m.by for m in pair.matches}
    rows = []
    worst = sorted(shares, key=lambda n: -shares[n].pays)[:TESTED]
    for unit in state.units:
        n, share = noise[unit.name], shares.get(unit.name)
        found = findings(unit, n, state) if n.alone_db < NONE else []
        mends = mends_of(unit, n, found, state) if found else []
        mend, db = _cheapest(unit, n, mends, state, few) if unit.name in worst else (mends[0] if mends else None, None)
        label = names.get(unit.name, unit.name.removeprefix(OUTPUT))
        row = LayerNoise(
            unit.name, unit.kind, label, by.get(unit.name, ""), n.arrives_db, n.alone_db,
            n.weights_db, findings=tuple(found), mend=mend, mended_db=db,
        )  # fmt: skip
        rows.append(row if share is None else replace(row, pays=share.pays, only_db=share.only_db))
    return tuple(rows)


def causes_of(layers: Sequence[LayerNoise], board: Switchboard) -> tuple[Cause, ...]:
    """The noisy layers by the kind of their main reason."""
    groups: dict[type, list[LayerNoise]] = {}
    for x in layers:
        if x.findings and x.alone_db < NOISY:
            groups.setdefault(type(x.findings[0].reason), []).append(x)
    found = []
    for reason, members in groups.items():
        units = tuple(x.unit for x in members)
        pays = (board.whole - board.error(units)) / max(board.whole, 1e-30)
        kinds = Counter(type(x.mend) for x in members if x.mend is not None)
        kind = kinds.most_common(1)[0][0] if kinds else None
        mend = next((x.mend for x in members if type(x.mend) is kind), None)
        found.append(Cause(reason, units, pays, mend))
    return tuple(sorted(found, key=lambda c: -c.pays))


def _cheapest(
    unit: Unit, noise: Noise, mends: Sequence[Mend], state: State, few: Batches
) -> tuple[Mend | None, float | None]:
    """The first of the mends, in order of cost, that is worth it: tried out on this layer alone."""
    for mend in mends:
        if isinstance(mend, InFloat):
            return mend, NONE
        tried = mend.apply(state)
        again = [u for u in tried.units if u.name == unit.name]
        if not again:
            return mend, NONE
        db = measured(tried.graph, again, tried.exact, few)[unit.name].alone_db
        if db >= noise.alone_db + ENOUGH:
            return mend, db
    return None, None


def _outputs(pair: Pair, state: State, few: Batches) -> tuple[float, float, float]:
    """Decibels at the outputs: (layers back in float, the file as it runs against float arithmetic, the file)."""
    exact = _ran(restored(state.graph, state.units, state.exact), few)
    wanted, simulated = _ran(pair.float_graph, few), _ran(state.graph, few)
    got = _session(pair.runnable, few)
    return _gap(wanted, exact), _gap(simulated, got), _gap(wanted, got)


def output_db(pair: Pair, path: Path, few: Batches) -> float:
    """Signal to noise at the outputs of a file, as it runs."""
    return _gap(_ran(pair.float_graph, few), _session(path, few))


Answers = list[list[np.ndarray]]


def _ran(model: Any, few: Batches) -> Answers:
    names = [str(o.name) for o in model.graph.outputs]
    return [[seen[n] for n in names] for seen in observed(model, names, few)]


def _session(path: Path, few: Batches) -> Answers:
    session = ort_session(str(path), intra_op_num_threads=1)
    first = session.get_inputs()[0].shape
    fixed = first[0] if first and isinstance(first[0], int) else None
    arrays = ([as_array(x) for x in b] for b in few)
    return [answers(session, c) for c in chunks(arrays, fixed)]


def _gap(wanted: Answers, got: Answers) -> float:
    signal = noise = 0.0
    for a, b in zip(wanted, got, strict=True):
        for x, y in zip(a, b, strict=True):
            if x.dtype.kind == "f":
                scale = max(float((x.astype(np.float64) ** 2).sum()), 1e-30)
                signal, noise = signal + 1, noise + float(((x.astype(np.float64) - y) ** 2).sum()) / scale
    return decibels(signal, noise)


def _notes(pair: Pair, exact_db: float, whole_db: float, runs_db: float) -> tuple[str, ...]:
    notes = []
    if pair.unmatched:
        shown = f"{', '.join(pair.unmatched[:3])} and {len(pair.unmatched) - 3} more"
        shown = shown if len(pair.unmatched) > 3 else ", ".join(pair.unmatched)
        notes.append(f"no counterpart in the original for the weights of {shown}: they count as right")
    ordered = [m.unit for m in pair.matches if m.by == "order"]
    if ordered:
        notes.append(f"{len(ordered)} of {len(pair.matches)} weights matched by their order, not by name")
    if exact_db < 40 and exact_db < whole_db + 20:
        changed = "something else than rounding was changed too"
        notes.append(
            f"with every layer back in float it still differs from the original ({exact_db:.0f} dB): {changed}"
        )
    if runs_db < min(30.0, whole_db + 10):
        notes.append(
            f"ONNX Runtime's integer kernels differ from the same file in float arithmetic ({runs_db:.0f} dB): "
            "sums overflow on this processor; weights of 7 bits would not"
        )
    return tuple(notes)
