"""`LearnedMask`: a small network says which weights to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..codings import Sparse
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.statistics import Statistics
from .budgets import check_budget, together
from .learned_features import HARM, NAMES, features
from .mask import check_sparsity, pruned

WIDTH = 24
PACKAGED = Path(__file__).with_name("learned.safetensors")
_KIND = "lessen mask predictor 1"


class Predictor(nn.Module):
    """What is known of a weight -> a score, [n, features] -> [n]; the weights of the highest scores are kept.

    The logarithm of the predicted harm plus what a perceptron of two hidden layers adds to it. Before it is trained
    that is nothing: it starts as second-order pruning.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(len(NAMES), WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)
            )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, known: Tensor) -> Tensor:
        added: Tensor = self.layers(known)[:, 0]
        return 3 * known[:, HARM] + added

    def save(self, path: str | Path) -> Path:
        """Writes a safetensors file of about 5 kB."""
        path = Path(path)
        try:
            save_file(self.state_dict(), path, metadata={"kind": _KIND, "features": " ".join(NAMES)})
        except (OSError, SafetensorError) as error:
            raise LessenError(f"can't be written: {error}", where=str(path), mend="give another place") from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Predictor:
        """Reads what `save` wrote; `LessenError` for anything else."""
        try:
            with safe_open(path, "pt") as file:
                known = file.metadata() or {}
                state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise LessenError(
                f"is no predictor: {error}", where=str(path), mend="make one by LearnedPruning"
            ) from error
        made = cls()
        fits = {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in made.state_dict().items()}
        if known.get("kind") != _KIND or known.get("features") != " ".join(NAMES) or not fits:
            raise LessenError("is no predictor of this version", where=str(path), mend="make one by LearnedPruning")
        if not all(bool(torch.isfinite(t).all()) for t in state.values()):
            raise LessenError("holds NaN or infinite values", where=str(path), mend="train it again")
        made.load_state_dict(state)
        return made.eval()


@dataclass(frozen=True)
class LearnedMask:
    """Removes the weights that a small network, trained on another or on this very network, gives the lowest scores.

    The predictor sees of every weight what calibration knows (see `features`): magnitude, statistics of its input,
    gradients, place and layer. It was trained end to end through relaxed masks (`LearnedPruning`); in the manner of
    learned metrics for pruning (Liu et al. 2020, https://arxiv.org/abs/1907.09837; for the relaxation Louizos et al.
    2018, https://arxiv.org/abs/1712.01312).

    Args:
        sparsity: share of the weights to remove, 0 <= s < 1; at least one weight of each layer stays.
        predictor: path of a file that `Predictor.save` wrote; "" is the one that comes with lessen, trained on a small
            residual network.
        budget: "global": a share of all layers' weights, those with the lowest scores wherever they are; "layer": of
            each layer's.
        position: share of the network's layers before this one; `allocate` sets it.

    >>> LearnedMask(sparsity=0.8).encode(layer, statistics)  # doctest: +SKIP
    """

    sparsity: float = 0.5
    predictor: str = ""
    budget: str = "global"
    position: float = 0.5

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "LearnedMask")
        check_budget(self.budget, "LearnedMask", ("global", "layer"))
        if not isinstance(self.position, (int, float)) or not 0 <= self.position <= 1:
            raise LessenError(f"position={self.position!r}", where="LearnedMask", mend="give 0 to 1")

    def allocate(self, layers: Sequence[Layer], statistics: Mapping[str, Statistics]) -> dict[str, LearnedMask]:
        """Each layer's place and, under a global budget, its own sparsity; all layers that share it must be given."""
        placed = {x.name: replace(self, position=i / max(len(layers) - 1, 1)) for i, x in enumerate(layers)}
        if self.budget == "layer" or not layers:
            return placed
        found = {x.name: placed[x.name]._scores(x, statistics.get(x.name, Statistics())).flatten() for x in layers}
        kept = together(found, self.sparsity)
        return {
            n: replace(placed[n], sparsity=(len(found[n]) - k) / len(found[n]), budget="layer") for n, k in kept.items()
        }

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The weights with the highest scores; `LessenError` if weights aren't finite or there is no such predictor."""
        return pruned(layer, self._scores(layer, statistics), self.sparsity)

    def _scores(self, layer: Layer, statistics: Statistics) -> Tensor:
        """Positive and in the order of the predictor's scores, float64 [rows, columns]; what a mask forbids is 0."""
        net = _loaded(self.predictor or str(PACKAGED))
        with torch.no_grad():
            raw = net(features(layer, statistics, self.position)).double().reshape(layer.shape)
        scores = raw.sigmoid() + 1e-9
        return scores if layer.mask is None else scores * layer.mask

    @classmethod
    def offers(cls) -> tuple[LearnedMask, ...]:
        """Nothing: `OptimalBrain`, which also moves the survivors, does less harm; it is there for those who ask."""
        return ()


@lru_cache(maxsize=8)
def _loaded(path: str) -> Predictor:
    return Predictor.load(path)
