"""What rounding a layer's activations does is measured where the prediction is not to be trusted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import small
from lessen.artifact import Exporter
from lessen.compression import Compression
from lessen.plan import Treatment
from lessen.quantize import Uniform
from lessen.report import Progress
from lessen.search import sensitivity
from lessen.search.prepare import prepared
from lessen.solve import Candidate
from lessen.targets.trial import SAMPLES
from lessen.verify import Judge


def test_harm_is_half_the_squared_error_by_the_squared_size() -> None:
    wanted, got = [[np.array([[3.0, 4.0], [0.0, 1.0]])]], [[np.array([[3.0, 4.5], [0.0, 1.0]])]]
    assert sensitivity.half_squared_error(wanted, got) == pytest.approx(0.5 * (0.25 / 25) / 2)


def test_relative_entropy_is_that_of_torch() -> None:
    a, b = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)).double()
    p, q = a.log_softmax(1), b.log_softmax(1)
    expected = float((p.exp() * (p - q)).sum(1).mean())
    assert sensitivity.relative_entropy([[a.numpy()]], [[b.numpy()]]) == pytest.approx(expected)
    assert sensitivity.relative_entropy([[a.numpy()]], [[a.numpy() + 3]]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("worth", [True, False])
def test_candidates_get_the_measured_harm_of_their_activations(monkeypatch, worth: bool) -> None:
    job = Compression(small.trained(), small.data(), "5%", (Uniform(8),), "openvino").open()
    bench = prepared(job, Progress(quiet=True))
    exporter = Exporter(job.target, bench, job.model.inputs, job.data.calibration)
    monkeypatch.setattr(sensitivity, "NEGLIGIBLE", 0.0 if worth else 1e9)
    treatments = (Treatment(), Treatment(Uniform(8)), Treatment(Uniform(8), 8))
    items = {n: [Candidate(n, t, 1e-9 * i, 1) for i, t in enumerate(treatments)] for n in bench.layers}
    made = sensitivity.as_measured(job, exporter, items, Progress(quiet=True))
    kept = [[c.harm for c in found[:2]] for found in made.values()]
    assert kept == [[0.0, 1e-9]] * len(items)
    measured = sum(found[2].harm for found in made.values())
    if worth:  # noise of different layers adds up, so the parts make the whole
        answers = {n: (a, b) for n, a, b in exporter.answers_rounded(list(items), SAMPLES)}
        assert measured == pytest.approx(sum(sensitivity.relative_entropy(*x) for x in answers.values()), rel=0.1)
        assert measured > 1e-7
    else:
        assert made is items


def test_large_networks_are_measured_on_fewer_samples() -> None:
    assert sensitivity._affordable(10**8, 50) == SAMPLES  # a MobileNet
    assert sensitivity._affordable(4 * 10**9, 54) == 4  # a ResNet-50
    assert sensitivity._affordable(0, 0) == SAMPLES
    job = Compression(small.trained(), small.data(), "5%", (Uniform(8),), "openvino").open()
    exporter = Exporter(job.target, prepared(job, Progress(quiet=True)), job.model.inputs, job.data.calibration)
    layers = list(exporter.bench.layers)
    seen = [sum(len(part[0]) for part in next(exporter.answers_rounded(layers, n))[1]) for n in (1, 10**6)]
    assert seen[0] < seen[1] == job.data.calibration.n


def test_a_plan_that_misses_on_the_test_part_makes_room_for_one_of_a_third_of_its_harm(monkeypatch, tmp_path) -> None:
    real, seen = Judge.drop, []

    def drop(judge, path, part):
        score, found = real(judge, path, part)
        if part.name == "test" and path.name.startswith("candidate") and not seen:
            seen.append(found)
            return score, type(found)(99.0, 98.0, 100.0, found.confidence, found.method)
        return score, found

    once = Compression(small.trained(), small.data(), "5%", (Uniform,), "packed").run(tmp_path / "once")
    monkeypatch.setattr(Judge, "drop", drop)
    again = Compression(small.trained(), small.data(), "5%", (Uniform,), "packed").run(tmp_path / "again")
    harms = [sum(x.harm or 0.0 for x in made.report.layers) for made in (once, again)]
    assert seen and 0 < harms[1] <= harms[0] / 3
    assert again.report.budget.met
