"""The integer reference executor: exact, without a float inside, close to the float network, proven not to overflow."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lessen.errors import LessenError
from lessen.quantize import QFormat, integer, integer_net
from lessen.quantize.integer import Flatten, IntegerNet, MaxPool, MeanPool, Product, Relu

SOURCE = Path(integer.__file__)
# Of the outputs of `golden`; another digest means other bits on some target.
GOLDEN = "f9f84cf4d8661657931f9b010d50af3bee20b90f125d31d0fc992d3f908fd35d"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(net: nn.Sequential, seed: int = 3) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        fan = p[0].numel() if p.ndim > 1 else 9
        p.data = torch.randn(p.shape, generator=generator) / fan**0.5
    return net.eval().requires_grad_(False)


def network() -> nn.Sequential:
    return filled(
        nn.Sequential(
            nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU()),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2, groups=8, bias=False),
            nn.ReLU6(),
            nn.Conv2d(8, 12, 1),
            nn.AvgPool2d(2),
            nn.ReLU(),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(48, 16),
            nn.ReLU(),
            nn.Linear(16, 5),
        )
    )


def ints(*shape: int, low: int = -128, high: int = 128, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.int64)


def run(net: IntegerNet, x: Tensor) -> Tensor:
    codes = net.run(QFormat(net.bits, net.fraction).codes(x).numpy())
    return torch.from_numpy(codes).double() * 2.0**-net.output_fraction


def test_its_source_knows_no_float() -> None:
    tree = ast.parse(SOURCE.read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Div), "a division"
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), f"a float: {ast.unparse(node)}"
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        assert name not in {"float", "float32", "float64", "mean", "average", "divide", "true_divide", "torch"}, name


@pytest.mark.parametrize("bits", [8, 16])
def test_no_float_appears_between_input_and_output(bits: int) -> None:
    net = integer_net(network(), draw(16, 2, 16, 16), bits)
    x = QFormat(bits, net.fraction).codes(draw(4, 2, 16, 16, seed=1)).numpy()
    for step in net.steps:
        arrays = [v for v in vars(step).values() if isinstance(v, np.ndarray)]
        assert all(a.dtype == np.int64 for a in arrays)
        x = step.run(x)
        assert x.dtype == np.int64
    with pytest.raises(TypeError, match="codes are integers, not float32"):
        net.run(draw(4, 2, 16, 16).numpy())


@pytest.mark.parametrize(("bits", "db"), [(8, 25), (12, 45), (16, 55)])
def test_it_computes_what_the_float_network_does(bits: int, db: float) -> None:
    net, x = network(), draw(32, 2, 16, 16, seed=1)
    made = integer_net(net, draw(64, 2, 16, 16), bits)
    wanted = net(x).double()
    noise = (run(made, x) - wanted).square().mean()
    assert float(10 * torch.log10(wanted.square().mean() / noise)) > db


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), [((1, 1), (0, 0), (1, 1), 1), ((2, 1), (1, 2), (1, 2), 2)]
)
def test_a_convolution_is_exact(
    stride: integer.Pair, padding: integer.Pair, dilation: integer.Pair, groups: int
) -> None:
    """Against torch in float64, which is exact for whole numbers of this size."""
    w, b, x = ints(6, 4 // groups, 3, 3), ints(6, high=9999, seed=1), ints(3, 4, 9, 8, seed=2)
    shift = np.array([0, 1, 2, 3, 7, 9])
    step = Product("c", w, b, shift, -128, 127, 32, stride, padding, dilation, groups)
    X, W, B = (torch.from_numpy(a).double() for a in (x, w, b))
    wanted = nn.functional.conv2d(X, W, B, stride, padding, dilation, groups)
    assert np.array_equal(step.sums(x), wanted.long().numpy())
    shifted = (wanted / 2.0 ** torch.from_numpy(shift)[:, None, None]).floor().clamp(-128, 127)
    assert np.array_equal(step.run(x), shifted.long().numpy())


def test_pooling_is_exact() -> None:
    x = ints(2, 3, 8, 8)
    wanted = nn.functional.max_pool2d(torch.from_numpy(x).double(), 3, 2, 1)
    assert np.array_equal(MaxPool((3, 3), (2, 2), (1, 1)).run(x), wanted.long().numpy())
    for size in ((2, 2), (4, 2), None):
        kernel = size or (8, 8)
        mean = nn.functional.avg_pool2d(torch.from_numpy(x).double(), kernel)
        assert np.array_equal(MeanPool(size, kernel, 22).run(x), (mean + 0.5).floor().long().numpy())
    sevenths = nn.functional.avg_pool2d(torch.from_numpy(x[..., :7, :7]).double(), 7)
    assert np.abs(MeanPool(None, (1, 1), 22).run(x[..., :7, :7]) - sevenths.numpy()).max() <= 0.51


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_no_input_whatever_leaves_the_proven_accumulator(bits: int) -> None:
    net = integer_net(network(), draw(16, 2, 16, 16), bits)
    half = 1 << bits - 1
    extremes = [np.full((2, 2, 16, 16), v) for v in (-half, half - 1)]
    for x in (*extremes, ints(8, 2, 16, 16, low=-half, high=half)):
        for step in net.steps:
            if isinstance(step, Product):
                sums = step.sums(x if x.ndim == 4 else x[:, :, None, None])
                assert step.accumulator <= 32
                assert int(np.abs(sums).max()) < 1 << step.accumulator - 1
                assert 0 <= int(step.shift.min()) <= int(step.shift.max()) <= 31
            x = step.run(x)


def counted(*shape: int, step: int) -> np.ndarray:
    """Whole numbers that need no random generator."""
    return (np.arange(np.prod(shape), dtype=np.int64) * step % 251 - 125).reshape(shape)


def golden() -> IntegerNet:
    a = counted(4, 1, 3, 3, step=37), counted(4, step=11)
    b = counted(3, 16, 1, 1, step=91), counted(3, step=17)
    steps = (
        Product("a", *a, np.array([6, 7, 8, 9]), 0, 255, 20, padding=(1, 1)),
        MaxPool((2, 2), (2, 2)), MeanPool((2, 2), (2, 2), 22), Relu(), Flatten(),
        Product("b", *b, np.array([9, 9, 9]), -128, 127, 20),
    )  # fmt: skip
    return IntegerNet(steps, 8, 7, 4)


def test_the_same_bits_on_every_machine() -> None:
    x = counted(5, 1, 8, 8, step=53)
    assert len(np.unique(golden().run(x))) > 8
    assert golden().sha256(x) == GOLDEN


def test_weights_too_fine_or_dead_and_large_biases_stay_within_32_bits() -> None:
    first = nn.Linear(6, 4)
    net = filled(nn.Sequential(first, nn.Linear(4, 2)))
    first.weight.data[0], first.weight.data[1], first.bias.data[2] = 1e-30, 0.0, 5e4
    x = draw(32, 6)
    for bits in (8, 16):
        error = run(integer_net(net, x, bits), x) - net(x).double()
        assert float(error.abs().max()) < 0.02 * float(net(x).abs().max())


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), r"1: BatchNorm2d.* no integer form\n.*fold batch norms"),
        (nn.Sequential(nn.Sequential(nn.Sigmoid())), r"0\.0: Sigmoid"),
        (nn.Sequential(nn.Conv2d(2, 3, 3, padding="same")), r"0\.weight: only zero padding"),
        (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")), r"0\.weight: only zero padding"),
        (nn.Sequential(nn.Linear(6, 6)), r"0\.weight: a linear layer on 4 dimensions"),
        (nn.Sequential(nn.AvgPool2d(2, padding=1)), "0: AvgPool2d"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), "0: MaxPool2d"),
    ],
)  # fmt: skip
def test_what_has_no_integer_form_is_refused_by_name(net: nn.Sequential, message: str) -> None:
    with pytest.raises(LessenError, match=message):
        integer_net(net.eval(), draw(4, 2, 6, 6))


@pytest.mark.parametrize("samples", [torch.zeros(0, 2, 6, 6), torch.full((1, 2, 6, 6), float("nan"))])
def test_samples_that_say_nothing_are_refused(samples: Tensor) -> None:
    with pytest.raises(LessenError, match="empty or not finite"):
        integer_net(nn.Sequential(nn.Conv2d(2, 3, 3)), samples)


def test_an_accumulator_that_can_overflow_is_an_error_that_names_the_layer() -> None:
    linear = nn.Linear(1 << 17, 1, bias=False)
    net = nn.Sequential(linear).requires_grad_(False)
    linear.weight.fill_(1.0)
    with pytest.raises(LessenError, match=r"0\.weight: output 0 can reach .* more than an int32 holds"):
        integer_net(net, torch.ones(1, 1 << 17), 16)


@pytest.mark.parametrize("bits", [3, 17, 8.0, True])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(LessenError, match="integer_net: bits="):
        integer_net(network(), draw(1, 2, 16, 16), bits)
