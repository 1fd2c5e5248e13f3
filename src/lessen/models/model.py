"""`Model`: a loaded network, its example inputs, and where it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import LessenError
from ..userfile import call, is_function_path, load_function

PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready to be worked on.

    Args:
        module: the network in evaluation mode.
        name: short name for reports.
        origin: the path or factory it came from.
        inputs: one batch of example inputs, in the order of `forward`.
    """

    module: nn.Module
    name: str = "model"
    origin: str = ""
    inputs: tuple[Tensor, ...] = ()

    def with_inputs(self, inputs: tuple[Tensor, ...]) -> Model:
        """The same model with example inputs, tried at once: a wrong shape is found here and not later."""
        try:
            with torch.no_grad():
                self.module(*inputs)
        except Exception as error:
            shapes = ", ".join(f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in inputs)
            raise LessenError(
                f"the network does not take inputs {shapes}: {_first_line(error)}",
                where=self.origin or self.name,
                mend="check the shape and type of the data; inputs go to forward() in the order of the data's arrays",
            ) from error
        return replace(self, inputs=inputs)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters())

    def sha256(self) -> str:
        """Digest of names and values of all parameters and buffers."""
        digest = hashlib.sha256()
        for name, t in sorted(self.module.state_dict().items()):
            if isinstance(t, Tensor):
                digest.update(f"{name} {tuple(t.shape)} {t.dtype}".encode())
                digest.update(t.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def load(source: str | Path | nn.Module | Model, *, trust: bool = False) -> Model:
    """Opens a network: an `nn.Module`, `file.py:factory`, an `.onnx` or a `.lessen` file.

    Raises:
        LessenError: the file is missing, not a model, has NaN or infinite weights, or is a pickle and not trusted.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, nn.Module):
        return _checked(Model(source.eval(), type(source).__name__, type(source).__name__))
    text = str(source)
    if is_function_path(text):
        return _checked(_from_factory(text))
    path = Path(text)
    if not path.is_file():
        raise LessenError(
            "this is a folder, not a file" if text and path.is_dir() else "no such file",
            where=text or "MODEL",
            mend="give an .onnx file, a .lessen file, or file.py:factory",
        )
    opener = {".onnx": _from_onnx, ".lessen": _from_lessen}.get(path.suffix.lower())
    if path.suffix.lower() in PICKLES:
        opener = _from_pickle if trust else _refuse_pickle
    if opener is None:
        raise LessenError(
            f"don't know how to open {path.suffix or 'a file without an ending'}",
            where=text,
            mend="give an .onnx file, a .lessen file, or file.py:factory returning an nn.Module",
        )
    return _checked(opener(path))


def _checked(model: Model) -> Model:
    for name, t in model.module.state_dict().items():
        if isinstance(t, Tensor) and t.is_floating_point() and not bool(torch.isfinite(t).all()):
            raise LessenError(
                f"{int((~torch.isfinite(t)).sum())} weights are NaN or infinite",
                where=f"{model.origin}, {name}",
                mend="the network is damaged or its training diverged; compress a healthy checkpoint",
            )
    if not any(True for _ in model.module.parameters()):
        raise LessenError("the network has no parameters: there is nothing to compress", where=model.origin)
    model.module.eval()
    return model


def _from_factory(reference: str) -> Model:
    module = call(load_function(reference))
    if not isinstance(module, nn.Module):
        raise LessenError(f"returns {type(module).__name__}, not an nn.Module", where=reference)
    return Model(module.eval(), reference.rpartition(":")[2], reference)


def _from_onnx(path: Path) -> Model:
    from .onnx_import import load_onnx

    return Model(load_onnx(path).eval(), path.stem, str(path))


def _from_lessen(path: Path) -> Model:
    from .packed import load_packed

    return Model(load_packed(path).eval(), path.stem, str(path))


def _refuse_pickle(path: Path) -> Model:
    raise LessenError(
        "this is a pickle: opening it can run any code that its author put in",
        where=str(path),
        mend="give --trust if you made it yourself, or better file.py:factory with weights in safetensors",
    )


def _from_pickle(path: Path) -> Model:
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise LessenError(f"can't be unpickled: {_first_line(error)}", where=str(path)) from error
    if not isinstance(module, nn.Module):
        raise LessenError(
            f"holds {type(module).__name__}, not a network",
            where=str(path),
            mend="weights alone don't say what the network is: give file.py:factory that builds it and loads them",
        )
    return Model(module, path.stem, str(path))
