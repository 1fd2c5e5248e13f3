"""AWQ's scales and rotations as variants: in plans, by name, replayed, taken where they are better."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import lessen
import small
from lessen import AWQ, Compression, LessenError, Plan, Rotate, Treatment, Uniform, account, artifact
from lessen.compression import Result
from lessen.targets import float_onnx
from lessen.techniques import named
from test_replay import assert_same, block

TOKENS = torch.randint(0, 50, (120, 12), generator=torch.Generator().manual_seed(0))
FILES = ("model.lessen", "plan.yaml")
COARSE = Uniform(3, feedback=False)


@pytest.fixture(scope="module", autouse=True)
def briefly() -> Iterator[None]:
    """Each network is exported once and nobody looks at the memory: most of what a run of a small network takes.

    That an export always gives the same bytes others test.
    """
    made: dict[bytes, ir.Model] = {}

    def exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> ir.Model:
        weights = (v.numpy().tobytes() for v in module.state_dict().values())
        key = b"".join((str(module).encode(), *weights))
        if key not in made:
            made[key] = float_onnx(module, inputs)
        return made[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifact, "float_onnx", exported)
        patch.setattr(account, "_memory", lambda job, path, inputs: None)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return Compression(block(), TOKENS, "1.2%", (COARSE,), "packed", rounds=2).run(tmp_path_factory.mktemp("a") / "run")


@pytest.mark.parametrize("how", [AWQ(3, "channel"), Rotate(seed=7)], ids=lambda h: type(h).__name__)
def test_one_is_taken_where_it_is_better_and_a_replay_gives_the_same_bytes(how, plain, tmp_path) -> None:
    """A channel that is forty times as loud as the others takes the steps of all: three bits are too few."""
    run = Compression(block(), TOKENS, "1.2%", (how, COARSE), "packed", rounds=2).run(tmp_path / "run")
    assert run.plan.refold == how and plain.plan.refold is None
    sizes = [r.files["model.lessen"].stat().st_size for r in (run, plain)]
    assert run.report.budget.met and sizes[0] < 0.95 * sizes[1], "the task no longer asks for it: make another"
    assert any(f"after {type(how).__name__}" in row.why for row in run.report.layers)
    again = lessen.replay(run.files["plan.yaml"], block(), TOKENS, tmp_path / "again")
    assert_same(run, again, names=FILES)
    with torch.no_grad():
        opened = lessen.load_into(block(), run.files["model.lessen"])
        torch.testing.assert_close(opened(TOKENS), run.model(TOKENS), rtol=1e-4, atol=1e-4)


def test_a_plan_names_it_and_the_network_is_exact_without_any_coding(tmp_path) -> None:
    for how in (AWQ(per=8), Rotate(3)):
        plan = Plan("onnxruntime", {"up.weight": Treatment(Uniform(8), "token")}, refold=how)
        assert Plan.from_yaml(plan.to_yaml()) == plan
        bare = lessen.replay(Plan("onnxruntime", refold=how), block(), TOKENS, tmp_path / type(how).__name__)
        assert bare.report.drop.value < 1e-5
        assert not torch.equal(bare.model.get_parameter("qkv.weight"), block().get_parameter("qkv.weight"))


@pytest.mark.parametrize("refold", ["3", "{technique: Uniform}", "{technique: Rotat}", "{technique: Rotate, seed: -1}"])
def test_what_folds_nothing_is_named_with_its_line(refold: str) -> None:
    with pytest.raises(LessenError, match="plan, line 3"):
        Plan.from_yaml(f"lessen: 1\ntarget: packed\nrefold: {refold}\nlayers: {{}}\n")


def test_they_are_found_by_name_and_tried_only_then() -> None:
    assert named("awq,rotate,uniform") == (AWQ, Rotate, Uniform)
    assert not {AWQ, Rotate} & set(named(None))


def test_a_network_into_which_nothing_can_be_folded_is_compressed_without(tmp_path) -> None:
    job = Compression(small.network().eval(), small.data(200)[0], "5%", (Rotate, Uniform(8)), "packed", rounds=1)
    run = job.run(tmp_path / "run")
    assert run.plan.refold is None and run.plan.layers
    assert [r for r in run.report.risks if "Rotate could not be used" in r]


@pytest.mark.parametrize("how", [AWQ(per="channel"), Rotate()], ids=lambda h: type(h).__name__)
def test_alone_in_one_line_it_gives_the_refolded_network(how) -> None:
    net: nn.Module = block()
    made = lessen.apply(net, how, TOKENS)
    with torch.no_grad():
        torch.testing.assert_close(made(TOKENS), net(TOKENS), rtol=1e-4, atol=1e-4)
    assert not torch.equal(made.get_parameter("qkv.weight"), net.get_parameter("qkv.weight"))
