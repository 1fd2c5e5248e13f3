"""The shape of the files of results: what benchmarks write, and what is kept in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WRITTEN = sorted((BENCHMARKS / "results").glob("*.json"))


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import common

    return common


def test_a_row_keeps_what_it_is_given_and_leaves_out_what_is_none(common) -> None:
    row = common.row("lessen", "demo", "loss_points", 0.5, "points", n=100, low=None, note="")
    assert row == {"who": "lessen", "what": "demo", "figure": "loss_points", "value": 0.5, "unit": "points",
                   "n": 100, "note": ""}  # fmt: skip


def test_parts_are_written_one_by_one_into_one_file(common, tmp_path: Path) -> None:
    path = tmp_path / "results" / "x.json"
    common.save(path, "python benchmarks/x.py", "a", [common.row("lessen", "a", "f", 1.0, "s")], 2.0)
    common.save(path, "python benchmarks/x.py", "b", [common.row("lessen", "b", "f", 2.0, "s")], 3.0, ("numpy",))
    common.save(path, "python benchmarks/x.py", "a", [common.row("lessen", "a", "f", 4.0, "s")], 5.0)
    document = json.loads(path.read_text())
    assert {r["what"]: r["value"] for r in document["rows"]} == {"a": 4.0, "b": 2.0}
    assert document["seconds"] == 8.0 and set(document["parts"]) == {"a", "b"}
    assert document["versions"]["numpy"] and document["machine"]["cores"] >= 1
    assert common.problems(document) == []


def test_a_figure_that_is_no_number_is_refused(common, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        common.save(tmp_path / "x.json", "", "a", [common.row("lessen", "a", "f", float("nan"), "s")], 1.0)


def test_an_infinite_figure_is_told_in_words(common) -> None:
    row = common.row("peer", "a", "loss_points", float("inf"), "points", low=1.0)
    assert row["value"] is None and row["note"] == "infinite" and "low" not in row


def test_notes_name_files_as_they_lie_in_the_project(common) -> None:
    note = "LessenError: /somewhere/else/.cache/zoo/silero/vad.onnx: refused"
    assert (
        common.row("peer", "a", "f", None, "s", note=note)["note"] == "LessenError: .cache/zoo/silero/vad.onnx: refused"
    )


def test_what_a_peer_answers_may_be_no_number(common) -> None:
    row = common.row("peer", "a", "sqnr", float("nan"), "dB", low=1.0)
    assert row["value"] is None and row["note"] == "not a number" and "low" not in row


def test_wrong_shapes_are_found(common) -> None:
    right = {"command": "", "commit": "", "machine": {}, "versions": {}, "seconds": 1.0}
    row = common.row("lessen", "a", "f", None, "s")
    assert common.problems({**right, "rows": [row]}) == ["row 0: neither a value nor a note"]
    assert common.problems({**right, "rows": [{**row, "note": "not installed"}]}) == []
    assert common.problems({**right, "rows": [{**row, "value": 1, "unit": None}]}) == ["row 0: unit"]
    assert "rows" in common.problems(right)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: p.stem)
def test_every_file_of_results_has_the_shape(common, path: Path) -> None:
    document = json.loads(path.read_text())
    assert common.problems(document) == []
    assert document["rows"]
