"""Fixed point: what do convolutional nets lose when nothing but whole numbers is left between input and output?

Each net is turned into an `IntegerNet` (weights with a binary point for each channel, activations with one for each
tensor, sums proven to fit 32 bits), with 8 and with 16 bits throughout, from 256 training images. The integer and the
float network then answer the same test images. Every integer network runs twice; `digest` says whether the outputs
are the same to the bit (tests/quantize/test_integer.py holds such a digest against all machines).

    python benchmarks/fixed_point.py [--quick] [--nets digit_cnn,lenet_5,depthwise]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import common
import torch
from torch import Tensor, nn

import zoo
from lessen.data import Score, metric_named, paired_drop
from lessen.models import fold_batchnorm, trace
from lessen.quantize import IntegerNet, QFormat, integer_net
from lessen.quantize.integer import Product
from lessen.statistics import collect

NAME, SAMPLES, BATCH = "fixed_point", 256, 250
BITS = (8, 16)


@dataclass(frozen=True, eq=False)
class Case:
    """A sequential network without batch norms and its data, images already scaled as the network wants them."""

    net: nn.Sequential
    calibration: Tensor
    x: Tensor
    y: Tensor


def digit_cnn() -> Case:
    """0.39 M parameters, trained by others on MNIST; 2,000 digits."""
    net, (train, _, test, y) = zoo.digit_cnn(), zoo.mnist()
    plain = nn.Sequential(*net.conv_layers, nn.Flatten(), *net.fc_layers).eval()
    scaled = [(x - 0.1307) / 0.3081 for x in (train[:SAMPLES], test)]  # what the network does first
    return Case(plain, *scaled, y)


def _fashion(net: nn.Module) -> Case:
    train, _, test, y = zoo.fashion_mnist()
    folded, _ = fold_batchnorm(net, (train[:2],))
    assert isinstance(folded, nn.Sequential)
    return Case(folded, train[:SAMPLES], test, y)


def lenet_5() -> Case:
    """0.43 M parameters, Fashion-MNIST."""
    return _fashion(zoo.lenet_5())


def depthwise() -> Case:
    """A MobileNet of 73 k parameters, Fashion-MNIST: the kind that few bits hurt."""
    return _fashion(zoo.depthwise())


NETS: dict[str, Callable[[], Case]] = {"digit_cnn": digit_cnn, "lenet_5": lenet_5, "depthwise": depthwise}


def rows_of(what: str, case: Case, count: int) -> list[common.Row]:
    """Points lost with each number of bits."""
    x, y = case.x[:count], case.y[:count]
    with torch.no_grad():
        wanted = torch.cat([case.net(b) for b in x.split(BATCH)])
        statistics = collect(case.net, trace(case.net, (x[:2],)).layers, case.calibration.split(64))
    made: list[common.Row] = []
    for bits in BITS:
        started = time.perf_counter()
        net = integer_net(case.net, case.calibration, bits, statistics)
        built = time.perf_counter() - started
        got, again = (torch.cat([run(net, b) for b in x.split(BATCH)]) for _ in range(2))
        made += _figures(what, bits, (wanted, got), y)
        widest = max(s.accumulator for s in net.steps if isinstance(s, Product))
        made += [
            common.row("lessen", what, f"same_bits_{bits}bit", float(torch.equal(got, again)), "of two runs"),
            common.row("lessen", what, f"accumulator_bits_{bits}bit", widest, "bits", note="proven, the widest layer"),
            common.row("lessen", what, f"seconds_{bits}bit", built, "s", note="calibrated network to integer network"),
        ]
    return made


def _figures(what: str, bits: int, outputs: tuple[Tensor, Tensor], y: Tensor) -> list[common.Row]:
    before, after = (_score(o, y) for o in outputs)
    drop = paired_drop(before, after)
    noise = (outputs[0].double() - outputs[1]).square().mean()
    signal = 10 * float(torch.log10(outputs[0].double().square().mean() / noise))
    spread = {"n": len(y), "low": drop.low, "high": drop.high}
    note = f"accuracy {100 * before.value:.2f} % in float"
    return [
        common.row("lessen", what, f"loss_points_{bits}bit", drop.value, "points", **spread, note=note),
        common.row("lessen", what, f"sqnr_{bits}bit", signal, "dB of the outputs", n=len(y)),
    ]


def _score(outputs: Tensor, y: Tensor) -> Score:
    accuracy = metric_named("accuracy", True)
    hits = accuracy.rows(outputs, y)
    return Score(accuracy, float(hits.mean()), len(hits), hits)


def run(net: IntegerNet, x: Tensor) -> Tensor:
    """The integer network's outputs as numbers; rounding the input and scaling the output are all that is float."""
    codes = net.run(QFormat(net.bits, net.fraction).codes(x).numpy())
    return torch.from_numpy(codes).double() * 2.0**-net.output_fraction


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", "the first net, 250 images")
    parser.add_argument("--nets", default=",".join(NETS), help=f"of {', '.join(NETS)}")
    options = parser.parse_args()
    for what in ["digit_cnn"] if options.quick else options.nets.split(","):
        started = time.perf_counter()
        rows = rows_of(what, NETS[what](), BATCH if options.quick else 10_000)
        seconds = time.perf_counter() - started
        common.show(rows)
        common.keep(options, NAME, what, rows, seconds)


if __name__ == "__main__":
    main()
