"""What `pip install lessen` brings."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheel_holds_the_demo_and_no_tests(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("py.typed", "demo/data.npz", "demo/network.safetensors", "demo/network.py", "demo/README.md"):
        assert f"lessen/{needed}" in names
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert not [n for n in names if n.split("/")[0] not in ("lessen", wheel.name.rsplit("-", 3)[0] + ".dist-info")]
    assert wheel.stat().st_size < 6_000_000
