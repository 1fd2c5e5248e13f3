"""What int8_zoo keeps of one model between its runs: files, rows, and the scores that intervals are made of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from lessen.data import Metric, Score


class Kept:
    """A folder with `kept.json` and the scores of single samples."""

    def __init__(self, folder: Path, what: str) -> None:
        self.folder, self.what = folder, what
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "kept.json"
        held = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._made: dict[str, dict[str, Any]] = held.get("made", {})
        self._seconds: float = held.get("seconds", 0.0)

    def has(self, who: str, runtime: str | None = None) -> bool:
        """Whether a file was made (or can't be), or judged in a runtime."""
        return who in self._made and (runtime is None or runtime in self._made[who]["judged"])

    def everyone(self) -> list[str]:
        return list(self._made)

    def forget(self, who: str) -> None:
        """To be made again."""
        self._made.pop(who, None)

    def made(self, who: str, path: Path) -> None:
        self._entry(who)["path"] = path.relative_to(self.folder).as_posix()
        self.save()

    def failed(self, who: str, why: str) -> None:
        """No file: one row says why."""
        self.row(who, "file_bytes", None, "bytes", note=why)

    def path(self, who: str) -> Path | None:
        name = self._made.get(who, {}).get("path")
        return None if name is None else self.folder / name

    def row(self, who: str, figure: str, value: float | None, unit: str, **more: Any) -> None:
        """Keeps a figure; an older one of the same name is replaced."""
        made = common.row("lessen" if who.startswith("lessen") else who, self.what, figure, value, unit, **more)
        self._entry(who)["rows"][figure] = made
        self.save()

    def judged(self, who: str, runtime: str, score: Score | None) -> None:
        """Keeps the scores of the samples, where the metric is their mean."""
        self._entry(who)["judged"][runtime] = None if score is None else [score.value, score.n]
        if score is not None and score.per_sample is not None:
            np.save(self._samples(who, runtime), score.per_sample.numpy())
        self.save()

    def score(self, who: str, runtime: str, metric: Metric) -> Score | None:
        """A score that was kept."""
        held = self._made.get(who, {}).get("judged", {}).get(runtime)
        if not held:
            return None
        path = self._samples(who, runtime)
        return Score(metric, held[0], held[1], torch.from_numpy(np.load(path)) if path.is_file() else None)

    def rows(self) -> list[common.Row]:
        """All rows; `loss_points`, `file_bytes` and `compress_seconds` of ours as the worse of the two runtimes."""
        alone = ("file_bytes", "compress_seconds", "integer_kernels")
        found = []
        for who, entry in self._made.items():
            for figure, r in entry["rows"].items():
                split = who.startswith("lessen") and (figure in alone or figure.startswith("seconds_"))
                found.append(_known(r) | ({"figure": f"{figure}_{who.rpartition(' ')[2]}"} if split else {}))
        for who in dict.fromkeys(r["who"] for r in found):
            for figure in ("loss_points", *alone[:2]):
                both = [r for r in found if r["who"] == who and r["figure"].startswith(f"{figure}_")]
                if both := [r for r in both if r["value"] is not None]:
                    worst = max(both, key=lambda r: r["value"])
                    found.append(worst | {"figure": figure, "note": f"the worse of {len(both)}: {worst['figure']}"})
        return found

    def clock(self, seconds: float) -> float:
        """All seconds spent on this model so far."""
        self._seconds += seconds
        self.save()
        return self._seconds

    def save(self) -> None:
        self._file.write_text(json.dumps({"made": self._made, "seconds": self._seconds}, indent=1))

    def _entry(self, who: str) -> dict[str, Any]:
        return self._made.setdefault(who, {"rows": {}, "judged": {}})

    def _samples(self, who: str, runtime: str) -> Path:
        return self.folder / f"{''.join(c for c in who if c.isalnum())}-{runtime}.npy"


def _known(r: common.Row) -> common.Row:
    """Without the interval of a score that is of all samples together: there is none."""
    return {k: v for k, v in r.items() if k not in ("low", "high") or math.isfinite(v)}
