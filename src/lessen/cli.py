"""The command line: each command reads its options, calls one function, and prints what it returned."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .errors import LessenError

app = typer.Typer(
    name="lessen",
    help="Makes a trained network smaller and faster, and proves it on the file it writes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="net.onnx, net.lessen, or file.py:factory.")]
DataOption = Annotated[
    Optional[str], typer.Option(help="data.npz, a folder of class folders, or file.py:function.", metavar="DATA")  # noqa: UP045
]
NeededData = Annotated[
    str, typer.Option(help="data.npz, a folder of class folders, or file.py:function.", metavar="DATA")
]
Text = Optional[str]  # noqa: UP045
TargetOption = Annotated[str, typer.Option(help="onnxruntime, openvino or packed.")]
UsingOption = Annotated[
    Text, typer.Option(help="Techniques to choose among: channels,uniform,kmeans,... (default: all).")
]
MetricOption = Annotated[Text, typer.Option(help="accuracy, top5, f1, mse, mae, spearman, or file.py:function.")]
WhereOption = Annotated[
    list[str], typer.Option(help="Work on layers that match GLOB only (repeatable).", metavar="GLOB")
]
SkipOption = Annotated[list[str], typer.Option(help="Leave layers that match GLOB alone (repeatable).", metavar="GLOB")]
TrainOption = Annotated[Text, typer.Option(help="Data to fine-tune on, with distillation.", metavar="DATA")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
TrustOption = Annotated[bool, typer.Option("--trust", help="Open a pickled model (it can run any code).")]
OutOption = Annotated[Path, typer.Option(help="Folder for the results.", metavar="DIR")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


@app.command()
def inspect(
    model: ModelArgument,
    data: DataOption = None,
    target: TargetOption = "onnxruntime",
    trust: TrustOption = False,
) -> None:
    """What is in MODEL, what can be done with it, and what each technique would bring: a forecast."""
    from .inspection import inspect as run
    from .report import print_inspect

    seen = run(model, data, target, trust=trust)
    print_inspect(seen.layers, seen.techniques, seen.notes)


@app.command()
def compress(
    model: ModelArgument,
    data: NeededData,
    out: OutOption,
    max_drop: Annotated[Text, typer.Option(help="Most that may be lost: 1%, 0.5 (points).")] = None,
    max_size: Annotated[Text, typer.Option(help="Largest file: 2MB, 500kB.")] = None,
    max_latency: Annotated[Text, typer.Option(help="Longest time for one sample: 5ms.")] = None,
    min_ratio: Annotated[Text, typer.Option(help="Least times smaller: 8x.")] = None,
    metric: MetricOption = None,
    target: TargetOption = "onnxruntime",
    using: UsingOption = None,
    where: WhereOption = [],  # noqa: B006
    skip: SkipOption = [],  # noqa: B006
    train: TrainOption = None,
    seed: SeedOption = 0,
    trust: TrustOption = False,
    quiet: QuietOption = False,
) -> None:
    """Finds the smallest and fastest form of MODEL that holds the budget, and writes it to DIR.

    Exit code 0 only if every demand is met as measured on the artifact; 3 if the budget can't be met.
    """
    from .budget import Budget
    from .compression import Compression

    budget = Budget.parse(max_drop=max_drop, max_size=max_size, max_latency=max_latency, min_ratio=min_ratio)
    job = Compression(
        model, data, budget, using, target,
        metric=metric, where=tuple(where), skip=tuple(skip), train=train, seed=seed, trust=trust,
    )  # fmt: skip
    _finish(job.run(out, quiet=quiet))


@app.command()
def apply(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="plan.yaml that compress wrote, or your own.")],
    model: ModelArgument,
    data: NeededData,
    out: OutOption,
    metric: MetricOption = None,
    train: TrainOption = None,
    trust: TrustOption = False,
    quiet: QuietOption = False,
) -> None:
    """Carries out PLAN on MODEL: the same plan, data and versions give the same bytes."""
    from .compression import replay

    _finish(replay(plan, model, data, out, metric=metric, train=train, trust=trust, quiet=quiet))


@app.command()
def measure(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".onnx and .lessen files.")],
    data: NeededData,
    target: TargetOption = "onnxruntime",
    metric: MetricOption = None,
) -> None:
    """Size, accuracy, latency and memory of artifacts, side by side; the first one is what others compare with."""
    from .beside import measure_files
    from .report import print_measure

    print_measure(measure_files(files, data, target, metric))


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.lessen")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.", metavar="FILE.onnx")],
) -> None:
    """Decodes a packed file into a plain ONNX file."""
    from .models.packed import unpack_file

    print(f"wrote {unpack_file(file, out)}: {out.stat().st_size:,} bytes, from {file.stat().st_size:,}")


@app.command()
def demo(
    out: OutOption = Path("lessen-demo"),
    target: TargetOption = "onnxruntime",
    quiet: QuietOption = False,
) -> None:
    """The whole job on a real task that comes with lessen: a trained network and its data, offline."""
    from .demo import job

    _finish(job(target).run(out, quiet=quiet))


def _finish(result: Any) -> None:
    from .report import print_summary

    print_summary(result.report)
    if not result.report.budget.met:
        raise typer.Exit(3)


def main() -> None:
    """Entry point: wrong use and bad input end with one clear message and exit code 2, never a traceback."""
    try:
        app(standalone_mode=True)
    except LessenError as error:
        _die(str(error), error.exit_code)
    except KeyboardInterrupt:
        _die("interrupted: nothing was written that is not whole", 2)
    except MemoryError:
        _die("out of memory\n  mend: use fewer or smaller calibration samples, or a machine with more memory", 2)
    except OSError as error:
        full = "\n  mend: free some space" if error.errno == errno.ENOSPC else ""
        _die(f"{error.filename or 'a file'}: {error.strerror or error}{full}", 2)


def _die(message: str, code: int) -> None:
    print(f"lessen: {message}", file=sys.stderr)
    raise SystemExit(code)
