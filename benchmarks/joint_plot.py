"""The plot of joint_vs_single for the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#8c8c8c",
    "#7a6a00",
    "#8b1a1a",
)  # Okabe and Ito 2008
JOINT, SHOWN = "#111111", 6.0  # points below the original that are shown


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """A panel for each task: accuracy over kilobytes, every technique alone and all together."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "lessen", "font.size": 9, "font.family": "DejaVu Sans"}
    from matplotlib import pyplot

    points = [r for r in rows if r["figure"] == "accuracy" and r["value"] is not None]
    tasks = list(dict.fromkeys(r["what"] for r in points))
    names = sorted({r["who"].removeprefix("lessen/") for r in points if r["who"].startswith("lessen/")} - {"original"})
    colours = dict(zip(names, COLOURS * 2, strict=False))
    figure, panels = pyplot.subplots(1, len(tasks), figsize=(4.7 * len(tasks), 3.9), squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        _panel(panel, [r for r in points if r["what"] == task], colours)
    handles = {label: h for p in panels[0] for h, label in zip(*p.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=min(3 * len(tasks), 5), frameon=False)
    figure.tight_layout(rect=(0, 0.25 if len(tasks) == 1 else 0.14, 1, 1))
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return path


def _panel(panel: Any, rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> None:
    original = next(r for r in rows if r["who"] == "lessen/original")
    floor = 100 * original["value"] - SHOWN
    for name, colour in colours.items():
        front = _front([r for r in rows if r["who"] == f"lessen/{name}"])
        style = {"color": colour, "lw": 1.1, "marker": "o", "ms": 2.8, "alpha": 0.9, "label": f"{name} alone"}
        panel.plot([r["file_bytes"] / 1e3 for r in front], [100 * r["value"] for r in front], **style)
    front = _front([r for r in rows if r["who"] == "lessen"])
    kilobytes, percent = [r["file_bytes"] / 1e3 for r in front], [100 * r["value"] for r in front]
    panel.plot(kilobytes, percent, color=JOINT, lw=2.4, marker="o", ms=4, label="all together", zorder=5)
    panel.axhline(100 * original["value"], color="#999999", lw=0.8, ls=":")
    note = f"original: {100 * original['value']:.2f} %, {original['file_bytes'] / 1e3:.0f} kB"
    panel.text(0.02, 100 * original["value"] + 0.06, note, ha="left", va="bottom", fontsize=7.5, color="#555555",
               transform=panel.get_yaxis_transform())  # fmt: skip
    panel.set(
        title=original["what"], xlabel="size of the file, kB", ylabel="accuracy on the test part, %", xscale="log"
    )
    panel.set_ylim(floor, 100 * original["value"] + 0.6)
    shown = [r["file_bytes"] / 1e3 for r in rows if 100 * r["value"] >= floor and r is not original]
    panel.set_xlim(0.9 * min(shown), 1.1 * max(shown))
    panel.tick_params(which="both", axis="x", pad=4, length=3)
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    panel.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if str(f"{x:g}")[0] in "25" else "")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.2, lw=0.5)


def _front(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The best of its size and below: rising in bytes and in accuracy."""
    front: list[Mapping[str, Any]] = []
    for r in sorted(rows, key=lambda r: (r["file_bytes"], -r["value"])):
        if not front or r["value"] > front[-1]["value"]:
            front.append(r)
    return front
