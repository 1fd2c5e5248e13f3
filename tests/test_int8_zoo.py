"""What int8_zoo keeps between its runs, and what it says of the zoo as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lessen.data import Score
from lessen.data.metrics import accuracy

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import int8_zoo_kept
    import int8_zoo_summary

    return int8_zoo_kept, int8_zoo_summary


def test_files_and_scores_outlive_a_run(modules, tmp_path: Path) -> None:
    Kept = modules[0].Kept
    first = Kept(tmp_path / "m", "m")
    (tmp_path / "m" / "a.onnx").write_bytes(b"1")
    first.made("peer 1.0", tmp_path / "m" / "a.onnx")
    first.judged("peer 1.0", "openvino", Score(accuracy, 0.5, 2, torch.tensor([0.0, 1.0])))
    again = Kept(tmp_path / "m", "m")
    assert again.has("peer 1.0", "openvino") and not again.has("peer 1.0", "onnxruntime")
    assert again.path("peer 1.0") == tmp_path / "m" / "a.onnx"
    assert again.score("peer 1.0", "openvino", accuracy).per_sample.tolist() == [0.0, 1.0]
    again.forget("peer 1.0")
    assert not again.has("peer 1.0")


def test_ours_is_the_worse_of_its_two_files(modules, tmp_path: Path) -> None:
    kept = modules[0].Kept(tmp_path / "m", "m")
    for runtime, loss, size in (("openvino", 0.1, 7), ("onnxruntime", 0.3, 7)):
        kept.row(f"lessen for {runtime}", "file_bytes", size, "bytes")
        kept.row(f"lessen for {runtime}", f"loss_points_{runtime}", loss, "points")
    figures = {r["figure"]: r["value"] for r in kept.rows()}
    assert figures["loss_points"] == 0.3
    assert {"file_bytes_openvino", "file_bytes_onnxruntime", "file_bytes"} <= figures.keys()
    assert all(r["who"] == "lessen" for r in kept.rows())


def row(who: str, what: str, value: float | None, figure: str = "loss_points", low: float = -1.0) -> dict:
    return {"who": who, "what": what, "figure": figure, "value": value, "unit": "points", "low": low, "note": ""}


def test_the_zoo_is_mean_worst_and_where_ours_is_behind(modules) -> None:
    summed_up = modules[1].summed_up
    rows = [row("lessen", "a", 0.1), row("lessen", "b", 0.4), row("peer", "a", 0.9), row("peer", "b", None)]
    over = (("a", 0.1, 0.05), ("b", 0.1, -0.2), ("c", -0.1, -0.2))
    rows += [row("lessen", what, value, "loss_over_best_peer_openvino", low) for what, value, low in over]
    rows += [row("lessen", m, v, "latency_ratio_openvino") for m, v in (("a", 2.0), ("b", 0.5))]
    found = {(r["who"], r["figure"]): r for r in summed_up(rows)}
    assert found["lessen", "mean_loss_points"]["value"] == pytest.approx(0.25)
    assert found["lessen", "worst_loss_points"]["note"] == "b"
    assert found["peer", "mean_loss_points"]["n"] == 1
    assert found["lessen", "models_behind_openvino"]["value"] == 2
    assert found["lessen", "models_behind_beyond_noise_openvino"]["note"] == "a"
    assert found["lessen", "latency_ratio_openvino"]["value"] == pytest.approx(1.0)
    assert found["lessen", "worst_latency_ratio_openvino"]["value"] == 0.5
