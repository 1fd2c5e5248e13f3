"""Equalization computes the same; re-estimated batch norms and made-up samples know what the network knows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import small
import zoo
from lessen import LessenError, equalized, made_up, reestimated
from lessen.models import fold_batchnorm, trace
from lessen.models.equalize import ChannelClip, balance


def uneven(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), activation(), nn.Conv2d(8, 8, 3, padding=1, groups=8), activation(),
            nn.Conv2d(8, 12, 1), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
        )  # fmt: skip
    with torch.no_grad():
        net[0].weight.mul_(torch.logspace(-2, 1, 8).reshape(-1, 1, 1, 1))
    return net.eval()


def images(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 3


def test_balance_makes_both_ranges_equal() -> None:
    rows, columns = torch.tensor([4.0, 1.0, 0.0, 2.0]), torch.tensor([1.0, 9.0, 3.0, 0.0])
    s = balance(rows, columns)
    torch.testing.assert_close((rows / s)[:2], (columns * s)[:2].to(torch.float64))
    assert s[2] == s[3] == 1  # dead channels are left alone


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.LeakyReLU])
def test_an_equalized_network_computes_the_same_with_even_weights(activation, global_seeds_untouched) -> None:
    net, x = uneven(activation), images()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    made, seams = equalized(net, trace(net, (x,)))
    assert [(s.first, s.second) for s in seams] == [("0.weight", "2.weight"), ("2.weight", "4.weight")]
    with torch.no_grad():
        torch.testing.assert_close(made(x), net(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert _spread(made[0].weight) < 12 < 500 < _spread(net[0].weight)  # a third of the decades: three layers share
    assert isinstance(made[1], ChannelClip) == (activation is nn.ReLU6)


def _spread(weight: torch.Tensor) -> float:
    ranges = weight.detach().abs().flatten(1).amax(1)
    return float(ranges.max() / ranges.min())


def test_high_biases_are_absorbed_without_a_trace_in_the_output() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net[0].bias += torch.tensor([5.0, 0, 0, 7, 0, 0])
        lowest = net[0](x).amin(0)
        made, _ = equalized(net, trace(net, (x,)), {"0.weight": lowest})
        torch.testing.assert_close(made(x), net(x), rtol=1e-4, atol=1e-4)
        reach = [float(m[1](m[0](x)).amax()) for m in (net, made)]
    assert reach[1] < reach[0] / 2


def test_a_channel_that_two_read_is_left_alone() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.a(x))
            return self.b(x) + self.c(x)

    with torch.random.fork_rng():
        net = Fork().eval()
    made, seams = equalized(net, trace(net, (torch.zeros(2, 4),)))
    assert made is net
    assert not seams


def test_the_depthwise_network_of_the_zoo() -> None:
    x = zoo.fashion_mnist()[2][:64]
    folded, _ = fold_batchnorm(zoo.depthwise(), (x[:2],))
    made, seams = equalized(folded, trace(folded, (x[:2],)))
    assert len(seams) == 12
    with torch.no_grad():
        torch.testing.assert_close(made(x), folded(x), rtol=1e-3, atol=1e-3)


def test_reestimated_batch_norms_hold_the_statistics_of_what_they_get() -> None:
    net = small.network()
    with torch.no_grad():
        net[0].weight.mul_(3)
        net[0].weight[0].add_(1)
    x, _ = small.data(96)
    made = reestimated(net, [(b,) for b in x.split(40)])
    with torch.no_grad():
        seen = net[0](x)
    torch.testing.assert_close(made[1].running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made[1].running_var, seen.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert torch.equal(net[1].running_mean, torch.zeros(16))


def test_nothing_to_reestimate_or_nothing_to_do_it_with() -> None:
    with pytest.raises(LessenError, match="no batch norm"):
        reestimated(nn.Linear(3, 3), [(torch.zeros(2, 3),)])
    with pytest.raises(LessenError, match="no samples"):
        reestimated(small.network(), [])


def test_made_up_samples_look_like_real_ones_to_the_batch_norms(global_seeds_untouched) -> None:
    x, _ = small.data(200)
    net = reestimated(small.network(), [(x + 2,)])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    samples = made_up(net, (1, 12, 12), count=16, steps=60)
    assert samples.shape == (16, 1, 12, 12)
    with torch.no_grad():
        real, made, noise = (net[0](v).mean((0, 2, 3)) for v in (x + 2, samples, torch.randn(16, 1, 12, 12,
                             generator=torch.Generator().manual_seed(0))))  # fmt: skip
    assert (made - real).norm() < 0.2 * (noise - real).norm()
    assert torch.equal(samples, made_up(net, (1, 12, 12), count=16, steps=60))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_without_batch_norms_nothing_can_be_made_up() -> None:
    with pytest.raises(LessenError, match="real samples"):
        made_up(nn.Linear(4, 4), (4,))
