"""Budgets: reading what people write, refusing what can't be, telling what is not met."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lessen.budget import Budget, show_bytes
from lessen.errors import LessenError


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("max_drop", "1%", 1.0),
        ("max_drop", "0.5", 0.5),
        ("max_drop", "1 point", 1.0),
        ("max_drop", "2 points", 2.0),
        ("max_drop", 0, 0.0),
        ("max_size", "2MB", 2e6),
        ("max_size", "500 kB", 5e5),
        ("max_size", "1MiB", 2**20),
        ("max_size", "1_000_000", 1e6),
        ("max_size", "1.5e3 kB", 1.5e6),
        ("max_size", np.int64(77), 77),
        ("max_latency", "5ms", 5.0),
        ("max_latency", "0.2 s", 200.0),
        ("max_latency", "300us", 0.3),
        ("max_latency", ".5 µs", 0.0005),
        ("min_ratio", "8x", 8.0),
        ("min_ratio", "8:1", 8.0),
        ("min_ratio", 1, 1.0),
        ("max_memory", "64 MiB", 2**26),
    ],
)
def test_reads(field: str, text: object, value: float) -> None:
    assert getattr(Budget.parse(**{field: text}), field) == pytest.approx(value, rel=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *[
            ("max_drop", t)
            for t in ("", "%", "one", "1 MB", "nan", "inf", "1e999", "1,5%", "1.2.3", "-1%", "100%", "1%%")
        ],
        *[("max_size", t) for t in ("0", "-2MB", "2 Mx", "MB", "5ms", math.nan, math.inf, True, b"2MB", [2])],
        *[("max_latency", t) for t in ("0ms", "-5ms", "5 MB", "5 m")],
        *[("min_ratio", t) for t in ("0.5x", "0", "-8x", "8 %")],
    ],
)
def test_refuses(field: str, text: object) -> None:
    with pytest.raises(LessenError, match='mend: write "') as caught:
        Budget.parse(**{field: text})  # type: ignore[arg-type]
    assert caught.value.where == "--" + field.replace("_", "-")
    assert repr(text) in str(caught.value)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    for field in ("max_drop", "max_size", "max_latency", "min_ratio"):
        try:
            value = getattr(Budget.parse(**{field: text}), field)
        except LessenError:
            continue
        assert math.isfinite(value) and value >= 0


@given(st.floats(0.001, 1e6), st.sampled_from([("kB", 1e3), ("KiB", 1024), ("MB", 1e6), ("b", 1), ("GiB", 2**30)]))
def test_sizes(number: float, unit: tuple[str, float]) -> None:
    expected = number * unit[1]
    if expected >= 1:
        assert Budget.parse(max_size=f"{number!r} {unit[0]}").max_size == pytest.approx(expected)


def test_nothing_asked_asks_one_point() -> None:
    assert Budget() == Budget(max_drop=1.0) == Budget.of(None) == Budget.of("1%")
    assert Budget.parse(max_size="2MB").max_drop is None


def test_of() -> None:
    budget = Budget(min_ratio=4)
    assert Budget.of(budget) is budget
    assert Budget.of({"min_ratio": "4x"}) == budget
    with pytest.raises(LessenError, match="no 'max_energy'"):
        Budget.of({"max_energy": "1J"})


def test_describe() -> None:
    budget = Budget.parse(max_drop="1%", max_size="2MB", max_latency="300us", min_ratio="8x")
    assert budget.describe() == "lose at most 1 point, file at most 2 MB, run in at most 0.3 ms, at least 8x smaller"


def test_unmet_names_each_demand() -> None:
    budget = Budget.parse(max_drop="1%", max_size="2MB", max_latency="5ms", min_ratio="8x")
    good = {"drop": 1.0, "file_bytes": 2_000_000, "latency_ms": 5.0, "ratio": 8.0}
    assert budget.unmet(good) == []
    bad = budget.unmet({"drop": 1.01, "file_bytes": 2_000_001, "latency_ms": math.nan, "ratio": 7.9})
    assert bad == [
        "--max-drop asked 1 point, measured 1.01 points",
        "--max-size asked 2 MB, measured 2 MB",
        "--max-latency asked 5 ms, measured nan ms",
        "--min-ratio asked 8x, measured 7.9x",
    ]
    assert budget.unmet({**good, "drop": None}) == ["--max-drop asked 1 point, measured nothing"]
    assert len(budget.unmet({})) == 4
    assert budget.unmet({**good, "drop": math.inf}) and not budget.unmet({**good, "drop": -3.0})


def test_show_bytes() -> None:
    assert [show_bytes(n) for n in (999, 1000, 2.5e6, 3e9, 5e12)] == ["999 bytes", "1 kB", "2.5 MB", "3 GB", "5 TB"]


def test_nothing_demands_nothing():
    assert Budget.nothing().max_drop is None and Budget.nothing().account({}) == [] == Budget.nothing().unmet({})
