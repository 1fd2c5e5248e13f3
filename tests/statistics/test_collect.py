"""What calibration learns, against the same figures worked out from stored activations."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessen.errors import LessenError
from lessen.memory import rest
from lessen.models.layer import Layer
from lessen.statistics import Statistics, collect, error_of_outputs, sampled_labels
from lessen.statistics.fisher import SHRINKAGE
from lessen.statistics.moments import WIDEST, Moments


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(module: nn.Module) -> nn.Module:
    for n, p in enumerate(module.parameters()):
        p.data.copy_(draw(*p.shape, seed=n + 50) / max(p[0].numel(), 2) ** 0.5)
    return module.eval()


def linear(name: str, module: nn.Module, axis: int = 0, kind: str = "linear") -> Layer:
    return Layer(name, kind, module.get_parameter(name).detach(), axis)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.depth = nn.Conv2d(8, 8, (3, 1), 1, (1, 0), dilation=(2, 1), groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, groups=2)
        self.last = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.depth(self.first(x).relu()).relu()).relu().mean((2, 3)))


def convolutions() -> tuple[nn.Module, list[Layer]]:
    with torch.random.fork_rng(devices=[]):
        m = seeded(Convolutions())
    return m, [
        Layer("first.weight", "conv", m.first.weight.detach()),
        Layer("depth.weight", "conv", m.depth.weight.detach(), groups=8),
        Layer("up.weight", "conv_transpose", m.up.weight.detach(), 1, 2),
        Layer("last.weight", "linear", m.last.weight.detach()),
    ]


def test_the_second_moment_of_every_kind_of_convolution_gives_the_energy_of_its_outputs() -> None:
    """E[y_r^2] = w_r H w_rT without the bias, whatever the stride, padding, dilation, groups and direction."""
    module, layers = convolutions()
    outputs: dict[str, Tensor] = {}
    for layer in layers:
        owner = module.get_submodule(layer.module)
        owner.bias.data.zero_()
        owner.register_forward_hook(lambda _, __, y, name=layer.name: outputs.__setitem__(name, y))
    x = draw(40, 3, 12, 12)
    found = collect(module, layers, [(x[:24],), (x[24:],)])
    module(x)
    for layer in layers:
        H, y = found[layer.name].H, outputs[layer.name]
        w = layer.matrix.reshape(H.shape[0], -1, layer.shape[1])
        energy = y.square().movedim(1, 0).reshape(y.shape[1], -1).mean(1)
        assert torch.allclose(torch.einsum("grc,gcd,grd->gr", w, H, w).reshape(-1), energy, rtol=0.05)
        mean = torch.einsum("grc,gc->gr", w, found[layer.name].mean).reshape(-1)
        assert torch.allclose(mean, y.movedim(1, 0).reshape(y.shape[1], -1).mean(1), atol=0.03)
        assert found[layer.name].samples == 40
    assert [found[n.name].positions for n in layers] == [36, 24, 96, 1]
    assert found["first.weight"].low == pytest.approx(float(x.min()))
    assert found["first.weight"].high == pytest.approx(float(x.max()))


def test_the_fisher_diagonal_is_that_of_autograd_sample_by_sample() -> None:
    module, layers = convolutions()
    x, labels = draw(12, 3, 12, 12), torch.arange(12) % 5
    batches = [SimpleNamespace(inputs=(x[i : i + 4],), labels=labels[i : i + 4], n=4) for i in range(0, 12, 4)]

    def loss(output: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(output, batch.labels, reduction="none")

    found = collect(module, layers, batches, loss, fisher=12)
    for layer in layers:
        expected = torch.zeros(layer.shape[0])
        for i in range(12):
            kept: list[Tensor] = []
            hook = module.get_submodule(layer.module).register_forward_hook(lambda _, __, y, kept=kept: kept.append(y))
            value = F.cross_entropy(module(x[i : i + 1]), labels[i : i + 1])
            (grad,) = torch.autograd.grad(value, kept)
            hook.remove()
            expected += grad.square().movedim(1, 0).reshape(layer.shape[0], -1).sum(1) / 12
        shrunk = (1 - SHRINKAGE) * expected + SHRINKAGE * expected.mean()
        assert torch.allclose(found[layer.name].G, shrunk, rtol=1e-3)


class Odd(nn.Module):
    """Weights that no module of their own uses."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.table = nn.Embedding(11, 8)
        self.free = nn.Parameter(torch.zeros(8, 6))
        self.cell = nn.LSTM(6, 5, batch_first=True)
        self.column = nn.Parameter(torch.zeros(4, 5))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x, _ = self.cell(torch.tanh(x @ self.free))
        return (self.column @ x.mean(1).t()).t()


def odd() -> tuple[nn.Module, list[Layer]]:
    m = seeded(Odd())
    names = {"attention.in_proj_weight": "linear", "table.weight": "embedding", "cell.weight_ih_l0": "recurrent",
             "cell.weight_hh_l0": "recurrent", "column": "linear"}  # fmt: skip
    return m, [*(linear(n, m, kind=k) for n, k in names.items()), linear("free", m, axis=1)]


def test_weights_without_a_module_of_their_own_are_seen() -> None:
    module, layers = odd()
    tokens = torch.randint(11, (16, 7), generator=torch.Generator().manual_seed(0))
    found = collect(module, layers, [tokens])
    x = module.table(tokens)
    flat = x.reshape(-1, 8)
    assert torch.allclose(found["attention.in_proj_weight"].H[0], flat.T @ flat / len(flat), atol=1e-5)
    assert all(s.samples == 16 for s in found.values())
    assert all(s.G is not None and bool((s.G > 0).all()) for s in found.values())
    assert found["cell.weight_hh_l0"].H.shape == (1, 5, 5)
    assert found["cell.weight_hh_l0"].positions == found["cell.weight_ih_l0"].positions == 7
    x = torch.tanh((x + module.attention(x, x, x)[0]) @ module.free)
    assert torch.allclose(found["cell.weight_ih_l0"].H[0].diagonal(), x.square().mean((0, 1)), atol=1e-5)
    last = module.cell(x)[0].mean(1)
    assert torch.allclose(found["column"].H[0], last.T @ last / 16, atol=1e-5)
    counts = torch.bincount(tokens.flatten(), minlength=11)
    assert torch.equal(found["table.weight"].G.argsort(stable=True), counts.argsort(stable=True))
    assert float(found["table.weight"].G.sum()) == pytest.approx(7)
    assert found["table.weight"].H.shape == (1, 8, 8)


def test_layers_that_read_the_same_tensor_share_one_matrix() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.o = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            q, k = self.q(x), self.k(x)
            return self.o(q) + k.sum(-1, keepdim=True)

    module = seeded(Three())
    layers = [linear(f"{n}.weight", module) for n in "qko"]
    found = collect(module, layers, [draw(8, 3, 4), draw(8, 3, 4, seed=1)])
    assert found["q.weight"].H is found["k.weight"].H
    x = torch.cat([draw(8, 3, 4), draw(8, 3, 4, seed=1)]).reshape(-1, 4)
    assert torch.allclose(found["q.weight"].H[0], x.T @ x / 48, atol=1e-5)
    assert not torch.allclose(found["o.weight"].H, found["q.weight"].H, atol=1e-3)


def test_harm_predicts_what_a_small_change_of_a_weight_does() -> None:
    """Half the mean relative squared error of the output, which is what the default loss stands for."""
    module = seeded(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 12)))
    x = draw(400, 20)
    layer = linear("2.weight", module)
    found = collect(module, [layer], [x], fisher=400)["2.weight"]
    delta = draw(12, 16, seed=3) * 0.01
    y = module(x)
    module[2].weight.data += delta
    measured = 0.5 * ((module(x) - y).square().sum(1) / y.square().sum(1)).mean()
    # inputs and gradients count as independent, which alone makes 25 % here
    assert found.harm(delta) == pytest.approx(measured.item(), rel=0.3)


def test_the_model_is_left_as_it_was_found(global_seeds_untouched: None) -> None:
    module, layers = convolutions()
    module.train()
    module.first.eval()
    module.last.bias.requires_grad_(False)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    collect(module, layers, [draw(4, 3, 12, 12)])
    assert module.training
    assert not module.first.training
    assert [p.requires_grad for p in module.last.parameters()] == [True, False]
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


def test_two_passes_give_the_same_bits() -> None:
    module, layers = convolutions()
    batches = [(draw(6, 3, 40, 40),), (draw(6, 3, 40, 40, seed=1),)]
    first, second = (collect(module, layers, iter(batches)) for _ in range(2))
    for name, s in first.items():
        assert torch.equal(s.H, second[name].H)
        assert torch.equal(s.G, second[name].G)


class Opaque(torch.autograd.Function):
    """Stands for an operator that another runtime runs: no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        return torch.from_numpy(x.detach().numpy().copy())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


def test_behind_an_operator_without_derivative_gradients_are_still_found() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(Opaque.apply(self.a(x).detach())).relu())

    module = seeded(Model())
    found = collect(module, [linear(f"{n}.weight", module) for n in "abc"], [draw(8, 4)])
    assert found["a.weight"].G is None
    assert found["c.weight"].G is not None
    assert all(s.H is not None for s in found.values())


def test_without_a_backward_pass_there_is_no_fisher() -> None:
    module, layers = convolutions()
    found = collect(module, layers, [draw(4, 3, 12, 12)], fisher=0)
    assert all(s.G is None and s.H is not None for s in found.values())


def test_a_layer_that_is_never_reached_has_seen_no_samples() -> None:
    module = nn.ModuleDict({"used": nn.Linear(3, 3), "spare": nn.Linear(3, 3)})
    module.forward = lambda x: module["used"](x)  # type: ignore[method-assign]
    found = collect(module, [linear("used.weight", module), linear("spare.weight", module)], [draw(5, 3)])
    assert found["used.weight"].samples == 5
    assert found["spare.weight"] == found["spare.weight"]
    assert found["spare.weight"].samples == 0
    assert found["spare.weight"].H is None


def test_nan_in_the_data_is_an_error_that_names_the_layer() -> None:
    module, layers = convolutions()
    x = draw(4, 3, 12, 12)
    x[1, 2, 3, 3] = float("nan")
    with pytest.raises(LessenError, match=r"first\.weight.*NaN"):
        collect(module, layers, [x])


def test_no_data_is_an_error() -> None:
    module, layers = convolutions()
    with pytest.raises(LessenError, match="no calibration data"):
        collect(module, layers, [])


def test_a_layer_of_another_model_is_an_error() -> None:
    module, _ = convolutions()
    with pytest.raises(LessenError, match=r"other\.weight.*no such parameter"):
        collect(module, [Layer("other.weight", "linear", draw(2, 2))], [draw(4, 3, 12, 12)])


def test_very_wide_inputs_keep_only_the_diagonal() -> None:
    moments = Moments()
    moments.add(torch.ones(1, 2, WIDEST + 1))
    assert moments.second_moment().shape == (1, WIDEST + 1)
    wide = Statistics(H=torch.full((1, 4), 2.0))
    assert wide.harm(torch.ones(3, 4)) == pytest.approx(0.5 * 3 * 4 * 2)


def test_extremes_are_those_of_each_column_over_all_samples() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).eval()
    x = draw(50, 4)
    found = collect(module, [linear("0.weight", module), linear("2.weight", module)], list(x.split(8)))
    low, high = found["2.weight"].extremes
    y = module[1](module[0](x)).detach()
    torch.testing.assert_close(low, y.amin(0))
    torch.testing.assert_close(high, y.amax(0))
    assert found["2.weight"].low == float(low.min()) and found["2.weight"].high == float(high.max())


def test_harm_is_the_quadratic_form() -> None:
    H, G, d = draw(2, 5, 5), draw(6).square(), draw(6, 5, seed=1)
    H = H @ H.transpose(1, 2)
    expected = 0.5 * sum(float(G[r] * d[r] @ H[r // 3] @ d[r]) for r in range(6))
    assert Statistics(H=H, G=G).harm(d) == pytest.approx(expected, rel=1e-5)


def test_losses_without_labels_are_deterministic_and_per_sample(global_seeds_untouched: None) -> None:
    y = draw(6, 10).requires_grad_()
    for loss in (error_of_outputs, sampled_labels):
        assert loss(y).shape == (6,)
        assert torch.equal(loss(y), loss(y))
        assert torch.autograd.grad(loss(y).sum(), y)[0].abs().sum() > 0


def test_convolutions_run_sample_by_sample_give_the_same_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(Convolutions())
    layers = [
        linear("first.weight", model, kind="conv"),
        Layer("depth.weight", "conv", model.depth.weight.detach(), groups=8),
        linear("last.weight", model),
    ]
    x = draw(5, 3, 12, 12)
    found = [collect(model, layers, [x])]
    monkeypatch.setattr("lessen.statistics.watch._LARGE", 0)
    found.append(collect(model, layers, [x]))
    for a, b in zip(found[0].values(), found[1].values(), strict=True):
        assert a.samples == 5 and a.G is not None and b.G is not None and a.H is not None and b.H is not None
        torch.testing.assert_close(a.H, b.H, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(a.G, b.G, rtol=1e-5, atol=1e-12)


@dataclass(frozen=True)
class Sample:
    inputs: tuple[Tensor, ...]


def test_batches_are_held_for_later_with_their_values() -> None:
    model = seeded(nn.Linear(1024, 4))
    batch = Sample((draw(300, 1024),))  # 1.2 MB: it waits in a file
    found = collect(model, [linear("weight", model)], [batch])["weight"]
    assert found.gradients is not None
    held = found.gradients.source.batches[0].inputs[0]
    rest()
    assert held is not batch.inputs[0] and torch.equal(held, batch.inputs[0])
