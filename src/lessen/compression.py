"""The journey: load, baseline, trace, calibrate, propose, solve, apply, recover, export, verify, report."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from .account import account
from .budget import Budget
from .errors import BudgetNotMet
from .folder import RunFolder
from .job import Job, Options, open_job
from .memory import frugal, give_back
from .packed import write_artifact, write_packed
from .plan import Plan
from .recover import made
from .report import Progress, Report, write_html
from .search.journey import Found, journey, replayed


@dataclass(frozen=True, eq=False)
class Result:
    """What came out.

    Args:
        model: the compressed network in torch, its weights decoded.
        plan: what was done; `lessen.replay` does it again.
        report: every figure, as in report.json.
        files: name -> path of everything that was written.
    """

    model: nn.Module
    plan: Plan
    report: Report
    files: dict[str, Path]

    def checked(self) -> Result:
        """The result itself, if every demand of the budget is met as measured on the artifact.

        Raises:
            BudgetNotMet: it is not; the nearest point was written all the same.
        """
        if not self.report.budget.met:
            missed = (f"{d.name} {d.asked}: measured {d.measured}" for d in self.report.budget.asked if not d.met)
            raise BudgetNotMet(
                f"the budget can't be met ({'; '.join(missed)})",
                where=str(next(iter(self.files.values())).parent),
                mend=f"ask for less, or give more to work with (train data, techniques); {self.report.budget.reason}",
            )
        return self


@dataclass(frozen=True)
class Compression:
    """A compression job with all its options; `lessen.compress` is the short form.

    Args:
        model: an `nn.Module`, "file.py:factory", or the path of an .onnx or .lessen file.
        data: see `lessen.data.load_data`.
        budget: a `Budget`, "1%" (of drop), or None for one point.
        using: techniques (types or instances) or their names; None for all.
        target: "onnxruntime", "openvino", "packed", or a target.
        metric: name, "file.py:function", a function, or None (accuracy with labels, cosine without).
        where, skip: globs of layers to work on, to leave alone.
        train: data to fine-tune on with distillation from the original, or None.
        seed: of every private generator.
        trust: whether pickled models may be opened.
        rounds: most plans that are measured in one search.
    """

    model: Any
    data: Any
    budget: Any = None
    using: Any = None
    target: Any = "onnxruntime"
    metric: Any = None
    where: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    train: Any = None
    seed: int = 0
    trust: bool = False
    rounds: int = 8

    def open(self) -> Job:
        """The job with everything loaded and checked."""
        options = Options(self.metric, self.train, self.seed, self.trust)
        return open_job(self.model, self.data, self.budget, self.target, self.using, options)

    def run(self, out: str | Path | None = None, quiet: bool = True) -> Result:
        """Does the job. `out` appears whole or not at all; None makes a temporary folder.

        Raises:
            LessenError: wrong use or bad input. A budget that can't be met is no error: see `report.budget.met`.
        """
        with frugal(), RunFolder(out) as folder, folder.path("run.log").open("w", encoding="utf-8") as log:
            progress = Progress(log, quiet=quiet)
            with progress.stage("load"):
                job = self.open()
            found = journey(job, folder, progress, where=self.where, skip=self.skip, rounds=self.rounds)
            return _written(job, found, folder, progress)


def compress(
    model: Any, data: Any, budget: Budget | str | float | None = None, using: Any = None, target: Any = "onnxruntime"
) -> Result:
    """The smallest and fastest form of a network that still holds the budget.

    Args:
        model: an `nn.Module`, "file.py:factory", or the path of an .onnx or .lessen file.
        data: (x, y), an iterable of batches, or a path; split into parts that never mix.
        budget: a `Budget`; "1%" is the most that may be lost.
        using: techniques to choose among; None for all.
        target: "onnxruntime", "openvino" or "packed".

    Returns:
        `Result` with `.model`, `.plan`, `.report` and `.files`.
    """
    return Compression(model, data, budget, using, target).run()


def replay(
    plan: Plan | str | Path, model: Any, data: Any, out: str | Path | None = None, *,
    metric: Any = None, train: Any = None, trust: bool = False, quiet: bool = True,
) -> Result:  # fmt: skip
    """Carries out a plan: the same plan, model, data and versions give the same bytes."""
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    with frugal(), RunFolder(out) as folder, folder.path("run.log").open("w", encoding="utf-8") as log:
        progress = Progress(log, quiet=quiet)
        with progress.stage("load"):
            options = Options(metric, train, plan.seed, trust)
            job = open_job(model, data, Budget.nothing(), plan.target, None, options)
        found = replayed(job, plan, folder, progress)
        return _written(job, found, folder, progress)


def _written(job: Job, found: Found, folder: RunFolder, progress: Progress) -> Result:
    """Everything that goes into the folder, then the folder into its place."""
    artifact = folder.path("model" + job.target.suffix)
    with progress.stage("apply"):
        compressed = made(job, found.bench, found.treatments, found.plan.recover, in_turn=found.plan.in_turn)
    with progress.stage("export"):
        write_artifact(found.exporter, compressed, artifact, found.plan)
    if artifact.name != "model.lessen":
        with progress.stage("pack"):
            write_packed(folder.path("model.lessen"), compressed, found.exporter.graph_of(compressed), found.plan)
    folder.path("plan.yaml").write_text(found.plan.to_yaml(), "utf-8")
    with progress.stage("verify"):
        report = account(job, found, compressed, folder)
    give_back()
    report = replace(report, seconds={k: round(v, 3) for k, v in progress.seconds.items()})
    report.write_json(folder.path("report.json"))
    write_html(report, folder.path("report.html"))
    return Result(copy.deepcopy(compressed.module), found.plan, report, folder.commit())
