"""What every test may count on."""

from __future__ import annotations

import os
import random
from collections.abc import Generator, Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

import zoo

settings.register_profile("lessen", deadline=None, derandomize=True)  # the same cases everywhere; machines are slow
settings.load_profile("lessen")


def _without(item: zoo.Missing) -> None:
    """A part of the zoo isn't here: in CI a failure, elsewhere a skip with the reason."""
    if os.environ.get("CI"):
        pytest.fail(f"{item} (in CI this is a failure)", pytrace=False)
    pytest.skip(str(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    try:
        return (yield)
    except zoo.Missing as missing:
        return _without(missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    try:
        return (yield)
    except zoo.Missing as missing:
        return _without(missing)


def _global_state() -> tuple[bytes, int, tuple]:
    return torch.get_rng_state().numpy().tobytes(), hash(np.random.get_state()[1].tobytes()), random.getstate()


@pytest.fixture
def global_seeds_untouched() -> Iterator[None]:
    """Fails a test whose code draws from torch's, numpy's or Python's global generator."""
    before = _global_state()
    yield
    assert _global_state() == before, "a global random generator was used"


@pytest.fixture
def generator() -> torch.Generator:
    """A torch generator of the test's own, always the same."""
    return torch.Generator().manual_seed(0)
