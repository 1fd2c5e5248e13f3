"""The command line: each command reads its options, calls one function, and prints what it returned."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .cli_diagnose import add_diagnose
from .errors import BudgetNotMet, LessenError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = typer.Typer(
    name="lessen",
    help="Makes a trained network smaller and faster, and proves it on the file it writes.",
    epilog="Exit codes: 0 done, every demand of the budget met as measured; 2 wrong use, bad input, or stopped; "
    "3 the budget can't be met (the nearest point is kept); 1 a mistake in lessen itself: please report it.",
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
    Text,
    typer.Option(
        help="Techniques to choose among: channels,uniform,kmeans,... (default: all). dynamic: inputs rounded at run "
        "time; awq, rotate: weights folded first. With --train also str, rigl, gmp, lsq, ..."
    ),
]
MetricOption = Annotated[Text, typer.Option(help="accuracy, top5, f1, mse, mae, spearman, or file.py:function.")]
WhereOption = Annotated[
    list[str], typer.Option(help="Work on layers that match GLOB only (repeatable).", metavar="GLOB")
]
SkipOption = Annotated[list[str], typer.Option(help="Leave layers that match GLOB alone (repeatable).", metavar="GLOB")]
TrainOption = Annotated[Text, typer.Option(help="Data to fine-tune on, with distillation.", metavar="DATA")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of every random choice.")]
ImagesOption = Annotated[
    Text,
    typer.Option(help="How pictures become inputs: mean=0.5,std=0.5,crop=0.875 (by channel a : b : c).", metavar="HOW"),
]
ShapeOption = Annotated[
    Text, typer.Option(help="Shape of one sample, where MODEL does not tell: 3x224x224.", metavar="CxHxW")
]
TrustOption = Annotated[bool, typer.Option("--trust", help="Open a pickled model (it can run any code).")]
OutOption = Annotated[Path, typer.Option(help="Folder for the results.", metavar="DIR")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


@app.command()
def inspect(
    model: ModelArgument,
    data: DataOption = None,
    target: TargetOption = "onnxruntime",
    images: ImagesOption = None,
    input_shape: ShapeOption = None,
    trust: TrustOption = False,
) -> None:
    """What is in MODEL, what can be done with it, and what each technique would bring: a forecast."""
    from .data.folder import described, shape_of
    from .inspection import inspect as run
    from .report import print_inspect

    source = shape_of(input_shape) if data is None else described(data, images, input_shape)
    seen = run(model, source, target, trust=trust)
    _show(print_inspect, seen.layers, seen.techniques, seen.notes)


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
    images: ImagesOption = None,
    input_shape: ShapeOption = None,
    seed: SeedOption = 0,
    trust: TrustOption = False,
    quiet: QuietOption = False,
) -> None:
    """Finds the smallest and fastest form of MODEL that holds the budget, and writes it to DIR.

    Exit code 0 only if every demand is met as measured on the artifact; 3 if the budget can't be met.
    """
    from .budget import Budget

    budget = Budget.parse(max_drop=max_drop, max_size=max_size, max_latency=max_latency, min_ratio=min_ratio)
    from .compression import Compression  # after the cheap checks: it takes torch and the runtimes along
    from .data.folder import described

    job = Compression(
        model, described(data, images, input_shape), budget, using, target, metric=metric, where=tuple(where),
        skip=tuple(skip), train=train and described(train, images, input_shape), seed=seed, trust=trust,
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
    images: ImagesOption = None,
    input_shape: ShapeOption = None,
    trust: TrustOption = False,
    quiet: QuietOption = False,
) -> None:
    """Carries out PLAN on MODEL: the same plan, data and versions give the same bytes."""
    from .plan import Plan

    read = Plan.load(plan)
    from .compression import replay
    from .data.folder import described

    source, lessons = described(data, images, input_shape), train and described(train, images, input_shape)
    _finish(replay(read, model, source, out, metric=metric, train=lessons, trust=trust, quiet=quiet))


@app.command()
def measure(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".onnx and .lessen files.")],
    data: NeededData,
    target: TargetOption = "onnxruntime",
    metric: MetricOption = None,
    images: ImagesOption = None,
    input_shape: ShapeOption = None,
) -> None:
    """Size, accuracy, latency and memory of artifacts, side by side; the first one is what others compare with."""
    from .beside import measure_files
    from .data.folder import described
    from .report import print_measure

    _show(print_measure, measure_files(files, described(data, images, input_shape), target, metric))


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.lessen")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.", metavar="FILE.onnx")],
) -> None:
    """Decodes a packed file into a plain ONNX file."""
    from .models.packed import unpack_file

    _show(print, f"wrote {unpack_file(file, out)}: {out.stat().st_size:,} bytes, from {file.stat().st_size:,}")


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

    _show(print_summary, result.report)
    _show(print, f"\nall of it in {next(iter(result.files.values())).parent}; open report.html")
    if not result.report.budget.met:
        raise typer.Exit(BudgetNotMet.exit_code)


def _show(write: Callable[..., None], *what: Any) -> None:
    """Prints; a reader that went away (`| head`) does not change how the work ended."""
    try:
        write(*what)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Stopped(BaseException):
    """Ctrl-C, or a polite request to end; typer would turn a KeyboardInterrupt into silence."""


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough: what follows is cleaning up
        raise _Stopped

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _Stopped:
        before = dict.fromkeys(before, signal.SIG_IGN)  # to the end: no second one into the exit of the interpreter
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


add_diagnose(app, _show)


def main() -> None:
    """Entry point: wrong use and bad input end with one clear message and exit code 2, never a traceback."""
    logging.disable(logging.WARNING)  # the exporters' talk; what concerns the user is in the report
    try:
        with _stoppable(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what torch tells its own programmers
            app(standalone_mode=True)
    except LessenError as error:
        _die(str(error), error.exit_code)
    except (KeyboardInterrupt, _Stopped):
        _die("stopped: nothing was written that is not whole", 2)
    except MemoryError:
        _die("out of memory\n  mend: use fewer or smaller calibration samples, or a machine with more memory", 2)
    except OSError as error:
        mend = "\n  mend: free some space, or give another --out" if error.errno in _FULL else ""
        _die(f"{error.filename or 'a file'}: {error.strerror or error}{mend}", 2)
    except Exception as error:
        if os.environ.get("LESSEN_DEBUG"):
            raise
        _die(_mistake(error), 1)
    finally:
        logging.disable(logging.NOTSET)


def _mistake(error: Exception) -> str:
    """What is not the user's fault: where it happened, for whoever mends it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}lessen{os.sep}" in f.filename]
    at = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = (str(error).strip().splitlines() or [""])[0][:300]
    return f"a mistake in lessen itself{at}: {type(error).__name__}: {text}\n" \
        "  mend: please report it, with what LESSEN_DEBUG=1 shows; --skip may work around it"  # fmt: skip


def _die(message: str, code: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        encoding = sys.stderr.encoding or "ascii"
        print(f"lessen: {message}".encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)
    raise SystemExit(code)
