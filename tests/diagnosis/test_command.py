"""`lessen diagnose` as a stranger meets it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from diagnosis import broken
from lessen import Plan, cli
from lessen.diagnosis import diagnose
from lessen.diagnosis.page import render_page
from lessen.diagnosis.record import record
from lessen.diagnosis.show import print_diagnosis


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("user")
    net = broken.clipped()
    parts = broken.samples(net)
    x = parts["calibration"][0]
    broken.npz(parts, place / "data.npz")
    broken.quantized(broken.saved(net, x, place / "float.onnx"), place / "int8.onnx", x)
    broken.quantized(place / "float.onnx", place / "fine.onnx", x, per_channel=True)
    (place / "cut.onnx").write_bytes((place / "int8.onnx").read_bytes()[:3000])
    (place / "empty.onnx").write_bytes(b"")
    (place / "nothing").mkdir()
    return place


@pytest.fixture
def lessen(folder, monkeypatch, capfd):
    """Runs the command in the user's folder: (exit code, what it printed, what it complained)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", ["lessen", "diagnose", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (ended.value.code or 0, *capfd.readouterr())

    return run


def test_what_it_says_in_ten_seconds(lessen, folder) -> None:
    before = sorted(p.name for p in folder.iterdir())
    code, said, complained = lessen("float.onnx", "int8.onnx", "--data", "data.npz")
    assert (code, complained) == (0, "")
    lines = said.splitlines()
    assert "points lost: accuracy" in lines[0]
    assert "breaks at" in said
    assert "one step for 16 channels" in said
    assert "15 of them round to zero" in said.replace("\n   ", " ")
    assert "mend: 8-bit weights with a step for each channel" in said
    assert max(map(len, lines)) <= 80
    assert sorted(p.name for p in folder.iterdir()) == before


def test_fix_writes_what_it_measured(lessen, folder, tmp_path) -> None:
    out = tmp_path / "out"
    code, said, _ = lessen("float.onnx", "int8.onnx", "--data", "data.npz", "--fix", "--max-drop", "25%", "--out",
                           str(out))  # fmt: skip
    assert code == 0
    assert "Mended:" in said
    assert {p.name for p in out.iterdir()} == {"model.onnx", "diagnosis.json", "diagnosis.html", "plan.yaml"}
    told = json.loads((out / "diagnosis.json").read_text())
    assert told["fixed"]["held"]
    assert told["fixed"]["file_bytes"] == (out / "model.onnx").stat().st_size
    assert told["fixed"]["drop_after"] <= 25 < told["fixed"]["drop_before"]
    assert told["causes"][0]["reason"] == "OneStep"
    assert set(told["files"]) == {"model.onnx", "plan.yaml"}
    plan = Plan.load(out / "plan.yaml")
    assert plan.layers["middle.weight"].technique.per == "channel"
    assert "<script" not in (out / "diagnosis.html").read_text()


def test_a_promise_that_no_mend_can_keep_ends_with_3(lessen, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lessen.diagnosis.repair._Work._dear", lambda self: iter(()))  # nothing goes back to float
    monkeypatch.setattr("lessen.diagnosis.repair.together", lambda mends: [])
    code, said, _ = lessen("float.onnx", "int8.onnx", "--data", "data.npz", "--fix", "--out", str(tmp_path / "out"))
    assert code == 3
    assert "NOT mended" in said
    assert (tmp_path / "out" / "diagnosis.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("float.onnx", "cut.onnx"), "cut.onnx: not an ONNX file"),
        (("float.onnx", "empty.onnx"), "empty.onnx"),
        (("float.onnx", "gone.onnx"), "gone.onnx: no such file"),
        (("gone.onnx", "int8.onnx"), "gone.onnx: no such file"),
        (("float.onnx", "nothing"), "no model.onnx in this folder"),
        (("float.onnx", "data.npz"), "can't examine .npz"),
        (("float.onnx", "float.onnx"), "nothing in it is quantized"),
        (("int8.onnx", "float.onnx"), "it is quantized itself"),
        (("float.onnx", "int8.onnx", "--fix"), "give --out DIR"),
        (("float.onnx", "int8.onnx", "--max-drop", "1%"), "nothing is promised without --fix"),
        (("float.onnx", "int8.onnx", "--metric", "acuracy"), "did you mean 'accuracy'"),
    ],
)
def test_bad_input_ends_with_one_message(lessen, arguments, told) -> None:
    code, said, complained = lessen(*arguments, "--data", "data.npz")
    assert code == 2
    assert said == ""
    assert complained.startswith("lessen: ")
    assert told in complained
    assert len(complained.strip().splitlines()) <= 2


def test_data_of_another_task_are_refused(lessen, folder) -> None:
    import numpy as np

    np.savez(folder / "wide.npz", x=np.zeros((60, 3, 8, 8), "float32"), y=np.zeros(60, int))
    code, _, complained = lessen("float.onnx", "int8.onnx", "--data", "wide.npz")
    assert code == 2
    assert "samples of shape" in complained


def test_untrusted_names_stay_on_their_line(folder) -> None:
    import dataclasses

    told = record(diagnose(str(folder / "float.onnx"), folder / "fine.onnx", str(folder / "data.npz")))
    evil = dataclasses.replace(told.layers[1], name="<script>\x1b[2J\nlayer")
    told = dataclasses.replace(told, layers=(told.layers[0], evil, *told.layers[2:]), worst=(evil.node,))
    said = io.StringIO()
    print_diagnosis(told, said)
    assert "\x1b" not in said.getvalue()
    page = render_page(told)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
