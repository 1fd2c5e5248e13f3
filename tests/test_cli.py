"""The command line as a stranger meets it: what it prints, how it ends, and that nothing is damaged."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import small
from lessen import cli

HERE = Path(__file__).parent
FACTORIES = """
import sys
sys.path.insert(0, {here!r})
import small
from safetensors.torch import load_file

def net():
    network = small.network()
    network.load_state_dict(load_file({weights!r}))
    return network

def fails():
    raise RuntimeError("no weights here")

def leaves():
    raise SystemExit(0)

def number():
    return 3

def damaged():
    network = net()
    network[9].weight.data[3, 5] = float("nan")
    return network

def endless(n=10**6):
    import time, torch
    for i in range(n):
        time.sleep(0.05)
        yield torch.zeros(2, 1, 12, 12)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: net.py, data.npz and what can be wrong with either."""
    place = tmp_path_factory.mktemp("user")
    save_file(small.trained().state_dict(), place / "net.safetensors")
    (place / "net.py").write_text(FACTORIES.format(here=str(HERE), weights=str(place / "net.safetensors")))
    x, y = (t.numpy() for t in small.data(400))
    np.savez(place / "data.npz", x=x, y=y)
    np.savez(place / "unlabelled.npz", x=x)
    np.savez(place / "empty.npz", x=x[:0], y=y[:0])
    np.savez(place / "classes.npz", x=x, y=y + 1)
    np.savez(place / "wide.npz", x=np.zeros((50, 3, 12, 12), "float32"), y=y[:50])
    np.savez(place / "pickled.npz", x=np.array([{}], dtype=object))
    (place / "cut.npz").write_bytes((place / "data.npz").read_bytes()[:5000])
    (place / "junk.onnx").write_bytes(b"\x08\x09 not a model" * 40)
    (place / "junk.lessen").write_bytes(os.urandom(400))
    x[7, 0, 3, 3] = np.nan
    np.savez(place / "nan.npz", x=x, y=y)
    torch.save(small.network(), place / "net.pt")
    return place


@pytest.fixture
def lessen(folder, monkeypatch, capfd):
    """Runs a command in the user's folder: (exit code, what it printed, what it complained)."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LESSEN_CACHE", str(folder / "cache"))  # the network is timed once

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lessen", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    """One finished run, as a process of its own."""
    out = folder / "done"
    ended = process(folder, "compress", "net.py:net", "--data", "data.npz", "--max-drop", "5%", "--using", "uniform",
                    "--out", str(out))  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return out, ended.stdout


LESSEN = [sys.executable, "-c", "import sys; sys.argv[0] = 'lessen'; from lessen.cli import main; main()"]


def process(folder: Path, *words: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LESSEN, *words], cwd=folder, capture_output=True, text=True,
                          timeout=120, **more)  # type: ignore[call-overload]  # fmt: skip


def test_a_run_writes_everything_and_says_where(done):
    out, said = done
    assert {p.name for p in out.iterdir()} == {
        "model.onnx", "model.lessen", "plan.yaml", "report.json", "report.html", "run.log"
    }  # fmt: skip
    assert "Every demand met" in said and str(out) in said
    assert max(map(len, said.splitlines()[:-1])) <= 80


def test_the_report_holds_the_command_line(done):
    import json

    command = json.loads((done[0] / "report.json").read_text())["command"]
    assert command.startswith("lessen compress net.py:net --data data.npz --max-drop 5%")


def test_apply_gives_the_same_bytes(lessen, done, tmp_path):
    code, _, complaint = lessen("apply", done[0] / "plan.yaml", "net.py:net", "--data", "data.npz", "--out",
                                tmp_path / "again")  # fmt: skip
    assert code == 0, complaint
    for name in ("model.onnx", "model.lessen", "plan.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (done[0] / name).read_bytes()


def test_dynamic_quantization_is_asked_for_by_name(lessen, tmp_path):
    code, _, complaint = lessen("compress", "net.py:net", "--data", "data.npz", "--max-drop", "5%", "--using",
                                   "dynamic,uniform", "--where", "9.*", "--out", tmp_path / "out")  # fmt: skip
    assert code == 0, complaint
    plan = (tmp_path / "out" / "plan.yaml").read_text()
    (tmp_path / "plan.yaml").write_text(f"{plan[: plan.index('layers:')]}layers: {{9.weight: {{technique: Dynamic}}}}")
    code, _, complaint = lessen("apply", tmp_path / "plan.yaml", "net.py:net", "--data", "data.npz", "--out",
                                   tmp_path / "again")  # fmt: skip
    assert code == 0, complaint
    assert "9.weight: {technique: Uniform, activations: token}" in (tmp_path / "again" / "plan.yaml").read_text()
    assert "inputs rounded in every token" in (tmp_path / "again" / "report.json").read_text()


def test_measure_puts_files_side_by_side_and_unpack_gives_onnx(lessen, done, tmp_path):
    code, said, complaint = lessen("unpack", done[0] / "model.lessen", "--out", tmp_path / "plain.onnx")
    assert code == 0 and "plain.onnx" in said, complaint
    code, said, complaint = lessen("measure", done[0] / "model.onnx", tmp_path / "plain.onnx", done[0] / "model.lessen",
                                   "--data", "data.npz")  # fmt: skip
    assert code == 0, complaint
    assert "larger" in said and "accuracy over 150 samples" in " ".join(said.split())


def test_inspect_forecasts_bytes_and_time_without_data(lessen):
    code, said, complaint = lessen("inspect", "net.py:net", "--input-shape", "1x12x12")
    assert code == 0, complaint
    assert "9.weight" in said and "Uniform(bits=8)" in said and "ms" in said and "no speed" in said


def test_inspect_asks_for_the_shape_when_nothing_tells_it(lessen):
    code, _, complaint = lessen("inspect", "net.py:net")
    assert code == 2 and "--input-shape" in complaint


WRONG = [
    (["net.py:net", "--data", "data.npz", "--max-drop", "lots"], "--max-drop: can't read 'lots'"),
    (["net.py:net", "--data", "data.npz", "--max-size", "0"], "--max-size"),
    (["net.py:net", "--data", "data.npz", "--min-ratio", "0.5x"], "--min-ratio"),
    (["net.py:net", "--data", "data.npz", "--max-latency", "5kg"], "--max-latency"),
    (["net.py:net", "--data", "data.npz", "--seed", "9" * 25], "--seed"),
    (["net.py:net", "--data", "data.npz", "--target", "onnxruntim"], "did you mean 'onnxruntime'"),
    (["net.py:net", "--data", "data.npz", "--using", "unifrom"], "did you mean 'Uniform'"),
    (["net.py:net", "--data", "data.npz", "--using", ","], "no technique is named"),
    (["net.py:net", "--data", "data.npz", "--using", "dynamic", "--target", "packed"], "rounds no inputs at run time"),
    (["net.py:net", "--data", "data.npz", "--metric", "acuracy"], "did you mean 'accuracy'"),
    (["net.py:net", "--data", "data.npz", "--where", "nope*"], "no layer matches 'nope*'"),
    (["net.py:net", "--data", "data.npz", "--images", "mean=0.5"], "--images: is for a folder of images"),
    (["net.py:net", "--data", "missing.npz"], "missing.npz: no such file"),
    (["net.py:net", "--data", "empty.npz"], "empty.npz: no samples"),
    (["net.py:net", "--data", "cut.npz"], "cut.npz: not a whole .npz file"),
    (["net.py:net", "--data", "nan.npz"], "NaN or infinity in input 0 of sample 7"),
    (["net.py:net", "--data", "classes.npz"], "label 4 in the calibration part"),
    (["net.py:net", "--data", "wide.npz"], "does not take inputs (2, 3, 12, 12)"),
    (["net.py:net", "--data", "pickled.npz"], "only pickle can read"),
    (["net.py:net", "--data", ""], "no such file or folder"),
    (["net.py:net", "--data", "net.py"], "unknown kind of file"),
    (["net.py:net", "--data", "net.py:nope"], "no function 'nope'"),
    (["net.py:nett", "--data", "data.npz"], "did you mean 'net'"),
    (["net.py:fails", "--data", "data.npz"], "no weights here"),
    (["net.py:leaves", "--data", "data.npz"], "SystemExit"),
    (["net.py:number", "--data", "data.npz"], "returns int, not an nn.Module"),
    (["net.py:damaged", "--data", "data.npz"], "9.weight: 1 weights are NaN"),
    (["nofile.py:net", "--data", "data.npz"], "nofile.py: no such file"),
    (["missing.onnx", "--data", "data.npz"], "missing.onnx: no such file"),
    (["junk.onnx", "--data", "data.npz"], "junk.onnx"),
    (["junk.lessen", "--data", "data.npz"], "junk.lessen"),
    (["data.npz", "--data", "data.npz"], "don't know how to open .npz"),
    ([".", "--data", "data.npz"], "this is a folder"),
    (["net.pt", "--data", "data.npz"], "this is a pickle"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "told"), WRONG, ids=[" ".join(w)[:60] for w, _ in WRONG])
def test_wrong_use_is_told_in_one_message(lessen, words, told, tmp_path):
    code, said, complaint = lessen("compress", *words, "--out", tmp_path / "out")
    assert code == 2, complaint
    assert " ".join(told.split()) in " ".join(complaint.replace("│", " ").split())
    assert "Traceback" not in complaint and said == ""
    assert list(tmp_path.iterdir()) == [], "something was left behind"


def test_a_pickle_is_opened_when_trusted(lessen):
    assert lessen("inspect", "net.pt", "--input-shape", "1x12x12", "--trust")[0] == 0


def test_a_typo_in_a_plan_is_named_with_its_line(lessen, done, tmp_path):
    text = (done[0] / "plan.yaml").read_text().splitlines()
    at = next(i for i, line in enumerate(text) if "Uniform" in line)
    for old, new, told in (("Uniform", "Unifrom", "did you mean 'Uniform'"), ("bits", "bitz", "no option 'bitz'")):
        line = text[at] if old in text[at] else text[at].replace("Uniform", "Uniform, bits: 8")
        (tmp_path / "plan.yaml").write_text("\n".join([*text[:at], line.replace(old, new), *text[at + 1 :]]))
        code, _, complaint = lessen("apply", tmp_path / "plan.yaml", "net.py:net", "--data", "data.npz", "--out",
                                    tmp_path / "out")  # fmt: skip
        assert code == 2 and f"plan.yaml, line {at + 1}" in complaint and told in complaint


def test_a_file_in_the_way_of_out_stays(lessen, tmp_path):
    (tmp_path / "out").write_text("precious")
    code, _, complaint = lessen("compress", "net.py:net", "--data", "data.npz", "--out", tmp_path / "out")
    assert code == 2 and "is a file, not a folder" in complaint
    assert (tmp_path / "out").read_text() == "precious"


def test_a_budget_that_cannot_be_met_ends_with_3(lessen, tmp_path):
    code, said, _ = lessen("compress", "net.py:net", "--data", "data.npz", "--max-drop", "1%", "--min-ratio", "900x",
                           "--using", "uniform", "--out", tmp_path / "out")  # fmt: skip
    assert code == 3 and "NOT met" in said and "Nearest point" in said
    assert (tmp_path / "out" / "model.onnx").is_file()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(folder, tmp_path, sign):
    words = ["compress", "net.py:net", "--data", "net.py:endless", "--out", str(tmp_path / "out")]
    started = subprocess.Popen([*LESSEN, *words], cwd=folder, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    end = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.5)
    started.send_signal(sign)
    _, complaint = started.communicate(timeout=60)
    assert started.returncode == 2 and "stopped" in complaint and "Traceback" not in complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["load: done", "costs: done", "export: done"])
def test_ctrl_c_at_any_moment_leaves_what_was_there(folder, tmp_path, moment):
    """The whole process group gets the signal, as from a terminal, and a second one while it cleans up."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_text("precious")
    words = ["compress", "net.py:net", "--data", "data.npz", "--max-drop", "5%", "--using", "uniform", "--out",
             str(tmp_path / "out")]  # fmt: skip
    started = subprocess.Popen([*LESSEN, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)  # fmt: skip
    end = time.monotonic() + 90
    while time.monotonic() < end and started.poll() is None:
        if any(moment in log.read_text() for log in tmp_path.glob(".out.*/run.log")):
            break
        time.sleep(0.02)
    for _ in range(2):
        os.killpg(started.pid, signal.SIGINT)
        time.sleep(0.05)
    said, complaint = started.communicate(timeout=60)
    assert started.returncode == 2 and "stopped" in complaint, said
    assert "Traceback" not in complaint and len(complaint.splitlines()) == 1
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "model.onnx"]
    assert (tmp_path / "out" / "model.onnx").read_text() == "precious"


@pytest.mark.parametrize("room", [100, 6000])
def test_a_full_disk_damages_nothing(folder, done, tmp_path, room):
    """No file may grow beyond `room` bytes."""
    resource = pytest.importorskip("resource")

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    shutil.copytree(done[0], tmp_path / "out")
    (tmp_path / "plain.onnx").write_text("precious")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for words in (
        ["compress", "net.py:net", "--data", "data.npz", "--using", "uniform", "--out", str(tmp_path / "out")],
        ["unpack", str(done[0] / "model.lessen"), "--out", str(tmp_path / "plain.onnx")],
    ):
        ended = process(folder, *words, preexec_fn=full)
        assert ended.returncode == 2, ended.stderr
        assert "mend: free" in ended.stderr and "Traceback" not in ended.stderr
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_help_tells_the_exit_codes(lessen):
    code, said, _ = lessen("--help")
    told = " ".join(said.split())
    assert code == 0 and "Exit codes: 0 done" in told and "3 the budget can't be met" in told


def test_a_reader_that_goes_away_changes_nothing(folder, done, tmp_path):
    command = shlex.join([*LESSEN, "unpack", str(done[0] / "model.lessen"), "--out", str(tmp_path / "plain.onnx")])
    ended = subprocess.run(["bash", "-c", command + " | true; echo ${PIPESTATUS[0]}"], cwd=folder, text=True,
                           capture_output=True, timeout=120)  # fmt: skip
    assert ended.stdout == "0\n" and ended.stderr == ""
    assert (tmp_path / "plain.onnx").is_file()


def test_a_terminal_without_unicode_gets_ascii(lessen, monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    code, _, complaint = lessen("inspect", "net.py:net", "--input-shape", "1x12x12")
    assert code == 0, complaint
    assert b"32x16x3x3" in screen.buffer.getvalue()


def test_a_mistake_of_ours_is_told_as_ours(lessen, monkeypatch, tmp_path):
    def mistaken(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("lessen.inspection.inspect", mistaken)
    code, _, complaint = lessen("inspect", "net.py:net")
    assert code == 1 and "a mistake in lessen itself" in complaint and "Traceback" not in complaint
