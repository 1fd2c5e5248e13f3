"""`lessen diagnose`: the comparison, the repair if asked, and the folder of results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..folder import RunFolder
from ..report import Progress
from .diagnosis import examined
from .page import write_page
from .pair import Pair, open_pair
from .record import DiagnosisRecord, record
from .repair import Fixed, fix
from .treatments import plan_of


@dataclass(frozen=True, eq=False)
class Done:
    """What the command made: everything it tells, and name -> path of what it wrote."""

    report: DiagnosisRecord
    files: dict[str, Path]


def run_diagnosis(
    original: Any, compressed: str | Path, data: Any, *, metric: Any = None, repair: bool = False,
    max_drop: float | None = None, out: Path | None = None, trust: bool = False, quiet: bool = True,
) -> Done:  # fmt: skip
    """Diagnoses, repairs, and writes; without `out` nothing is written."""
    progress = Progress(quiet=quiet)
    with progress.stage("load"):
        pair = open_pair(original, compressed, data, metric, trust)
    if out is None:
        return Done(record(examined(pair, progress)), {})
    with RunFolder(out) as folder:
        return _written(pair, folder, repair, max_drop, progress)


def _written(pair: Pair, folder: RunFolder, repair: bool, max_drop: float | None, progress: Progress) -> Done:
    found, fixed = examined(pair, progress), None
    if repair:
        fixed = fix(found, folder.path("model.onnx"), max_drop, progress)
        _write_plan(pair, fixed, folder)
    told = record(found, fixed)
    told = replace(told, files=tuple(sorted(p.name for p in folder.work.iterdir() if p.is_file())))
    told.write_json(folder.path("diagnosis.json"))
    write_page(told, folder.path("diagnosis.html"))
    return Done(told, folder.commit())


def _write_plan(pair: Pair, fixed: Fixed, folder: RunFolder) -> None:
    plan = plan_of(pair, fixed.state)
    if plan is not None:
        folder.path("plan.yaml").write_text(plan.to_yaml(), "utf-8")
