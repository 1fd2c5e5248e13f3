"""The kernels against dense linear algebra in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lessen.statistics.second_order import descend, error, factorize, feed_back, join, polish, split


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moment(groups: int, columns: int) -> Tensor:
    x = draw(groups, 3 * columns, columns) @ draw(groups, columns, columns, seed=1)
    return x.transpose(1, 2) @ x / x.shape[1]


def to_integers(x: Tensor, j: int) -> Tensor:
    return x.round()


def test_the_factor_is_that_of_h_and_feedback_is_the_gptq_update() -> None:
    H, W = moment(1, 150), 3 * draw(1, 150, 20, seed=2)
    factor = factorize(H, damp=0.01)
    Q = feed_back(W, factor, to_integers)
    H64, w = H[0].double(), W[0].double().clone()
    H64.diagonal().add_(0.01 * H64.diagonal().mean())
    U = torch.linalg.cholesky(torch.linalg.inv(H64), upper=True)
    for j in range(150):  # the published form, from the inverse
        e = (w[j] - w[j].round()) / U[j, j]
        w[j + 1 :] -= U[j, j + 1 :, None] * e
        w[j] = w[j].round()
    agree = (Q[0] == w).float().mean()
    assert agree > 0.98  # single ties may fall either way in float32
    ours, theirs = (float(error(W.double(), q.double(), H.double()).sum()) for q in (Q, w[None]))
    assert abs(ours / theirs - 1) < 0.02


def test_pivots_are_the_conditional_variances() -> None:
    H = moment(2, 12)
    pivots = factorize(H).pivots.double()
    for g in range(2):
        assert torch.allclose(pivots[g, 0], 1 / torch.linalg.inv(H[g].double())[0, 0], rtol=1e-3)
        assert torch.allclose(pivots[g, -1], H[g, -1, -1].double(), rtol=1e-4)


@pytest.mark.parametrize(("groups", "columns"), [(2, 7), (1, 384), (1, 900)])
def test_a_factor_in_panels_multiplies_out_to_h_in_any_order(groups: int, columns: int) -> None:
    H = moment(groups, columns)
    order = torch.randperm(columns, generator=torch.Generator().manual_seed(4))
    factor = factorize(H, order=order)
    transposed = (factor.feedback * factor.pivots.sqrt()[:, :, None]).double()
    assert torch.equal(transposed, transposed.tril())
    wanted = H[:, order][:, :, order].double()
    assert float((transposed.mT @ transposed - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_a_descent_never_grows_the_error_and_keeps_track_of_it() -> None:
    H, W = moment(3, 70), 3 * draw(3, 70, 8, seed=2)
    Q = W.round()
    F = H @ (W - Q)
    before = error(W, Q, H)
    for _ in range(3):
        descend(Q, F, H, to_integers)
        after = error(W, Q, H)
        assert bool((after <= before * 1.0001).all())
        before = after
    assert torch.allclose(F, H @ (W - Q), atol=1e-2 * float(F.abs().max()))
    assert float(after.sum()) < 0.6 * float(error(W, W.round(), H).sum())


def test_polish_reaches_the_least_squares_of_the_survivors() -> None:
    H, W = moment(1, 30), draw(1, 30, 4, seed=2)
    keep = (draw(1, 30, 4, seed=3) > 0).float()
    Q = polish(W, keep, W * keep, H, steps=200) * keep
    for r in range(4):
        on = keep[0, :, r].bool()
        best = torch.linalg.solve(H[0][on][:, on].double(), (H[0][on] @ W[0, :, r]).double())
        assert torch.allclose(Q[0, on, r].double(), best, atol=1e-2)


def test_a_singular_moment_is_dampened_and_a_hopeless_one_is_named_none() -> None:
    assert factorize(torch.ones(1, 6, 6)) is not None
    assert factorize(torch.zeros(1, 6, 6)) is None
    assert factorize(torch.full((1, 6, 6), float("nan"))) is None
    dead = moment(1, 6)
    dead[:, 2], dead[:, :, 2] = 0, 0
    assert bool(torch.isfinite(factorize(dead).feedback).all())


def test_split_and_join_are_inverse() -> None:
    m = draw(6, 5)
    assert torch.equal(join(split(m, 3)), m)
    assert torch.equal(split(m, 3)[1, :, 0], m[2])
