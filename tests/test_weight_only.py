"""Figures of the benchmark of weights in few bits: what is beyond noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def weight_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import weight_only

    return weight_only


def figures(loss: torch.Tensor) -> dict[str, tuple[torch.Tensor | float, str]]:
    return {"loss": (loss, "nats"), "wer": (float(loss.mean()), "points")}


def test_a_small_difference_in_every_sample_is_seen_beside_the_better_rival(weight_only) -> None:
    """Samples differ by far more than tools do: only the difference sample by sample tells."""
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0))
    judged = {
        "lessen": figures(noise - 0.1), "lessen/alone": figures(noise + 0.01 * torch.arange(100.0)),
        "GPTQ (published)": figures(noise + 0.3), "GPTQ act-order (published)": figures(noise),
        "HQQ (published)": figures(noise - 9),
    }  # fmt: skip
    ours, alone = weight_only.against_gptq("x", judged)
    assert (ours["who"], ours["figure"], ours["n"]) == ("lessen", "loss_against_gptq", 100)
    assert ours["value"] == pytest.approx(-0.1, abs=1e-6) and ours["high"] < -0.09 and "act-order" in ours["note"]
    assert alone["value"] == pytest.approx(0.495, abs=1e-4)
    assert alone["high"] - alone["low"] == pytest.approx(2 * 1.96 * 0.29011 / 10, rel=1e-3)


def test_without_a_rival_nothing_is_compared(weight_only) -> None:
    assert weight_only.against_gptq("x", {"lessen": figures(torch.ones(3)), "HQQ": figures(torch.zeros(3))}) == []
