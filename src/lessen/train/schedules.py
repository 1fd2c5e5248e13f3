"""Schedules: small functions of how much of a run is done, from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def warm_cosine(done: float) -> float:
    """Share of the peak learning rate: up over the first tenth, then along a cosine down to 0."""
    return min(1.0, (done + 0.01) / 0.1) if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))


def constant(done: float) -> float:
    """The peak learning rate all the time."""
    return 1.0


def cubic(done: float, final: float, start: float = 0.0) -> float:
    """Sparsity of a gradual run: fast at first, while there is much to spare (Zhu & Gupta 2017, eq. 1).

    s = s_f + (s_0 - s_f) (1 - t)^3
    """
    return final + (start - final) * (1 - min(max(done, 0.0), 1.0)) ** 3


def cosine_decay(done: float, start: float) -> float:
    """From `start` down to 0 along half a cosine (RigL: Evci et al. 2020, sec. 3)."""
    return 0.5 * start * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


def geometric(step: int, steps: int, final: float) -> float:
    """Sparsity after `step` of `steps` rounds that each remove the same share of the rest (Frankle & Carbin 2019)."""
    return final if step == steps else 1 - (1 - final) ** (step / steps)
