"""What the benchmarks share: rows, the command line, and the one shape of a file of results."""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lessen.targets import machine, versions

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def row(who: str, what: str, figure: str, value: float | None, unit: str, **more: Any) -> Row:
    """One figure.

    Args:
        who: "lessen", "lessen/<variant>", or a peer's name with its version.
        what: model, task or case.
        value: None where it could not be measured; then say why in `note`.
        more: `n`, `low` and `high` (95 % interval), `note`, or whatever else belongs to it; None is left out.
    """
    if value is not None and math.isinf(value):  # a peer's file that answers nothing; JSON has no such number
        value, more = None, {"note": "infinite"}
    if value is not None and math.isnan(value) and not who.startswith("lessen"):  # ours is a mistake, and refused
        value, more = None, {"note": "not a number"}
    if more.get("note"):  # errors of peers name files: as they lie in the project
        more["note"] = re.sub(r"/\S*/(?=\.cache/)", "", str(more["note"]).replace(f"{RESULTS.parents[1]}/", ""))
    made = {"who": who, "what": what, "figure": figure, "value": value, "unit": unit}
    return made | {k: v for k, v in more.items() if v is not None}


class Peak:
    """The most memory that this process takes, above what it took at the start (Linux).

    `bytes` when it is over. What was freed before the start is given back first, so that it is not counted as free.
    The kernel keeps count where it lets us reset its count; else it is looked at every 10 ms.
    """

    def __enter__(self) -> Peak:
        ctypes.CDLL(None).malloc_trim(0)
        self._counted = _count_anew()
        self.bytes, self._start, self._over = 0, resident(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._counted:
            self.bytes = max(self.bytes, _most_resident() - self._start)

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.bytes = max(self.bytes, resident() - self._start)


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _count_anew() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _most_resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:"))


def parser(about: str, quick: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help=f"{quick}; nothing is written unless --out is given")
    made.add_argument("--out", type=Path, help="where to write the results")
    return made


def peer(package: str) -> str:
    """A peer's name with its version, as rows have it."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def show(rows: Iterable[Row]) -> None:
    """A line for each row, for people."""
    for r in rows:
        value = "    -" if r["value"] is None else f"{r['value']:.5g}"
        spread = f"  [{r['low']:.4g}, {r['high']:.4g}]" if "low" in r and "high" in r else ""
        print(f"{r['who']:30s} {r['what']:18s} {r['figure']:30s} {value:>10s} {r['unit']}{spread}  {r.get('note', '')}")
    sys.stdout.flush()


def write(name: str, part: str, rows: Sequence[Row], seconds: float, packages: Sequence[str] = ()) -> Path:
    """Puts the rows of one part (a model, a task) into benchmarks/results/NAME.json; other parts stay as they were.

    So a long benchmark can be run in parts. `parts` keeps the commit and the seconds of each of them.
    """
    return save(RESULTS / f"{name}.json", f"python benchmarks/{name}.py", part, rows, seconds, packages)


def save(
    path: Path, command: str, part: str, rows: Sequence[Row], seconds: float, packages: Sequence[str] = ()
) -> Path:  # fmt: skip
    """`write`, to any place."""
    before = json.loads(path.read_text()) if path.is_file() else {}
    parts = before.get("parts", {}) | {part: {"commit": commit(), "seconds": round(seconds, 1)}}
    kept = [r for r in before.get("rows", []) if r["what"] != part and r["what"] in parts]
    document = {
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "versions": versions() | _versions(packages),
        "seconds": round(sum(p["seconds"] for p in parts.values()), 1),
        "parts": parts,
        "rows": [*kept, *rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    return path


def keep(
    options: argparse.Namespace, name: str, part: str, rows: Sequence[Row], seconds: float, packages: Sequence[str] = ()
) -> None:  # fmt: skip
    """Writes the rows of one part to where the command line says: --out, results/NAME.json, or with --quick nowhere."""
    if options.out:
        save(options.out, f"python benchmarks/{name}.py", part, rows, seconds, packages)
    elif not options.quick:
        write(name, part, rows, seconds, packages)


def rows(path: Path) -> list[Row]:
    """The rows of a file of results."""
    return list(json.loads(path.read_text())["rows"])


def commit() -> str:
    """The commit of the working tree, "" outside of a repository."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "-q", "--verify", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def problems(document: Mapping[str, Any]) -> list[str]:
    """What is wrong with the shape of a file of results; empty where nothing is."""
    wanted = {"command": str, "commit": str, "machine": dict, "versions": dict, "seconds": (int, float), "rows": list}
    found = [k for k, kind in wanted.items() if not isinstance(document.get(k), kind)]
    for number, r in enumerate(document.get("rows") or []):
        found += [f"row {number}: {k}" for k in ("who", "what", "figure", "unit") if not isinstance(r.get(k), str)]
        if r.get("value") is None and not r.get("note"):
            found.append(f"row {number}: neither a value nor a note")
    return found


def _versions(packages: Iterable[str]) -> dict[str, str]:
    return {p: peer(p).rpartition(" ")[2] for p in packages if peer(p) != p}
