"""Large arrays wait in a file: the values are those of ordinary tensors, the memory is not taken."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
import torch

from lessen.memory import kept, rest, shelved


def resident() -> int:
    """MB of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20


@pytest.mark.parametrize("side", [10, 1024])  # an ordinary tensor and a shelved one
def test_holds_what_an_ordinary_tensor_would(side: int) -> None:
    x = torch.randn(7, side, generator=torch.Generator().manual_seed(0))
    in_file, plain = shelved(side, side), torch.zeros(side, side)
    for _ in range(3):
        rest()
        in_file.addmm_(x.T, x)
        plain.addmm_(x.T, x)
    rest()
    assert torch.equal(in_file, plain)


def test_arrays_do_not_overlap() -> None:
    arrays = [shelved(2**18 + 1).fill_(i) for i in range(3)]
    rest()
    assert [a.unique().tolist() for a in arrays] == [[0.0], [1.0], [2.0]]


def test_a_moved_tensor_keeps_its_values() -> None:
    moved = kept(torch.arange(2.0**20))
    gc.collect()
    rest()
    assert float(moved[-1]) == 2**20 - 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resting_arrays_take_no_memory() -> None:
    before = resident()
    arrays = [shelved(2**24).fill_(1.0) for _ in range(4)]  # 64 MB each
    held = resident() - before
    rest()
    assert held > 200
    assert resident() - before < 64
    assert all(float(a[-1]) == 1.0 for a in arrays)


def test_a_full_disk_is_answered_with_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    assert float(shelved(2**20).fill_(2.0).sum()) == 2**21
