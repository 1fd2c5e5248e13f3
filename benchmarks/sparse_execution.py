"""Sparse execution: from how many zeros on does a runtime compute quicker?

`shapes`: a stack of equal linear layers with ReLUs, weights and activations in 8 bits, the given share of the weights
zero (the smallest, by our own `Magnitude`), run with 1 and 128 rows. Each file is timed by turns with the one
without zeros, on one core: in ONNX Runtime, in OpenVINO as it is, and in OpenVINO asked for its sparse kernels. How
many of the layers run by those is read from the graph that OpenVINO made. Outputs of the last two are compared.

`fashion_mlp`: a real network (784-2048-2048-10 on Fashion-MNIST), its zeros trained in, through `Compression`.

    PYTHONPATH=tests python benchmarks/sparse_execution.py [--parts shapes,fashion_mlp] [--quick]

On a CPU without AMX OpenVINO has no such kernels; the rows then say so.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import onnx_ir as ir
import torch
from torch import Tensor, nn

import zoo
from lessen import GMP, Compression, Magnitude, Stack, Uniform
from lessen.codings import Coding
from lessen.models import trace
from lessen.models.layer import Layer
from lessen.statistics import Statistics
from lessen.targets import OnnxRuntime, OpenVINO, compare, float_onnx
from lessen.targets.coded import Coded
from lessen.targets.target import Session, Target
from zoo.training import initialise, shuffled, train

NAME = "sparse_execution"
SHAPES = ((384, 8), (768, 6), (1536, 4), (3072, 2))  # width, layers
ROWS = (1, 128)
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
IMAGES = 20_000
PACKAGES = ("openvino", "onnxruntime", "torch")
NO_AMX = "this CPU has no AMX"


class Plain(OpenVINO):
    """OpenVINO as it is, not asked for sparse kernels."""

    skips_zeros = None


class Asked(OpenVINO):
    """OpenVINO asked for sparse kernels for every layer that has any zeros to speak of."""

    @property
    def skips_zeros(self) -> float | None:
        return None if super().skips_zeros is None else 0.4


class OneCore:
    """Each file in its own target, with one thread."""

    def __init__(self, targets: Mapping[Path, Target]) -> None:
        self.targets = targets

    def session(self, path: Path, threads: int = 1) -> Session:
        return self.targets[path].session(path, threads)


@dataclass(frozen=True, eq=False)
class Made:
    """A stack of linear layers, traced and as a float graph; `file` writes it with zeros, in 8-bit integers."""

    layers: tuple[Layer, ...]
    graph: ir.Model
    x: Tensor

    @classmethod
    def of(cls, width: int, depth: int, rows: int) -> Made:
        generator = torch.Generator().manual_seed(0)
        net = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())))
        initialise(net, 0)
        x = torch.randn(rows, width, generator=generator)
        return cls(trace(net.eval(), (x,)).layers, float_onnx(net, (x,)), x)

    def file(self, sparsity: float, target: Target, path: Path) -> Path:
        """The network with that share of zeros."""
        technique: Any = Stack((Magnitude(sparsity), Uniform(8))) if sparsity else Uniform(8)
        codings: dict[str, Coding] = {layer.name: technique.encode(layer, Statistics()) for layer in self.layers}
        coded = Coded(self.layers, codings, dict.fromkeys(codings, "int8"))
        return target.export(self.graph, path, coded, target.ranges(self.graph, coded, [(self.x,)]))


def shapes(folder: Path, sizes: Sequence[tuple[int, int]], rows: Sequence[int], seconds: float) -> list[common.Row]:
    return [
        row
        for width, depth in sizes
        for made in (Made.of(width, depth, max(rows)),)
        for target in (OnnxRuntime(), Plain(), Asked())
        for row in _curve(made, target, folder, rows, seconds)
    ]


def _curve(made: Made, target: Target, folder: Path, rows: Sequence[int], seconds: float) -> list[common.Row]:
    x, depth = made.x, len(made.layers)
    files = [made.file(s, target, folder / f"{type(target).__name__}-{s}.onnx") for s in (0.0, *SPARSITIES)]
    what, who = f"{x.shape[1]}x{x.shape[1]}", _who(target)
    if isinstance(target, Asked) and target.skips_zeros is None:
        return [common.row(who, "shapes", f"{what}/speedup", None, "x", note=NO_AMX)]
    found = []
    for n in rows:
        times = compare(files, (x,), OneCore(dict.fromkeys(files, target)), n, seconds)  # type: ignore[arg-type]
        found += [
            common.row(who, "shapes", f"{what}/rows {n}/zeros {s:g}/speedup", t.ratio, "x", n=t.n, low=t.ratio_low,
                       high=t.ratio_high) for s, t in zip(SPARSITIES, times[1:], strict=True)
        ]  # fmt: skip
    for s, file in zip(SPARSITIES, files[1:], strict=True):
        kernels = target.verify(file)
        found.append(common.row(who, "shapes", f"{what}/zeros {s:g}/sparse_kernels", len(kernels.sparse), "layers",
                                n=depth))  # fmt: skip
        if isinstance(target, Asked):
            apart = _apart(target.session(file), Plain().session(file), x)
            found.append(common.row(who, "shapes", f"{what}/zeros {s:g}/difference", apart, "of the largest output"))
    return found


def _who(target: Target) -> str:
    asked = "/sparse kernels" if isinstance(target, Asked | OpenVINO) and not isinstance(target, Plain) else ""
    return f"lessen/{target.name}{asked}"


def _apart(one: Session, other: Session, x: Tensor) -> float:
    a, b = one((x,))[0], other((x,))[0]
    return float((a - b).abs().max() / b.abs().max())


def fashion_mlp(folder: Path, sparsity: float, epochs: int, seconds: float) -> list[common.Row]:
    """Dense and sparse, both in 8-bit integers, in OpenVINO; each is held against the float file by its own job."""
    x, y, x_test, y_test = zoo.fashion_mnist()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(),
                        nn.Linear(2048, 10))  # fmt: skip
    train(net, shuffled(x[:IMAGES], y[:IMAGES], 128), epochs, steps=IMAGES // 128, rate=1e-3)
    net.eval()
    parts = {"calibration": (x[:300], y[:300]), "validation": (x[50_000:53_000], y[50_000:53_000]),
             "test": (x_test, y_test)}  # fmt: skip
    jobs = {
        "dense": ((Uniform(8),), None),
        "sparse": ((GMP(sparsity, epochs, lr=1e-3, batch_size=128), Uniform(8)), (x[:IMAGES], y[:IMAGES])),
    }
    found, files = [], {}
    for name, (using, taught) in jobs.items():
        result = Compression(net, parts, "1%", using, "openvino", train=taught).run(folder / name)
        report, files[name] = result.report, folder / name / "model.onnx"
        kernels = report.kernels
        assert kernels is not None
        found += [
            common.row(f"lessen/{name}", "fashion_mlp", "loss_points", 100 * report.drop.value, "points", n=len(y_test),
                       low=100 * report.drop.low, high=100 * report.drop.high),
            common.row(f"lessen/{name}", "fashion_mlp", "file_bytes", report.result.file_bytes, "bytes"),
            common.row(f"lessen/{name}", "fashion_mlp", "packed_ratio", report.ratios.packed_size, "x"),
            common.row(f"lessen/{name}", "fashion_mlp", "sparse_kernels", kernels.sparse, "layers"),
        ]  # fmt: skip
    whole = folder / "float.onnx"
    OpenVINO().export(float_onnx(net, (x[:2],)), whole, None, {})
    plain = folder / "plain.onnx"
    plain.write_bytes(files["sparse"].read_bytes())
    targets = {files["dense"]: Plain(), whole: Plain(), plain: Plain(), files["sparse"]: OpenVINO()}
    names = ("dense", "float32", "sparse, not asked for", "sparse")
    for n in (1, 16, 128):
        times = compare([*targets], (x_test[:n],), OneCore(targets), n, seconds)  # type: ignore[arg-type]
        found += [
            common.row(f"lessen/{name}", "fashion_mlp", f"rows {n}/speedup_to_dense_int8", t.ratio, "x", n=t.n,
                       low=t.ratio_low, high=t.ratio_high) for name, t in zip(names, times, strict=True) if t.n
        ]  # fmt: skip
    return found


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", "one shape, one row")
    parser.add_argument("--parts", default="shapes,fashion_mlp")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in ["shapes"] if options.quick else options.parts.split(","):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as name:
            if part == "shapes":
                rows = shapes(Path(name), *(((SHAPES[0],), (1,), 0.1) if options.quick else (SHAPES, ROWS, 1.0)))
            else:
                rows = fashion_mlp(Path(name), 0.95, 3, 3.0)
        common.show(rows)
        common.keep(options, NAME, part, rows, time.perf_counter() - started, PACKAGES)


if __name__ == "__main__":
    main()
