"""The `diagnose` command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Optional

import typer

from .errors import LessenError

Text = Optional[str]  # noqa: UP045


def add_diagnose(app: typer.Typer, show: Callable[..., None]) -> None:
    """Gives `app` the command; `show(write, *what)` prints."""

    @app.command()
    def diagnose(
        original: Annotated[str, typer.Argument(metavar="ORIGINAL", help="Float model: net.onnx or file.py:factory.")],
        compressed: Annotated[
            str,
            typer.Argument(metavar="COMPRESSED", help="What was made of it: .onnx, .lessen, a run."),
        ],
        data: Annotated[
            str, typer.Option(help="data.npz, a folder of class folders, or file.py:function.", metavar="DATA")
        ],
        fix: Annotated[bool, typer.Option("--fix", help="Mend the file until it loses at most --max-drop.")] = False,
        max_drop: Annotated[Text, typer.Option(help="Most that may be lost: 1%, 0.5 (points).")] = None,
        out: Annotated[Optional[Path], typer.Option(help="Folder for the results.", metavar="DIR")] = None,  # noqa: UP045
        metric: Annotated[
            Text, typer.Option(help="accuracy, top5, f1, mse, mae, spearman, or file.py:function.")
        ] = None,
        images: Annotated[
            Text,
            typer.Option(help="How pictures become inputs: mean=0.5,std=0.5,crop=0.875.", metavar="HOW"),
        ] = None,
        input_shape: Annotated[
            Text, typer.Option(help="Shape of one sample, where ORIGINAL does not tell: 3x224x224.", metavar="CxHxW")
        ] = None,
        trust: Annotated[bool, typer.Option("--trust", help="Open a pickled model (it can run any code).")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    ) -> None:
        """Which layer of COMPRESSED pays for the loss against ORIGINAL, why, and the cheapest mend.

        Exit code 3 if --fix can't bring the loss down to --max-drop, as measured on the mended file.
        """
        if fix and out is None:
            raise LessenError("there is no place for the mended file", where="--fix", mend="give --out DIR")
        if max_drop is not None and not fix:
            raise LessenError("nothing is promised without --fix", where="--max-drop", mend="add --fix --out DIR")
        from .budget import Budget

        budget = Budget.parse(max_drop=max_drop)
        from .data.folder import described
        from .diagnosis.run import Options, run_diagnosis
        from .diagnosis.show import print_diagnosis

        options = Options(metric, fix, budget.max_drop, out, trust, quiet)
        done = run_diagnosis(original, compressed, described(data, images, input_shape), options)
        show(print_diagnosis, done.report)
        if done.files:
            show(print, f"\nall of it in {next(iter(done.files.values())).parent}; open diagnosis.html")
        if done.report.fixed is not None and not done.report.fixed.held:
            raise typer.Exit(3)
