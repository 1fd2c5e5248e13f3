"""What every technique must hold to. New ones are found by themselves: nothing here names one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from typing import Any

import pytest
import torch

from lessen import factorize, prune, quantize, share, stack
from lessen.codings import Coding, Grid, LowRank, Sparse, coding_from_parts
from lessen.errors import LessenError
from lessen.statistics import Statistics
from lessen.technique import Technique, describe

from .samples import KNOWN, LAYERS, layer, statistics

PACKAGES = (quantize, prune, share, factorize, stack)
TYPES = {n: getattr(p, n) for p in PACKAGES for n in p.__all__ if hasattr(getattr(p, n), "encode")}
TRIED = {n: t.offers() or (t(),) for n, t in TYPES.items()}  # what offers nothing is there for those who ask
SETTINGS = [s for tried in TRIED.values() for s in tried]
ONE_EACH = [tried[0] for tried in TRIED.values()]
EXTREMES = list(dict.fromkeys(s for tried in TRIED.values() for s in (tried[0], tried[-1])))


def by_name(technique: Any) -> str:
    return " ".join(str(v) for v in describe(technique).values())


def tried(technique: Technique, of: Any, known: Any) -> Coding:
    """The coding, or a skip when the technique says, naming the layer, that this can't be."""
    try:
        return technique.encode(of, known)
    except LessenError as error:
        assert of.name in str(error)
        assert error.mend
        pytest.skip(f"refused: {error.what}")


def build(values: dict[str, Any]) -> Any:
    options = {k: v for k, v in values.items() if k != "technique"}
    listed = {k: tuple(build(x) for x in v) if isinstance(v, list) else v for k, v in options.items()}
    return TYPES[values["technique"]](**listed)


@pytest.mark.parametrize("name", TYPES)
def test_its_type_is_a_frozen_dataclass_with_few_options_and_documented(name: str) -> None:
    made = TYPES[name]
    assert dataclasses.is_dataclass(made)
    assert made.__dataclass_params__.frozen
    assert len(dataclasses.fields(made)) <= 5
    assert name in made.encode.__qualname__
    assert made.__doc__
    assert ">>>" in made.__doc__


@pytest.mark.parametrize("technique", SETTINGS, ids=by_name)
def test_what_it_offers_is_a_technique_that_can_be_told_apart_and_rebuilt(technique: Any) -> None:
    assert isinstance(technique, Technique)
    assert hash(technique) == hash(dataclasses.replace(technique))
    told = json.loads(json.dumps(describe(technique)))
    assert build(told) == technique


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("technique", EXTREMES, ids=by_name)
def test_it_gives_a_finite_weight_of_the_layer_s_shape(technique: Technique, kind: str) -> None:
    of = LAYERS[kind]()
    refused = 0
    for known in KNOWN.values():
        try:
            coding = technique.encode(of, known(of))
        except LessenError as error:
            assert of.name in str(error)
            refused += 1
            continue
        decoded = coding.decode()
        assert isinstance(coding, Coding)
        assert decoded.dtype == torch.float32
        assert tuple(decoded.shape) == coding.shape == of.shape
        assert bool(torch.isfinite(decoded).all())
        assert of.from_matrix(decoded).shape == of.weight.shape
    assert refused in (0, len(KNOWN)), "whether a layer can be done must not hang on its statistics"


@pytest.mark.parametrize("technique", ONE_EACH, ids=by_name)
def test_it_can_do_an_ordinary_layer(technique: Technique) -> None:
    of = layer("linear", 48, 128)
    assert technique.encode(of, statistics(of)).decode().shape == of.shape


@pytest.mark.parametrize("technique", SETTINGS, ids=by_name)
def test_it_is_deterministic_and_leaves_the_global_seeds_alone(
    technique: Technique, global_seeds_untouched: None
) -> None:
    of = layer("linear", 24, 128)
    known = statistics(of)
    first, again = tried(technique, of, known), technique.encode(of, known)
    assert first.settings() == again.settings()
    assert first.parts().keys() == again.parts().keys()
    assert all(torch.equal(a, b) for a, b in zip(first.parts().values(), again.parts().values(), strict=True))


@pytest.mark.parametrize("technique", ONE_EACH, ids=by_name)
def test_it_changes_nothing_that_it_was_given(technique: Technique) -> None:
    of = layer("linear", 24, 128)
    known = statistics(of)
    before = [t.clone() for t in (of.weight, known.H, known.G, known.mean)]
    tried(technique, of, known)
    assert all(torch.equal(a, b) for a, b in zip(before, (of.weight, known.H, known.G, known.mean), strict=True))


@pytest.mark.parametrize("kind", ["linear", "conv", "depthwise"])
@pytest.mark.parametrize("technique", SETTINGS, ids=by_name)
def test_its_coding_is_rebuilt_from_parts_and_settings(technique: Technique, kind: str) -> None:
    of = LAYERS[kind]()
    coding = tried(technique, of, statistics(of))
    settings = json.loads(json.dumps(coding.settings()))
    again = coding_from_parts(coding.kind, coding.parts(), settings)
    assert torch.equal(again.decode(), coding.decode())


@pytest.mark.parametrize("known", ["nothing", "all"])
@pytest.mark.parametrize("technique", SETTINGS, ids=by_name)
def test_once_more_changes_little(technique: Technique, known: str) -> None:
    of = layer("linear", 24, 128)
    first = tried(technique, of, KNOWN[known](of)).decode()
    again = technique.encode(of.with_matrix(first), KNOWN[known](of)).decode()
    judge = KNOWN[known](of)
    assert judge.harm(again - first) <= 0.6 * judge.harm(first - of.matrix) + 1e-9 * judge.harm(of.matrix)


def size(coding: Coding) -> float:
    """Bits that the coding holds, without an entropy coder."""
    if isinstance(coding, LowRank):
        return size(coding.left) + size(coding.right)
    if isinstance(coding, Sparse):
        return 32 * len(coding.values)
    if isinstance(coding, Grid):
        live = (coding.codes != coding.zero_point.repeat_interleave(coding.group_size, 1)).float().mean()
        return coding.codes.numel() * coding.bits * (float(live) if float(live) < 0.75 else 1)
    if coding.kind == "codebook":
        return coding.parts()["indices"].numel() * math.log2(coding.parts()["centroids"].shape[1])
    return sum(t.numel() * t.element_size() * 8 for t in coding.parts().values())


@pytest.mark.parametrize("known", ["nothing", "all"])
@pytest.mark.parametrize("name", [n for n in TYPES if n != "Stack"])
def test_harm_falls_as_the_budget_grows(name: str, known: str) -> None:
    of = layer("linear", 48, 128)
    judge = KNOWN[known](of)
    families: dict[Any, list[tuple[float, float]]] = {}
    for technique in TYPES[name].offers():
        coding = technique.encode(of, judge)
        rest = tuple(
            v for k, v in describe(technique).items() if k not in ("bits", "clusters", "sparsity", "rank", "n", "m")
        )
        families.setdefault(rest, []).append((size(coding), judge.harm(coding.decode() - of.matrix)))
    for points in families.values():
        points.sort()
        for (small, more), (large, less) in itertools.pairwise(points):
            assert small == large or less < more * 1.001


@pytest.mark.parametrize("technique", ONE_EACH, ids=by_name)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(technique: Technique, bad: float) -> None:
    weight = layer("linear", 24, 128).weight.clone()
    weight[3, 5] = bad
    with pytest.raises(LessenError, match=r"linear\.weight.*NaN or infinite"):
        technique.encode(layer("linear", weight=weight), Statistics())


@pytest.mark.parametrize("technique", ONE_EACH, ids=by_name)
def test_statistics_of_another_layer_are_refused(technique: Technique) -> None:
    with pytest.raises(LessenError, match="don't fit"):
        technique.encode(layer("linear", 24, 128), statistics(layer("linear", 24, 64)))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("value", [-1, 0.0, 1.5, "nonsense", None, 10**9, float("nan"), (), True])
def test_options_that_make_no_sense_are_refused_by_name(name: str, value: object) -> None:
    """Each first option is a number in a range (or steps); whatever is outside gives a `LessenError`."""
    field = dataclasses.fields(TYPES[name])[0]
    if field.name == "sparsity" and value == 0.0:
        pytest.skip("no sparsity is allowed")
    with pytest.raises(LessenError, match=f"{name}.*{field.name}"):
        TYPES[name](**{field.name: value})


@pytest.mark.parametrize("technique", SETTINGS, ids=by_name)
def test_a_mask_is_kept(technique: Technique) -> None:
    of = layer("linear", 24, 128)
    mask = torch.arange(24 * 128).reshape(24, 128) % 3 > 0
    masked = of.with_matrix(of.matrix * mask, mask)
    decoded = tried(technique, masked, statistics(of)).decode()
    assert bool((decoded[~mask] == 0).all())
    assert bool((decoded[mask] != 0).any())
