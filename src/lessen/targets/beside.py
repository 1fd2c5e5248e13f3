"""Graphs with large weights go to ONNX Runtime by files; a weight that lies in one already is not written again."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from ..memory import rest

_LEAST = 2**16  # bytes of a weight that is worth a place of its own
_ALIGNED = 2**12  # bytes: what lies on a page of its own can be mapped


class Beside:
    """A folder of weights that graphs in memory share: trials put other things around the same weights again and again.

    A file goes when the last of its weights does. What an array holds must not change once it was written; the
    graphs here get new arrays instead.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._places: weakref.WeakKeyDictionary[ir.Tensor, ir.ExternalTensor] = weakref.WeakKeyDictionary()
        self._number = itertools.count()

    @contextlib.contextmanager
    def saved(self, model: ir.Model) -> Iterator[Path]:
        """The graph as a file that refers to these weights; it is gone afterwards, to whoever has not opened it."""
        folder = self._open()
        path = folder / f"graph-{next(self._number)}.onnx"
        held = ((v, v.const_value) for v in model.graph.initializers.values())
        weights = {v: t for v, t in held if type(t) is ir.Tensor and t.nbytes >= _LEAST and t.dtype.bitwidth >= 8}
        self._write(folder, [t for t in weights.values() if t not in self._places])
        try:
            for value, tensor in weights.items():
                value.const_value = self._places[tensor]
            path.write_bytes(ir.to_proto(model).SerializeToString())
        finally:
            for value, tensor in weights.items():
                value.const_value = tensor
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _open(self) -> Path:
        """The folder; it goes with this object, at the end of the program at the latest."""
        if self._folder is None or not self._folder.is_dir():
            self._folder = Path(tempfile.mkdtemp(prefix="lessen-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            self._places.clear()
        return self._folder

    def _write(self, folder: Path, tensors: list[ir.Tensor]) -> None:
        if not tensors:
            return
        path = folder / f"weights-{next(self._number)}"
        left = len(tensors)

        def gone() -> None:
            nonlocal left
            left -= 1
            if not left:
                path.unlink(missing_ok=True)

        with path.open("wb") as file:
            for tensor in tensors:
                file.seek(-(-file.tell() // _ALIGNED) * _ALIGNED)
                start = file.tell()
                tensor.tofile(file)
                rest()
                self._places[tensor] = ir.ExternalTensor(
                    path.name, start, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=tensor.name or "",
                    base_dir=folder,
                )  # fmt: skip
                weakref.finalize(tensor, gone).atexit = False


beside = Beside()
