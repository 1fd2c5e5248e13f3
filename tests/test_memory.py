"""Large arrays wait in a file: the values are those of ordinary tensors, the memory is not taken."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lessen.memory import frugal, kept, rest, shelved, stretches, trim, twin


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


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.small = nn.Linear(600, 700), nn.Linear(600, 700), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.a.weight.requires_grad_(False)


def test_a_twin_is_a_network_of_its_own_that_waits_in_a_file() -> None:
    net = Tied()
    other = twin(net)
    rest()
    assert other.b.weight is other.a.weight and not other.a.weight.requires_grad
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))
    with torch.no_grad():
        other.a.weight.zero_()
        other.small.weight.zero_()
    assert bool(net.a.weight.any()) and bool(net.small.weight.any())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_twin_takes_no_memory_while_it_waits() -> None:
    net = nn.Linear(4096, 8192)  # 128 MB
    before = resident()
    other = twin(net)
    rest()
    assert resident() - before < 32
    assert torch.equal(other.weight, net.weight)


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (1, 2**22), (3000, 1000), (7, 0)])
def test_stretches_are_all_rows_in_order(rows: int, columns: int) -> None:
    found = [range(rows)[s] for s in stretches(rows, columns)]
    assert [i for r in found for i in r] == list(range(rows))
    assert all(len(r) * columns <= max(2**20, columns) for r in found)


def gaps() -> int:
    """MB that stay after every second of 32 arrays of 4 MB, each a little larger than the last, is freed."""
    before = resident()
    arrays = [torch.ones(2**20 + i) for i in range(32)]
    assert resident() - before > 100
    del arrays[::2]
    return resident() - before - 64


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_freed_inside_frugal_is_given_back_at_once() -> None:
    del (large := [torch.ones(2**22)])[:]  # 16 MB: from here on glibc keeps smaller arrays together
    with frugal(), frugal():
        inside = gaps()
        assert gc.get_freeze_count()
    assert inside < 16 and not gc.get_freeze_count() and not large
    assert gaps() > 32  # what it would be: this fails where the allocator is not glibc's


def kept_by_threads(then: Callable[[], object]) -> int:
    """MB that eight threads hold which have multiplied two matrices, do `then` what they like with them."""
    a, arrived, go = torch.ones(1536, 1536), threading.Barrier(9), threading.Event()

    def work() -> None:
        torch.mm(a, a).sum().item()
        then()
        arrived.wait()
        go.wait()

    threads = [threading.Thread(target=work) for _ in range(8)]
    before = resident()
    for thread in threads:
        thread.start()
    arrived.wait()
    held = resident() - before
    go.set()
    for thread in threads:
        thread.join()
    return held


@pytest.mark.skipif(sys.platform != "linux" or not torch.backends.mkl.is_available(), reason="reads /proc; asks MKL")
def test_threads_that_wait_keep_nothing_of_what_they_multiplied() -> None:
    kept_by_threads(trim)  # the libraries' own pages
    with frugal():
        assert kept_by_threads(trim) < 10 < kept_by_threads(int)


def test_frugal_leaves_alone_what_others_froze() -> None:
    gc.freeze()
    try:
        with frugal():
            assert gc.get_freeze_count()
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
