"""`file.py:function`: the user's own code, loaded from its path."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from lessen.errors import LessenError, did_you_mean


def is_function_path(text: str) -> bool:
    """True for "file.py:function"."""
    return text.rpartition(":")[0].endswith(".py")


def load_function(text: str) -> Callable[..., Any]:
    """The function that "file.py:function" names.

    The file is executed: it is the user's own code, not data. Files beside it can be imported by it.

    Raises:
        LessenError: no such file or function, or the file itself fails.
    """
    file, _, name = text.rpartition(":")
    module = _load_module(Path(file))
    function = getattr(module, name, None)
    if not callable(function):
        known = [k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise LessenError(f"no function {name!r}", where=file, mend=did_you_mean(name, known or ["(none)"]))
    return function


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call the user's function; an exception in it becomes a `LessenError` that names the line of their file."""
    with blame(function):
        return function(*args)


@contextlib.contextmanager
def blame(function: object) -> Iterator[None]:
    """Turn an exception of the user's code into a `LessenError` with their file and line."""
    try:
        yield
    except LessenError:
        raise
    except (Exception, SystemExit) as error:  # a script that calls exit() must not end us in silence
        name = getattr(function, "__name__", type(function).__name__)
        raise LessenError(
            f"{name} failed: {type(error).__name__}: {error}", where=_place(function, error), mend="mend it there"
        ) from error


def _place(function: object, error: BaseException) -> str:
    """file:line of the deepest frame of the user's own file, or the function's file."""
    with contextlib.suppress(TypeError, OSError):
        own = inspect.getsourcefile(function)  # type: ignore[arg-type]
        frame, place = error.__traceback__, own or ""
        while frame is not None:
            if frame.tb_frame.f_code.co_filename == own:
                place = f"{own}:{frame.tb_lineno}"
            frame = frame.tb_next
        return place
    return getattr(function, "__module__", "")


def _load_module(path: Path) -> ModuleType:
    if not path.is_file():
        raise LessenError("no such file", where=str(path), mend='write "path/to/file.py:function"')
    source = path.resolve()
    name = f"lessen_user_{source.stem}_{hashlib.sha256(str(source).encode() + source.read_bytes()).hexdigest()[:12]}"
    if name in sys.modules:  # the same text was loaded before: data, metric and model may share a file
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _beside(source.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        line = getattr(error, "lineno", None) or _line(error, str(source))
        raise LessenError(
            f"can't be loaded: {type(error).__name__}: {error}", where=f"{path}:{line}", mend="mend it there"
        ) from error
    return module


def _line(error: BaseException, file: str) -> int:
    frame, line = error.__traceback__, 0
    while frame is not None:
        line = frame.tb_lineno if frame.tb_frame.f_code.co_filename == file else line
        frame = frame.tb_next
    return line


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Let the file import its neighbours while it loads."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


@contextlib.contextmanager
def private_randomness(seed: int) -> Iterator[None]:
    """Run the user's code (shuffling loaders, augmentation) under a seed; global generators stay as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
