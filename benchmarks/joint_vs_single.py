"""Does one budget over all techniques beat each technique alone?

For every task, the size/accuracy curve of each technique alone and of all together is traced: every point is a file
that was written and scored on the test part. A technique alone gets the library's own chooser over all its settings
(which is more than most tools do with it) and, besides, each of its settings for all layers. All curves come from the
same statistics and the same codings; nothing is fine-tuned.

A point of a single curve counts as dominating (`points_dominated`) if no joint file is at most as large and at least
as accurate, after the joint chooser was asked for a plan of just that size. `points_dominated_beyond_noise` counts
those that are better than the best joint file of their size by more than chance (paired on the test samples, 95 %).

    python benchmarks/joint_vs_single.py [--quick] [--tasks demo_resnet,letters_mlp] [--target packed]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import common
import torch
from joint_curves import Point, Tracer, beyond_noise, lead, smallest, undominated
from joint_plot import plot
from joint_tasks import TASKS

from lessen import Compression
from lessen.prune import Channels
from lessen.prune.depth import Depth
from lessen.techniques import known

NAME, DEFAULT, QUICK = "joint_vs_single", "demo_resnet,letters_mlp,lenet_5", "letters_mlp"
WIDTHS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6)
DROPS = (0.5, 1.0, 2.0)


def run(task: str, target: str, count: int, fractions: tuple[float, ...]) -> list[common.Row]:
    """All rows of one task."""
    network, parts = TASKS[task]()
    job = Compression(network, parts, target=target).open()
    with tempfile.TemporaryDirectory() as folder:
        tracer = Tracer(job, Path(folder), fractions)
        techniques = {name: t for name, t in known().items() if t not in (Channels, Depth)}
        curves = {}
        for name, technique in techniques.items():
            curves[name] = tracer.single(technique, count, flat=bool(fractions))
            say(f"{task}: {name}, {len(curves[name])} files")
        curves["Channels"] = tracer.channels()
        joint = tracer.joint(tuple(techniques.values()), count)
        say(f"{task}: all together, {len(joint)} files")
        for point in undominated([p for points in curves.values() for p in points], joint):
            answer = tracer.within(point.nbytes)
            joint += [answer] if answer else []
    what = task if target == "packed" else f"{task} {target}"
    return [*rows_of(what, tracer.original, curves, joint), *verdict(what, tracer.original, curves, joint)]


def say(text: str) -> None:
    """A line to follow the run by."""
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def rows_of(
    what: str, original: Point, curves: Mapping[str, Sequence[Point]], joint: Sequence[Point]
) -> list[common.Row]:
    """Every point of every curve."""
    every = {"lessen/original": [original], "lessen": joint} | {f"lessen/{n}": c for n, c in curves.items()}
    return [
        common.row(who, what, "accuracy", p.value, "share", n=p.score.n, file_bytes=p.nbytes, plan=p.plan)
        for who, points in every.items()
        for p in sorted(points, key=lambda p: p.nbytes)
    ]


def verdict(
    what: str, original: Point, curves: Mapping[str, Sequence[Point]], joint: Sequence[Point]
) -> list[common.Row]:
    """How many points of single techniques are ahead, and how small each gets."""
    singles = [p for points in curves.values() for p in points]
    strict, sure = undominated(singles, joint), beyond_noise(singles, joint)
    ahead = {id(p): f"{name} {p.plan}, {p.nbytes} bytes" for name, points in curves.items() for p in points}
    note = "; ".join(f"{ahead[id(p)]}, {100 * lead(p, joint):+.2f}" for p in strict) or None
    rows = [
        common.row("lessen", what, "points_dominated", len(strict), "points", n=len(singles), note=note),
        common.row("lessen", what, "points_dominated_beyond_noise", len(sure), "points", n=len(singles)),
    ]
    for who, points in ({"lessen": joint} | {f"lessen/{n}": c for n, c in curves.items()}).items():
        for drop in DROPS:
            best = smallest(points, original, drop)
            rows.append(
                common.row(who, what, f"file_bytes_at_{drop:g}_points", best and best.nbytes, "bytes",
                           note=None if best else "no point loses so little")
            )  # fmt: skip
    return rows


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", f"{QUICK} alone, four points a curve")
    parser.add_argument("--tasks", help=f"of {', '.join(TASKS)}; by default {DEFAULT}")
    parser.add_argument("--target", default="packed")
    parser.add_argument("--points", type=int, default=12, help="points along each curve")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in (options.tasks or (QUICK if options.quick else DEFAULT)).split(","):
        started = time.perf_counter()
        count, fractions = (4, ()) if options.quick else (options.points, WIDTHS)
        rows = run(task, options.target, count, fractions)
        seconds = time.perf_counter() - started
        common.show(r for r in rows if r["figure"] != "accuracy")
        print(f"{task}: {seconds:.0f} s, {sum(r['figure'] == 'accuracy' for r in rows)} files", flush=True)
        if options.out:
            common.save(options.out, "python benchmarks/joint_vs_single.py", rows[0]["what"], rows, seconds)
        elif not options.quick:
            written = common.write(NAME, rows[0]["what"], rows, seconds)
            plot(common.rows(written), written.with_suffix(".svg"))


if __name__ == "__main__":
    main()
