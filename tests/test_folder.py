"""Results appear whole or not at all."""

import pytest

from lessen.errors import LessenError
from lessen.folder import RunFolder


def test_commit_places_files_and_keeps_strangers(tmp_path):
    out = tmp_path / "a" / "out"
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("keep")
    (out / "plan.yaml").write_text("old")
    with RunFolder(out) as folder:
        folder.path("plan.yaml").write_text("new")
        folder.scratch("tmp.bin").write_bytes(b"x")
        assert (out / "plan.yaml").read_text() == "old"
        placed = folder.commit()
    assert placed == {"plan.yaml": out / "plan.yaml"}
    assert (out / "plan.yaml").read_text() == "new" and (out / "mine.txt").read_text() == "keep"
    assert sorted(p.name for p in out.parent.iterdir()) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_nothing(tmp_path, error):
    with pytest.raises(error), RunFolder(tmp_path / "out") as folder:
        folder.path("model.onnx").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(LessenError, match="not a folder"):
        RunFolder(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"
