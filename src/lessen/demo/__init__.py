"""The demo: a trained network and its data, in the package, so that the whole job runs offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..compression import Compression

_HERE = Path(__file__).parent


def job(target: str = "onnxruntime") -> Compression:
    """The demo's job: a ResNet on Fashion-MNIST, at most one point lost."""
    from ..compression import Compression

    return Compression(f"{_HERE / 'network.py'}:network", f"{_HERE / 'data.py'}:parts", "1%", target=target)
