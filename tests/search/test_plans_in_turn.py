"""The chooser codes the layers of coarse plans in turn, where that is better on the validation part."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import lessen
import lessen.recover as recover
import small
from lessen import BlockReconstruction, Budget, Compression, LessenError, OptimalBrain, Plan, Uniform
from lessen.in_turn import TOLD, realize_in_turn


@pytest.fixture(scope="module")
def net():
    return small.trained()


COARSE = (OptimalBrain(0.8), OptimalBrain(0.9))


def run(net, out, budget="3%", using=COARSE):
    return Compression(net, small.data(), budget, using, "packed").run(out)


def ruined(bench, treatments, batches):
    made = realize_in_turn(bench, treatments, batches)
    with torch.no_grad():
        for p in made.module.parameters():
            p.zero_()
    zero = {n: replace(c, values=torch.zeros_like(c.values)) for n, c in made.codings.items()}
    return replace(made, codings=zero)


@pytest.fixture(scope="module")
def made(net, tmp_path_factory):
    return run(net, tmp_path_factory.mktemp("made") / "out")


def test_such_a_plan_says_so_and_is_carried_out_again_to_the_byte(net, made, tmp_path):
    assert made.plan.in_turn, "the task no longer asks for it: make another"
    assert "in_turn: true" in made.files["plan.yaml"].read_text()
    assert all(TOLD in row.why for row in made.report.layers if row.done)
    again = lessen.replay(made.files["plan.yaml"], net, small.data(), tmp_path / "again")
    for name in ("model.lessen", "plan.yaml"):
        assert again.files[name].read_bytes() == made.files[name].read_bytes()


def test_it_is_used_only_where_it_is_better_on_the_validation_part(net, made, tmp_path, monkeypatch):
    monkeypatch.setattr(recover, "realize_in_turn", ruined)
    held = run(net, tmp_path / "held")
    assert not held.plan.in_turn and held.report.budget.met
    assert made.files["model.lessen"].stat().st_size < held.files["model.lessen"].stat().st_size


def test_a_plan_that_only_has_to_be_small_loses_less(net, tmp_path):
    made = run(net, tmp_path / "out", Budget(max_size=8_000))
    assert made.plan.in_turn and made.files["model.lessen"].stat().st_size <= 8_000


def test_rounding_is_learned_where_that_is_asked_for(net, tmp_path):
    x = small.data()[0]  # without labels: what is measured is how far the outputs move
    made = Compression(net, x, "2%", (BlockReconstruction(bits=2, steps=40),), "packed").run(tmp_path / "run")
    assert made.plan.recover == {"technique": "BlockReconstruction", "bits": 2, "steps": 40}
    assert {t.technique for t in made.plan.layers.values()} == {Uniform(2)}
    again = lessen.replay(made.files["plan.yaml"], net, x, tmp_path / "again")
    for name in ("model.lessen", "plan.yaml"):
        assert again.files[name].read_bytes() == made.files[name].read_bytes()


def test_eight_bits_leave_nothing_to_make_up_for(net, tmp_path, monkeypatch):
    monkeypatch.setattr(recover, "realize_in_turn", None)  # calling it is an error
    assert not run(net, tmp_path / "out", using=(Uniform(8),)).plan.in_turn


def test_in_turn_in_a_plan():
    text = Plan("packed", in_turn=True).to_yaml()
    assert Plan.from_yaml(text).in_turn is True
    assert "in_turn" not in Plan("packed").to_yaml() and Plan.from_yaml(Plan("packed").to_yaml()).in_turn is False
    with pytest.raises(LessenError, match=r"line 4.*true or false"):
        Plan.from_yaml(text.replace("in_turn: true", "in_turn: often"), "plan.yaml")
