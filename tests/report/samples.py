"""A report as a MobileNet-like run would give it, from a private generator."""

from __future__ import annotations

import random

from lessen.report import (
    Coverage,
    DataParts,
    Demand,
    Drop,
    File,
    Kernels,
    Latency,
    LayerRow,
    Left,
    Measured,
    Metric,
    Point,
    Ratios,
    Report,
    Verdict,
)  # fmt: skip


def layers(blocks: int = 17, seed: int = 0) -> tuple[LayerRow, ...]:
    chance = random.Random(seed)
    rows, width = [], 16
    for block in range(blocks):
        wide = width * 6
        for part, parameters in (("expand", width * wide), ("depthwise", wide * 9), ("project", wide * width)):
            rows.append(_layer(f"features.{block}.{part}.weight", parameters, chance, part == "depthwise"))
        width += 8 * (block % 3 == 2)
    return (*rows, _layer("classifier.1.weight", width * 8 * 1000, chance, False))


def _layer(name: str, parameters: int, chance: random.Random, fragile: bool) -> LayerRow:
    done = chance.random() > (0.35 if fragile else 0.04)
    bits = chance.choice((8, 8, 4)) if done else 32
    sparsity = chance.choice((None, None, 0.5)) if done else None
    technique = f"Uniform(bits={bits}, per='channel')" if done else ""
    return LayerRow(
        name, "linear" if "classifier" in name else "conv", technique, done,
        "" if done else "fragile: int8 costs 0.3 points here", 4 * parameters, parameters * bits // 8 + 64,
        sqnr_db=chance.uniform(18, 42) if done else None, bits=float(bits), sparsity=sparsity,
        harm=chance.lognormvariate(-9, 1.5) if done else 0.0, parameters=parameters, macs=parameters * 49,
    )  # fmt: skip


def curve(total: int) -> tuple[Point, ...]:
    points = []
    for who, floor, power in (("joint", 0.0, 2.2), ("Uniform", 0.001, 2.0), ("KMeans", 0.002, 2.1),
                              ("Magnitude", 0.003, 3.2), ("SVD", 0.006, 3.6)):  # fmt: skip
        for i, ratio in enumerate((2, 3, 3.9, 5.2, 7, 10)):
            drop = floor + 0.00011 * ratio**power - (0.0005 if who == "joint" else 0)
            measured = drop * (0.8 + 0.1 * i) if who == "joint" or i % 2 == 0 else None
            points.append(Point(
                int(total / ratio), drop, None if measured is None else 0.7188 - measured, measured,
                chosen=who == "joint" and ratio == 3.9, who=who,
            ))  # fmt: skip
    return tuple(points)


def sample(met: bool = True, rows: tuple[LayerRow, ...] | None = None) -> Report:
    rows = layers() if rows is None else rows
    total = max(sum(row.bytes_before for row in rows), 1)
    demands = [Demand("max_drop", "1 point", "0.21 points (at most 0.50)", True, limit=1.0)]
    if not met:
        demands.append(Demand("max_latency", "1 ms", "1.52 ms", False, "the depthwise layers run in float", 1.0))
    return Report(
        model="mobilenet_v2.onnx", target="onnxruntime",
        baseline=Measured(total, 3_504_872, 300_774_272, Metric("accuracy", 0.7188, 5000),
                          Latency(4.26, 4.11, 4.61), 68_500_000),
        result=Measured(int(total / 3.9), 3_504_872, 300_774_272, Metric("accuracy", 0.7167, 5000),
                        Latency(1.52, 1.49, 1.71), 24_300_000),
        drop=Drop(0.0021, -0.001, 0.005), ratios=Ratios(3.9, 5.3, 2.8, 2.82, 1.0), layers=rows,
        plan_sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", seed=0,
        versions={"lessen": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.0"},
        machine={"cpu": "x86_64, AVX512-VNNI", "cores": 2, "memory_gb": 23.4},
        seconds={"load": 0.8, "baseline": 6.1, "trace": 3.4, "calibrate": 14.2, "propose": 21.7, "search": 33.0,
                 "search/solve": 1.2, "search/measure": 31.6, "export": 2.2, "verify": 12.8, "report": 0.2},
        budget=Verdict.of(demands, "" if met else "int8 with float depthwise layers is the fastest that is possible"),
        data=DataParts(300, 1000, 5000, True, "accuracy"),
        coverage=Coverage(0.972, (Left("head.custom", "a loop over the batch could not be exported"),)),
        curve=curve(total),
        risks=("5000 test samples can show a drop of 1 point to within 0.3 points only",),
        files=(File("onnxruntime", "model.onnx", int(total / 3.9)), File("packed", "model.lessen", int(total / 5.3)),
               File("plan", "plan.yaml", 8231), File("report", "report.html", 90_112)),
        kernels=Kernels(41, 11), command="lessen compress mobilenet_v2.onnx --data val/ --max-drop 1% --out out",
    )  # fmt: skip
