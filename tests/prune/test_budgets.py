"""One sparsity for all layers together: global magnitude, LAMP and ERK, and that plans say what each layer got."""

from __future__ import annotations

import pytest
import torch

import lessen
import small
from lessen import Magnitude, OptimalBrain, Snip, Stack, Uniform
from lessen.allocation import allocated
from lessen.bench import Bench
from lessen.errors import LessenError
from lessen.models.layer import Layer
from lessen.models.trace import Trace
from lessen.propose import propose, worthwhile
from lessen.prune.budgets import erk, lamp
from lessen.statistics import Statistics
from lessen.technique import describe
from lessen.techniques import build


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LAYERS = [
    Layer("small", "linear", draw(10, 20, seed=1)),
    Layer("conv", "conv", draw(8, 4, 3, 3, seed=2) * 0.2),
    Layer("large", "linear", draw(40, 50, seed=3) * 0.05),
]
SIZE = sum(x.weight.numel() for x in LAYERS)


def masks(budget: str, sparsity: float) -> dict[str, torch.Tensor]:
    each = allocated(Magnitude(sparsity, budget), LAYERS, {})
    return {x.name: each[x.name].encode(x, Statistics()).mask for x in LAYERS}


@pytest.mark.parametrize("budget", ["global", "lamp", "erk"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.8, 0.97])
def test_as_many_weights_go_in_all_as_were_asked_for(budget: str, sparsity: float) -> None:
    kept = sum(int(m.sum()) for m in masks(budget, sparsity).values())
    assert abs(kept - (1 - sparsity) * SIZE) <= len(LAYERS)  # each keeps at least one, and rounds


def test_global_magnitude_is_one_threshold_for_all() -> None:
    every = torch.cat([x.matrix.abs().flatten() for x in LAYERS])
    edge = every.sort().values[round(0.8 * SIZE) - 1]
    for x in LAYERS:
        assert torch.equal(masks("global", 0.8)[x.name], x.matrix.abs() > edge)


def test_lamp_is_the_published_score() -> None:
    """Lee et al. 2021, weight by weight: w^2 over the sum of the squares of all that are not smaller."""
    scores = {}
    for x in LAYERS:
        squares = x.matrix.flatten().double().square()
        scores[x.name] = torch.stack([s / squares[squares >= s].sum() for s in squares])
        assert torch.allclose(lamp({"": x.matrix.abs().flatten()})[""], scores[x.name], rtol=1e-9)
    edge = torch.cat(list(scores.values())).sort().values[round(0.8 * SIZE) - 1]
    for x in LAYERS:
        assert torch.equal(masks("lamp", 0.8)[x.name].flatten(), scores[x.name] > edge)


def test_erk_is_the_published_density() -> None:
    """Evci et al. 2020: density in proportion to sum(shape) / prod(shape), layers that would be over 1 stay dense."""
    kept = erk({"a": (10, 20), "b": (8, 4, 3, 3), "c": (40, 50)}, 0.5)
    scale = (0.5 * SIZE - 200) / (18 + 90)  # the first layer would keep more than it has
    assert kept == {"a": 200, "b": round(18 * scale), "c": round(90 * scale)}


def test_no_layer_is_emptied() -> None:
    tiny = [Layer("tiny", "linear", draw(4, 4) * 1e-6), *LAYERS]
    for budget in ("global", "lamp", "erk"):
        each = allocated(Magnitude(0.99, budget), tiny, {})
        assert bool(each["tiny"].encode(tiny[0], Statistics()).mask.any())


def test_a_plan_says_what_each_layer_got_and_does_it_again() -> None:
    for name, technique in allocated(Magnitude(0.83, "lamp"), LAYERS, {}).items():
        again = build(describe(technique))
        layer = next(x for x in LAYERS if x.name == name)
        assert again == technique
        assert again.budget == "layer"
        assert torch.equal(again.encode(layer, Statistics()).mask, masks("lamp", 0.83)[name])


def test_the_first_step_of_a_stack_may_share_a_budget_too() -> None:
    each = allocated(Stack((Magnitude(0.8, "global"), Uniform(4))), LAYERS, {})
    alone = allocated(Magnitude(0.8, "global"), LAYERS, {})
    assert {n: s.steps for n, s in each.items()} == {n: (t, Uniform(4)) for n, t in alone.items()}


class Prices:
    """Each weight costs a byte, zeros nothing."""

    def nbytes(self, layer, coding) -> int:
        return int((coding.decode() != 0).sum())

    def seconds(self, layer, coding, integer) -> float:
        return 0.0

    def runs_integers(self, layer, coding) -> bool:
        return False


def test_the_chooser_gets_the_budget_divided_among_the_layers_that_it_may_touch() -> None:
    bench = Bench(torch.nn.Identity(), Trace(tuple(LAYERS), (), 1.0, None), {})
    using = worthwhile(bench, (Magnitude(0.8, "global"), OptimalBrain(0.5)), Prices())
    assert Magnitude(0.8, "global") in using
    items = propose(bench, using, Prices(), {"small": "left out by --skip", "conv": "", "large": ""})
    assert len(items["small"]) == 1
    wanted = allocated(Magnitude(0.8, "global"), LAYERS[1:], {})
    for name in ("conv", "large"):
        assert wanted[name] in [c.choice.technique for c in items[name]]
        assert wanted[name].budget == "layer"


def test_a_compression_under_a_shared_budget_is_replayed_to_the_byte() -> None:
    """The gradients too: the plan names each layer's own sparsity, and the same samples give the same scores."""
    data = small.data(900, seed=5)
    done = lessen.compress(small.trained(), data, "3%", using=(Snip(0.6),), target="packed")
    told = {t.technique for t in done.plan.layers.values()}
    assert len({t.sparsity for t in told}) > 1
    assert {t.budget for t in told} == {"layer"}
    again = lessen.replay(done.plan, small.trained(), data)
    assert again.files["model.lessen"].read_bytes() == done.files["model.lessen"].read_bytes()


def test_a_budget_that_nobody_knows_is_refused() -> None:
    with pytest.raises(LessenError, match="did you mean 'lamp'"):
        Magnitude(0.5, "lmap")
