"""The zoo as a whole: mean and worst loss of everybody, and where ours is behind."""

from __future__ import annotations

from collections.abc import Sequence

import common
import numpy as np


def summed_up(rows: Sequence[common.Row]) -> list[common.Row]:
    """Rows of `what` "zoo"; a mean is over the models that somebody has a file of, `n` says how many."""
    losses = {who: _of(rows, who, "loss_points") for who in dict.fromkeys(r["who"] for r in rows) if who != "float32"}
    found = []
    for who, each in losses.items():
        if each:
            worst = max(each, key=lambda what: each[what])
            found += [
                common.row(who, "zoo", "mean_loss_points", float(np.mean(list(each.values()))), "points", n=len(each)),
                common.row(who, "zoo", "worst_loss_points", each[worst], "points", n=len(each), note=worst),
            ]
    for suffix in ("openvino", "onnxruntime"):
        found += _behind(rows, suffix) + _speed(rows, suffix)
    return found


def _of(rows: Sequence[common.Row], who: str, figure: str) -> dict[str, float]:
    return {r["what"]: r["value"] for r in rows if r["who"] == who and r["figure"] == figure and r["value"] is not None}


def _behind(rows: Sequence[common.Row], runtime: str) -> list[common.Row]:
    """On how many models some peer loses less: at all, and by more than the paired interval."""
    pairs = [r for r in rows if r["who"] == "lessen" and r["figure"] == f"loss_over_best_peer_{runtime}"]
    behind = {r["what"]: r["value"] for r in pairs if r["value"] > 1e-9}
    surely = [r["what"] for r in pairs if r["value"] > 1e-9 and r.get("low", -1.0) > 0]
    return [
        common.row("lessen", "zoo", f"models_behind_{runtime}", len(behind), "models", n=len(pairs),
                   note=", ".join(f"{w} by {v:.2f}" for w, v in behind.items()) or "none"),
        common.row("lessen", "zoo", f"models_behind_beyond_noise_{runtime}", len(surely), "models", n=len(pairs),
                   note=", ".join(surely) or "none"),
    ]  # fmt: skip


def _speed(rows: Sequence[common.Row], runtime: str) -> list[common.Row]:
    """Against the fastest of all peers' files, and of those that lose no more than promised."""
    found = []
    for figure in (f"latency_ratio_{runtime}", f"latency_ratio_that_holds_{runtime}"):
        if each := _of(rows, "lessen", figure):
            slowest = min(each, key=lambda what: each[what])
            mean = float(np.exp(np.mean(np.log(list(each.values())))))
            unit = "fastest peer / ours"
            found += [
                common.row("lessen", "zoo", figure, mean, unit, n=len(each), note="geometric mean"),
                common.row("lessen", "zoo", f"worst_{figure}", each[slowest], unit, note=slowest),
            ]
    return found
