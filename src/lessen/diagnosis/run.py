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


@dataclass(frozen=True)
class Options:
    """What a diagnosis may be told besides.

    Args:
        metric: as for `compress`.
        repair: mends are applied until `max_drop` holds.
        max_drop: points that the mended file may lose; None for one.
        out: folder for the results; without it nothing is written.
        trust: whether pickled models may be opened.
        quiet: no progress bars.
    """

    metric: Any = None
    repair: bool = False
    max_drop: float | None = None
    out: Path | None = None
    trust: bool = False
    quiet: bool = True


def run_diagnosis(original: Any, compressed: str | Path, data: Any, options: Options = Options()) -> Done:
    """Diagnoses, repairs, and writes."""
    progress = Progress(quiet=options.quiet)
    with progress.stage("load"):
        pair = open_pair(original, compressed, data, options.metric, options.trust)
    if options.out is None:
        return Done(record(examined(pair, progress)), {})
    with RunFolder(options.out) as folder:
        return _written(pair, folder, options, progress)


def _written(pair: Pair, folder: RunFolder, options: Options, progress: Progress) -> Done:
    found, fixed = examined(pair, progress), None
    if options.repair:
        fixed = fix(found, folder.path("model.onnx"), options.max_drop, progress)
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
