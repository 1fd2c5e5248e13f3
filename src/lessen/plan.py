"""`Plan`: what is done to each layer and group. YAML that can be read, edited, diffed and replayed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from . import techniques
from .errors import LessenError, did_you_mean
from .quantize import AWQ, Dynamic
from .refold import REFOLDS, Rotate
from .stack import Stack
from .technique import Technique, describe
from .train import Training

VERSION = 1
ROUNDED = (None, 8, 16, "static", "dynamic", "token")
_LIMIT = 64 * 2**20  # bytes of a plan file; a plan of ten thousand layers takes about 1 MB


@dataclass(frozen=True)
class Treatment:
    """What is done to one layer.

    Args:
        technique: how its weight is held; None keeps it as it is.
        activations: how its inputs are rounded to 8 bits, so that it runs on integers; None leaves them in float. 8: to
            ranges that calibration found, fixed or (ONNX Runtime, where a fixed one is far noisier) of every batch;
            "static": always fixed; "dynamic": of every batch; "token": of every row, linear layers only, as "dynamic".
    """

    technique: Technique | None = None
    activations: int | str | None = None

    @classmethod
    def of(cls, technique: Technique) -> Treatment:
        """What a technique asks for: `Dynamic`, alone or as the last step of a stack, says how inputs are rounded."""
        if isinstance(technique, Dynamic):
            return cls(technique.weights, technique.activations)
        if isinstance(technique, Stack) and isinstance(last := technique.steps[-1], Dynamic):
            return cls(replace(technique, steps=(*technique.steps[:-1], last.weights)), last.activations)
        return cls(technique)

    @property
    def at_run_time(self) -> bool:
        """Whether the range of the activations is found while the network runs."""
        return self.activations in ("dynamic", "token")

    def describe(self) -> dict[str, Any]:
        values = describe(self.technique) if self.technique else {"technique": "keep"}
        return values | ({"activations": self.activations} if self.activations else {})


@dataclass(frozen=True)
class Plan:
    """One treatment per layer, the units removed from each group, and all that is needed to do it again.

    Args:
        target: where the result will run.
        layers: name of the weight -> treatment.
        channels: name of the group -> units that are removed.
        seed: seed of every private generator.
        model, data: digests of what the plan was made for.
        in_turn: each layer is coded for what the layers coded before it hand it (`realize_in_turn`).
        recover: settings of the fine-tuning, empty for none.
        tuned_widths: the narrower network was fine-tuned before it was coded; needs the same training data again.
        trained: how the network was trained before anything else; needs the same training data again.
        refold: `AWQ` or `Rotate`: the weights are others before anything is coded, what is computed is not.
        smooth: strength of smoothing before anything is coded (`SmoothQuant`); None for none.
    """

    target: str
    layers: Mapping[str, Treatment] = field(default_factory=dict)
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    model: str = ""
    data: str = ""
    recover: Mapping[str, Any] = field(default_factory=dict)
    smooth: float | None = None
    tuned_widths: bool = False
    trained: Training | None = None
    in_turn: bool = False
    refold: AWQ | Rotate | None = None

    def to_yaml(self) -> str:
        """The plan as text; equal plans give equal text."""
        values: dict[str, Any] = {"lessen": VERSION, "target": self.target, "seed": self.seed}
        values |= {k: v for k, v in (("model", self.model), ("data", self.data)) if v}
        if self.in_turn:
            values["in_turn"] = True
        if self.recover:
            values["recover"] = dict(self.recover)
        if self.refold is not None:
            values["refold"] = describe(self.refold)
        if self.smooth is not None:
            values["smooth"] = self.smooth
        if self.trained is not None:
            values["trained"] = describe(self.trained)
        if self.tuned_widths:
            values["tuned_widths"] = True
        if self.channels:
            values["channels"] = {k: _ranges(v) for k, v in self.channels.items()}
        values["layers"] = {k: t.describe() for k, t in self.layers.items()}
        return yaml.dump(values, sort_keys=False, default_flow_style=None, width=10**6, allow_unicode=True)

    def sha256(self) -> str:
        """Digest of the canonical text."""
        return hashlib.sha256(self.to_yaml().encode()).hexdigest()

    @classmethod
    def from_yaml(cls, text: str, where: str = "plan") -> Plan:
        """Reads a plan; an error names the line that is wrong."""
        values, lines = _parse(text, where)
        known = {"lessen", "target", "seed", "model", "data", "in_turn", "recover", "refold", "smooth", "trained",
                 "tuned_widths", "channels", "layers"}  # fmt: skip
        for key in values:
            if key not in known:
                raise LessenError(
                    f"unknown key {key!r}", where=_at(where, lines, key), mend=did_you_mean(str(key), known)
                )
        if values.get("lessen") != VERSION:
            raise LessenError(
                f"this is plan version {values.get('lessen')!r}; version {VERSION} is understood",
                where=_at(where, lines, "lessen"),
            )
        layers, channels = (_mapping(values, key, where, lines) for key in ("layers", "channels"))
        return cls(
            target=_text(values, "target", where, lines),
            layers={k: _treatment(v, _at(where, lines, "layers", k)) for k, v in layers.items()},
            channels={k: _units(v, _at(where, lines, "channels", k)) for k, v in channels.items()},
            seed=_integer(values, where, lines),
            model=str(values.get("model", "")),
            data=str(values.get("data", "")),
            recover=_mapping(values, "recover", where, lines),
            tuned_widths=values.get("tuned_widths") is True,
            smooth=_strength(values, where, lines),
            trained=_training(values.get("trained"), _at(where, lines, "trained")),
            in_turn=_flag(values, "in_turn", where, lines),
            refold=_refold(values.get("refold"), _at(where, lines, "refold")),
        )

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Reads `plan.yaml`."""
        path = Path(path)
        if not path.is_file():
            raise LessenError("no such plan", where=str(path), mend="compress writes one to DIR/plan.yaml")
        if path.stat().st_size > _LIMIT:
            raise LessenError(f"{path.stat().st_size} bytes are too many for a plan", where=str(path))
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise LessenError("this is not text", where=str(path)) from error
        return cls.from_yaml(text, str(path))


def _parse(text: str, where: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise LessenError(f"is not YAML: {getattr(error, 'problem', error)}", where=where + line) from error
    if not isinstance(values, dict):
        raise LessenError(
            "is not a plan: no keys", where=where, mend="see docs/architecture.md, or a plan that compress wrote"
        )
    return values, _lines(node)


def _lines(node: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    found = {}
    if isinstance(node, yaml.MappingNode) and len(path) < 3:
        for key, value in node.value:
            here = (*path, str(key.value))
            found[here] = key.start_mark.line + 1
            found |= _lines(value, here)
    return found


def _at(where: str, lines: dict[tuple[str, ...], int], *path: str) -> str:
    return f"{where}, line {lines[path]}" if path in lines else where


def _mapping(values: dict[str, Any], key: str, where: str, lines: dict[tuple[str, ...], int]) -> dict[str, Any]:
    value = values.get(key) or {}
    if not isinstance(value, dict):
        raise LessenError(f"{key} must be a mapping", where=_at(where, lines, key))
    return {str(k): v for k, v in value.items()}


def _text(values: dict[str, Any], key: str, where: str, lines: dict[tuple[str, ...], int]) -> str:
    if not isinstance(values.get(key), str):
        raise LessenError(f"{key} must be a name, not {values.get(key)!r}", where=_at(where, lines, key))
    return str(values[key])


def _integer(values: dict[str, Any], where: str, lines: dict[tuple[str, ...], int]) -> int:
    seed = values.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise LessenError(f"seed must be a whole number from 0 up, not {seed!r}", where=_at(where, lines, "seed"))
    return seed


def _flag(values: dict[str, Any], key: str, where: str, lines: dict[tuple[str, ...], int]) -> bool:
    value = values.get(key, False)
    if not isinstance(value, bool):
        raise LessenError(f"{key} must be true or false, not {value!r}", where=_at(where, lines, key))
    return value


def _strength(values: dict[str, Any], where: str, lines: dict[tuple[str, ...], int]) -> float | None:
    smooth = values.get("smooth")
    if smooth is None:
        return None
    if not isinstance(smooth, (int, float)) or isinstance(smooth, bool) or not 0 <= smooth <= 1:
        raise LessenError(f"smooth must be a number from 0 to 1, not {smooth!r}", where=_at(where, lines, "smooth"))
    return float(smooth)


def _treatment(value: Any, where: str) -> Treatment:
    if not isinstance(value, dict) or "technique" not in value:
        raise LessenError(f"a layer's treatment must name its technique, not {value!r}", where=where)
    options = dict(value)
    activations = options.pop("activations", None)
    if isinstance(activations, bool) or activations not in ROUNDED:
        raise LessenError(
            f"activations of {activations!r} can't be executed", where=where,
            mend="8, static, dynamic or token; or leave it out",
        )  # fmt: skip
    technique = None if options == {"technique": "keep"} else techniques.build(options, where)
    own = Treatment() if technique is None else Treatment.of(technique)
    if own.activations and activations not in (None, own.activations):
        what = f"{options['technique']} rounds activations by {own.activations}, not {activations}"
        raise LessenError(what, where=where, mend="leave activations out, or name Uniform")
    return replace(own, activations=own.activations or activations)


def _training(value: Any, where: str) -> Training | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not hasattr(made := techniques.build(value, where), "fit"):
        raise LessenError(f"this trains nothing: {value!r}", where=where, mend="{technique: RigL, sparsity: 0.9}")
    return made


def _refold(value: Any, where: str) -> AWQ | Rotate | None:
    if value is None:
        return None
    made = techniques.build(value, where) if isinstance(value, dict) else None
    if not isinstance(made, REFOLDS):
        raise LessenError(f"this folds nothing: {value!r}", where=where, mend="{technique: AWQ} or {technique: Rotate}")
    return made


def _ranges(units: tuple[int, ...]) -> str:
    """(0, 1, 2, 7) -> "0-2 7"."""
    words: list[str] = []
    ordered = sorted(units)
    start = 0
    for i in range(1, len(ordered) + 1):
        if i == len(ordered) or ordered[i] != ordered[i - 1] + 1:
            first, last = ordered[start], ordered[i - 1]
            words.append(str(first) if first == last else f"{first}-{last}")
            start = i
    return " ".join(words)


def _units(text: Any, where: str) -> tuple[int, ...]:
    units: list[int] = []
    for word in str(text).split():
        first, _, last = word.partition("-")
        if not first.isdigit() or (last and not last.isdigit()) or len(word) > 24:
            raise LessenError(f"{word!r} is not a unit or a range of units", where=where, mend='write them as "0-3 7"')
        stop = int(last or first)
        if stop < int(first) or stop > 2**24:
            raise LessenError(f"{word!r} is not a range of units", where=where)
        units.extend(range(int(first), stop + 1))
    return tuple(units)
