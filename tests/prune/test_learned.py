"""Learned masks: what the predictor sees, how it learns, that it can be kept, and that it serves other networks."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lessen
import small
from lessen.allocation import allocated
from lessen.data import load_data
from lessen.errors import LessenError
from lessen.models import fold_batchnorm, trace
from lessen.models.layer import Layer
from lessen.prune import LearnedMask, Magnitude
from lessen.prune.learned import Predictor
from lessen.prune.learned_features import NAMES, features
from lessen.statistics import Statistics, collect
from lessen.train import Distillation, copied
from lessen.train.learned import Learned, LearnedPruning
from lessen.train.method import Lesson

DATA = load_data({"calibration": small.data(512, seed=4), "validation": small.data(64), "test": small.data(64, seed=2)})
X = small.data(2)[0]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return fold_batchnorm(small.trained(), (X,))[0]


def learned(net: nn.Module, method: LearnedPruning, seed: int = 0) -> tuple[nn.Module, Learned]:
    student = copied(net)
    return student, method.fit(student, Lesson(net, trace(student, (X,)).layers, DATA.calibration, seed=seed))


def loss(net: nn.Module, student: nn.Module) -> float:
    x, labels = small.data(400, seed=6)
    with torch.no_grad():
        return float(Distillation(alpha=1)(student(x), net(x), labels))


def pruned(net: nn.Module, technique: object) -> nn.Module:
    layers = trace(net, (X,)).layers
    known = collect(net, layers, DATA.calibration.batches())
    each, twin = allocated(technique, layers, known), copied(net)  # type: ignore[arg-type]
    for x in layers:
        with torch.no_grad():
            twin.get_parameter(x.name).copy_(x.from_matrix(each[x.name].encode(x, known[x.name]).decode()))
    return twin


def zeros(net: nn.Module) -> int:
    return sum(int((net.get_parameter(x.name) == 0).sum()) for x in trace(net, (X,)).layers)


def test_the_features_are_what_they_are_called() -> None:
    weight = torch.tensor([[1.0, -2.0], [4.0, 0.0]])
    H = torch.diag(torch.tensor([1.0, 9.0]))[None]
    known = features(Layer("w", "linear", weight), Statistics(H, G=torch.tensor([1.0, 3.0]), samples=8))
    column = {n: known[:, i].reshape(2, 2) for i, n in enumerate(NAMES)}
    assert known.shape == (4, len(NAMES)) and bool((known.abs() <= 4).all())
    assert column["rank"].flatten().argsort().tolist() == [3, 0, 1, 2]
    torch.testing.assert_close(column["magnitude"][0, 1] - column["magnitude"][0, 0], torch.tensor(2.0).log())
    apart = column["input"][0, 1] - column["input"][0, 0]
    torch.testing.assert_close(apart, torch.tensor(3.0).log(), atol=0.01, rtol=0)
    torch.testing.assert_close(column["harm"][0, 0], (torch.tensor(0.5).log10() + 6) / 3, atol=0.01, rtol=0)
    assert bool((column["linear"] == 1).all()) and bool((column["conv"] == 0).all())


def test_an_untrained_predictor_is_second_order_pruning() -> None:
    x = Layer("w", "linear", torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    scores = Predictor()(features(x, Statistics()))
    assert torch.equal(scores.argsort(), x.matrix.abs().flatten().argsort())  # nothing known but the weight


def test_it_learns_which_weights_matter(net: nn.Module) -> None:
    student, told = learned(net, LearnedPruning(0.8, epochs=4, batch_size=32, lr=1e-2))
    best = min(loss(net, pruned(net, Magnitude(0.8, b))) for b in ("layer", "global", "lamp", "erk"))
    assert loss(net, student) < best
    total = sum(m.numel() for m in told.masks.values())
    assert told.sparsity == pytest.approx(0.8, abs=1 / total) and zeros(student) >= round(0.8 * total)
    kept = [(student.get_parameter(n), net.get_parameter(n)) for n in told.masks]
    assert all(torch.equal(s[s != 0], o[s != 0]) for s, o in kept)  # what stays is not moved


def test_two_trainings_are_equal_and_seeds_are_not(net: nn.Module) -> None:
    first, second, other = (learned(net, LearnedPruning(0.7), seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_a_predictor_is_kept_and_used_on_another_network(net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "predictor.safetensors"
    student, _ = learned(net, LearnedPruning(0.6, save=str(path)))
    again = pruned(net, LearnedMask(0.6, str(path)))
    assert path.stat().st_size < 10_000
    names = [x.name for x in trace(net, (X,)).layers]
    same = [(student.get_parameter(n) == again.get_parameter(n)).float().mean() for n in names]
    assert min(float(s) for s in same) > 0.99  # statistics of the same samples, summed in other batches
    other = nn.Sequential(nn.Flatten(), nn.Linear(144, 24), nn.ReLU(), nn.Linear(24, 4))
    made = lessen.apply(other, LearnedMask(0.6, str(path)), small.data(100))
    weights = torch.cat([p.flatten() for n, p in made.named_parameters() if n.endswith("weight")])
    assert float((weights == 0).float().mean()) == pytest.approx(0.6, abs=0.01)


def test_what_is_no_predictor_is_refused(tmp_path: Path) -> None:
    path, x = tmp_path / "p.safetensors", Layer("w", "linear", torch.ones(2, 2))
    with pytest.raises(LessenError, match="is no predictor"):
        LearnedMask(0.5, str(path)).encode(x, Statistics())
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(LessenError, match="is no predictor"):
        Predictor.load(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(LessenError, match="of this version"):
        Predictor.load(path)
    bad = Predictor()
    nn.init.constant_(bad.layers[0].weight, float("nan"))  # type: ignore[arg-type]
    with pytest.raises(LessenError, match="NaN"):
        Predictor.load(bad.save(path))


@pytest.mark.parametrize("bad", [{"sparsity": 1.0}, {"sparsity": -0.1}, {"budget": "lamp"}, {"position": 2}])
def test_nonsense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(LessenError, match="LearnedMask"):
        LearnedMask(**bad)  # type: ignore[arg-type]
    with pytest.raises(LessenError):
        LearnedPruning(epochs=0)
