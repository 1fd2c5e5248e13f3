"""report.json: its keys, its round trip, and what it says about files that are not reports."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lessen.errors import LessenError
from lessen.report import Demand, Drop, LayerRow, Report, Verdict, read_json
from lessen.report.plain import write_whole
from report.samples import sample


def test_keys_are_the_documented_ones() -> None:
    plain = sample().to_dict()
    assert {"baseline", "result", "drop", "ratios", "layers", "plan_sha256", "seed", "versions", "machine",
            "seconds", "budget", "curve", "risks", "coverage", "data", "target", "simulated"} <= set(plain)  # fmt: skip
    for side in ("baseline", "result"):
        assert {"file_bytes", "parameters", "macs", "metric", "latency_ms", "peak_memory_bytes"} == set(plain[side])
        assert {"name", "value", "n"} <= set(plain[side]["metric"])
        assert set(plain[side]["latency_ms"]) == {"median", "p10", "p90", "batch"}
    assert set(plain["drop"]) == {"value", "low", "high", "confidence"}
    assert set(plain["ratios"]) == {"size", "packed_size", "latency", "memory", "macs"}
    needed = {"name", "kind", "technique", "done", "why", "bytes_before", "bytes_after", "sqnr_db"}
    assert all(needed <= set(row) for row in plain["layers"])
    assert set(plain["kernels"]) == {"integer", "float", "sparse"}
    assert set(plain["budget"]) >= {"asked", "met", "unmet"}


@pytest.mark.parametrize("met", [True, False])
def test_file_round_trip(tmp_path, met: bool) -> None:
    report = sample(met)
    report.write_json(tmp_path / "report.json")
    assert read_json(tmp_path / "report.json") == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


optional = st.none() | st.floats(allow_nan=False, allow_infinity=False)
rows = st.builds(LayerRow, st.text(), st.text(), st.text(), st.booleans(), st.text(), st.integers(0, 2**50),
                 st.integers(0, 2**50), optional, optional, optional, optional)  # fmt: skip


@given(st.lists(rows, max_size=4), st.lists(st.text(), max_size=3))
def test_any_layers_and_risks_round_trip(layers: list[LayerRow], risks: list[str]) -> None:
    report = dataclasses.replace(sample(), layers=tuple(layers), risks=tuple(risks))
    assert Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report


def test_numbers_that_json_lacks_become_null() -> None:
    plain = dataclasses.replace(sample(), drop=Drop(0.1, math.nan, math.inf)).to_dict()
    assert plain["drop"]["low"] is None and plain["drop"]["high"] is None
    assert math.isnan(Report.from_dict(plain).drop.low)


def test_reading_is_tolerant_of_newer_and_older_files() -> None:
    plain = sample().to_dict() | {"of the future": 1}
    del plain["curve"], plain["layers"][0]["sqnr_db"]
    report = Report.from_dict(plain)
    assert report.curve == () and report.layers[0].sqnr_db is None


def test_a_wrong_place_is_named() -> None:
    plain = sample().to_dict()
    plain["layers"][3]["bytes_after"] = "many"
    with pytest.raises(LessenError, match=r"layers\[3\].bytes_after: expected a number, got 'many'"):
        Report.from_dict(plain)
    del plain["result"]["metric"]["n"], plain["layers"]
    with pytest.raises(LessenError, match=r"result\.metric\.n: missing"):
        Report.from_dict(plain)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"null", b'{"kernels": 3}'])
def test_files_that_are_no_reports(tmp_path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(LessenError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_missing_file(tmp_path) -> None:
    with pytest.raises(LessenError, match=r"mend: give a report\.json"):
        read_json(tmp_path / "none.json")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(LessenError, match="No space left on device"):
        write_whole(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_verdict_names_what_is_not_met() -> None:
    verdict = Verdict.of([Demand("max_drop", "1%", "0.2", True), Demand("max_size", "1MB", "2 MB", False)])
    assert not verdict.met and verdict.unmet == ("max_size",)
    assert Verdict.of([]).met
