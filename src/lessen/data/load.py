"""`load_data`: the one door for data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lessen.data import check, split
from lessen.data.batch import Batch, Rows
from lessen.data.convert import LABELS, pool, select, to_batch
from lessen.data.folder import ImageFolder
from lessen.data.images import Images, class_folders, read_folder
from lessen.data.npz import read_npz
from lessen.data.part import Data, Finish, Part
from lessen.errors import LessenError
from lessen.userfile import blame, call, is_function_path, load_function, private_randomness

PARTS = ("calibration", "validation", "test")
_ALIASES = {"calibration": "calibration", "train": "calibration", "training": "calibration"} | {
    "validation": "validation", "val": "validation", "valid": "validation", "test": "test", "testing": "test",
}  # fmt: skip
_DONORS = {"calibration": ("validation", "test"), "validation": ("test", "calibration"), "test": ("validation",)}
_FORMS = "give an .npz file, a folder of class folders with images, file.py:function, or (x, y) in Python"
Source = Any
Like = tuple[Tensor, ...] | Mapping[str, Tensor]


def load_data(
    source: Source,
    *,
    seed: int = 0,
    batch_size: int = 32,
    like: Like | Tensor | int | None = None,
    preprocess: Images | Finish | None = None,
    sizes: Callable[[int], tuple[int, int, int]] = split.sizes,
) -> Data:
    """Data from a file, a folder, a function or Python objects, in three parts that never mix.

    Everything is read once and kept in CPU memory (`Data.nbytes`): images as bytes, the rest as float32 or integers.
    Tensors and arrays that are float32 or integers already are not copied, so leave them as they are. Without parts
    given apart, a quarter but at most 300 samples become `calibration`, and halves of the rest `validation` and
    `test`, by class where labels are classes.

    Args:
        source: an `.npz` path (`x`, `y`; or inputs by name and `y` | `labels`; or `x_calibration`, `x_validation`,
            `x_test`, ...); a folder `CLASS/picture.png` (or `test/CLASS/picture.png`, ...); "file.py:function";
            a function; (x, y); an iterable of batches x | (x, y) | {name: x, "labels": y}; a mapping of parts
            {"calibration": ..., "validation": ..., "test": ...}; a `Data`.
        seed: of the split, and of any randomness inside the user's iterable. Global generators are left as they were.
        batch_size: default of `Part.batches`.
        like: the network's example inputs, batched, by name if they have names: shapes and dtypes are checked, names
            matched, images sized. Or only how many inputs it takes: it tells (x1, x2) from (x, y).
        preprocess: for images an `Images`; else a function from a tuple of inputs to a tuple of inputs, per batch.
        sizes: of the parts of undivided samples, from their number; `split.lessons` for samples to train on.

    Raises:
        LessenError: the source can't be read, is empty, or holds NaN, wrong shapes or labels that don't match.
    """
    if isinstance(source, Data):
        return source
    n_inputs = like if isinstance(like, int) else None
    like = None if isinstance(like, int) else (like,) if isinstance(like, Tensor) else like
    name = _label(source)
    with private_randomness(seed):
        found, finish = _read(source, name, like, preprocess, n_inputs)
        pools = {part: _pool(batches, name, None if finish else like) for part, batches in found.items()}
    return _build(pools, name, seed, batch_size, finish, sizes)


def _label(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return str(source)
    if isinstance(source, ImageFolder):
        return source.path
    return getattr(source, "__name__", None) or f"data ({type(source).__name__})"


Found = dict[str, Iterable[Batch]]


def _read(source: Source, name: str, like: Like | None, hook: Any, n_inputs: int | None) -> tuple[Found, Finish | None]:
    """The parts as iterables of batches ("all" if they are not given apart), and what finishes a batch."""
    finish = None if hook is None else hook
    n_inputs = n_inputs if like is None else len(like)
    if isinstance(source, ImageFolder):
        how = source.images(None if like is None or len(like) != 1 else _image_example(like, name))
        return _from_folder(Path(source.path), how), how
    if isinstance(source, str | os.PathLike):
        text = str(source)
        if is_function_path(text):
            function = load_function(text)
            return _from_python(call(function), name, n_inputs, function), finish
        path = Path(text)
        if text and path.is_dir():
            how = hook or Images.like(_image_example(like, name), name)
            return _from_folder(path, how), how
        if path.suffix == ".npz":
            return _from_arrays(read_npz(path), name), finish
        state = "unknown kind of file" if text and path.exists() else "no such file or folder"
        raise LessenError(state, where=text or "--data", mend=_FORMS)
    if callable(source) and not isinstance(source, Iterable):
        return _from_python(call(source), name, n_inputs, source), finish
    return _from_python(source, name, n_inputs, source), finish


def _image_example(like: Like | None, name: str) -> Tensor:
    if like is None or len(like) != 1:
        raise LessenError(
            "a folder of images needs to know the network's one input",
            where=name,
            mend="give --input-shape 3x224x224 (in Python: like=example)",
        )
    return next(iter(like.values())) if isinstance(like, Mapping) else like[0]


def _from_folder(folder: Path, how: Images) -> Found:
    inside = {f.name: f for f in class_folders(folder)}
    if inside and set(inside) <= set(_ALIASES):
        classes = sorted({c.name for f in inside.values() for c in class_folders(f)})
        return {_ALIASES[part]: [read_folder(f, how, classes)] for part, f in inside.items()}
    return {"all": [read_folder(folder, how)]}


def _from_arrays(arrays: Mapping[str, np.ndarray], name: str) -> Found:
    """Arrays by name; `x_test`, `labels_test`, ... go to their part."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        stem, _, tail = key.rpartition("_")
        part = _ALIASES.get(tail) if stem else None
        mine = parts.setdefault(part or "all", {})
        key = stem if part else key
        mine["labels" if key in LABELS else key] = array
    if "all" in parts and len(parts) > 1:
        raise LessenError(
            f"{sorted(parts.pop('all'))} belong to no part, others to {sorted(parts)}",
            where=name,
            mend="end all names in _calibration, _validation or _test, or none",
        )
    if not parts:
        raise LessenError("no arrays in it", where=name, mend="numpy.savez(path, x=x, y=y)")
    batches: Found = {part: [_table(mine, f"{name}, {part}")] for part, mine in parts.items()}
    return batches


def _table(arrays: dict[str, np.ndarray], where: str) -> Batch:
    """One batch of all samples; unlike batches of an iterable it must be a table: one row a sample in every array."""
    batch = to_batch(arrays, where)
    if batch.whole:
        counts = ", ".join(f"{k}: {len(v)}" for k, v in arrays.items() if v.ndim)
        raise LessenError(f"the arrays disagree about the number of samples ({counts})", where=where, mend="align them")
    return batch


def _from_python(source: Any, name: str, n_inputs: int | None, owner: object) -> Found:
    if isinstance(source, Data):
        return {part.name: list(part.batches(max(part.n, 1))) for part in source.parts}
    if isinstance(source, Mapping) and source and all(str(k) in _ALIASES for k in source):
        found: Found = {}
        for key, value in source.items():
            for batches in _from_python(value, f"{name}, {key}", n_inputs, owner).values():
                found[_ALIASES[str(key)]] = chain(found.get(_ALIASES[str(key)], ()), batches)
        return found
    if isinstance(source, Tensor | np.ndarray | Mapping | tuple):
        return {"all": [to_batch(source, name, n_inputs)]}
    if isinstance(source, torch.utils.data.Dataset) and hasattr(source, "__len__"):
        source = torch.utils.data.DataLoader(source, batch_size=64)
    if isinstance(source, str | bytes) or not isinstance(source, Iterable):
        raise LessenError(f"can't read data from {type(source).__name__}", where=name, mend=_FORMS)
    return {"all": _iterate(source, name, n_inputs, owner)}


def _iterate(source: Iterable[Any], name: str, n_inputs: int | None, owner: object) -> Iterator[Batch]:
    with blame(owner):
        for number, item in enumerate(source):
            yield to_batch(item, f"{name}, batch {number}", n_inputs)


Pool = list[tuple[Rows, Tensor]]


def _pool(batches: Iterable[Batch], name: str, like: Like | None) -> Pool:
    blocks = pool((b if like is None else check.fit(b, like, name) for b in batches), name)
    check.check_finite(blocks, name)
    return blocks


def _build(
    pools: dict[str, Pool], name: str, seed: int, batch_size: int, finish: Finish | None,
    sizes: Callable[[int], tuple[int, int, int]],
) -> Data:  # fmt: skip
    notes: list[str] = []
    orders = {part: _order(blocks, seed) for part, blocks in pools.items()}
    where: dict[str, tuple[Pool, Tensor]] = {}
    if "all" in pools:
        n = len(orders["all"])
        if n < len(PARTS):
            raise LessenError(f"{n} samples can't make three parts", where=name, mend="give at least 3, better 1,000")
        pieces = split.cut(orders["all"], sizes(n))
        where = {part: (pools["all"], piece) for part, piece in zip(PARTS, pieces, strict=True)}
    else:
        where = {part: (pools[part], orders[part]) for part in pools}
        notes += _complete(where, name)
    _alike(pools, name)
    parts = [Part(p, select(where[p][0], where[p][1]), batch_size, finish) for p in PARTS]
    notes += _small(parts) + check.leaks(parts)
    notes += ["each batch counts as one sample: its inputs disagree about the first axis"] * any(
        block.whole for part in parts for block in part.blocks
    )
    return Data(parts[0], parts[1], parts[2], warnings=tuple(notes), source=name)


def _alike(pools: dict[str, Pool], name: str) -> None:
    """Refuse parts that do not have the same inputs."""
    first, *others = ((part, blocks[0][0].pieces[0]) for part, blocks in pools.items())
    for part, block in others:
        if (len(block.inputs), block.names) != (len(first[1].inputs), first[1].names):
            raise LessenError(
                f"{part} has {len(block.inputs)} inputs {list(block.names)}, "
                f"{first[0]} {len(first[1].inputs)} {list(first[1].names)}",
                where=name,
                mend="give the same inputs in every part",
            )


def _order(blocks: Pool, seed: int) -> Tensor:
    labels, n = None, sum(len(ids) for _, ids in blocks)
    known = [b.labels for b, _ in blocks if not b.whole]
    told = [y for y in known if y is not None and y.ndim == 1]
    if len(told) == len(blocks):
        labels = torch.cat(told)
        labels = labels[torch.cat([ids for _, ids in blocks]).argsort()]
    return split.order(n, labels, seed)


def _complete(where: dict[str, tuple[Pool, Tensor]], name: str) -> list[str]:
    """Parts that were not given are cut off the ones that were, each told in a warning."""
    notes = []
    for part in PARTS:
        if part in where:
            continue
        donor = next((d for d in _DONORS[part] if d in where and len(where[d][1]) > 1), None)
        if donor is None:
            raise LessenError(f"no {part} samples", where=name, mend="give all three parts, or more samples undivided")
        blocks, indices = where[donor]
        keep = len(indices) - (split.sizes(len(indices))[0] if part == "calibration" else len(indices) // 2)
        where[donor], where[part] = (blocks, indices[:keep]), (blocks, indices[keep:])
        notes.append(f"no {part} part was given: {len(indices) - keep} of the {donor} samples serve as it")
    return notes


def _small(parts: list[Part]) -> list[str]:
    calibration, validation, test = parts
    notes = [f"only {p.n} {p.name} samples" for p in (validation, test) if p.n < 100]
    if calibration.n < 32:
        notes.insert(0, f"only {calibration.n} calibration samples: activation ranges may be missed")
    return notes
