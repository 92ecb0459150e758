"""Ridge regression from streamed rows."""

from __future__ import annotations

import pytest
import torch

from dcnify.inherit.ridge import Ridge


def data(images: int, rows: int, features: int, outputs: int, noise: float, seed: int = 0):
    made = torch.Generator().manual_seed(seed)
    truth = torch.randn(outputs, features, generator=made, dtype=torch.float64)
    for _ in range(images):
        x = torch.randn(rows, features, generator=made, dtype=torch.float64)
        y = x @ truth.T
        yield x, y + noise * torch.randn(y.shape, generator=made, dtype=torch.float64), truth


def fitted(prior, pairs):
    ridge = Ridge(prior)
    for x, y, _truth in pairs:
        ridge.add(x.float(), y.float())
    return ridge.solve()


@pytest.mark.parametrize("drawn_to", [0.0, 1.0])
def test_a_linear_map_is_found_again_whatever_it_was_drawn_to(drawn_to):
    pairs = list(data(4, 50, 6, 3, noise=0))
    found, left = fitted(torch.full((3, 6), drawn_to, dtype=torch.float64), pairs)
    assert float((found - pairs[0][2]).norm() / pairs[0][2].norm()) < 1e-4
    assert left < 1e-6


def test_with_fewer_rows_than_features_the_prior_is_better_than_noise():
    truth_is_small = torch.zeros(2, 40, dtype=torch.float64)
    pairs = [(x, torch.randn(8, 2, dtype=torch.float64), t) for x, _, t in data(4, 8, 40, 2, 0)]
    found, left = fitted(truth_is_small, pairs)
    assert left > 0.8
    assert float(found.norm()) < 1.5


def test_of_a_single_image_one_half_of_the_rows_judges_the_other():
    pairs = list(data(1, 50, 6, 3, noise=0))
    found, left = fitted(torch.zeros(3, 6, dtype=torch.float64), pairs)
    assert float((found - pairs[0][2]).norm() / pairs[0][2].norm()) < 1e-4
    assert left < 1e-6


def test_rows_of_zeros_change_nothing():
    ridge = Ridge(torch.ones(2, 3, dtype=torch.float64))
    for _ in range(2):
        ridge.add(torch.zeros(5, 3), torch.ones(5, 2))
    assert torch.equal(ridge.solve()[0], ridge.prior)


def test_rows_that_are_not_finite_are_left_out():
    pairs = list(data(4, 50, 6, 3, noise=0))
    for x, y, _truth in pairs:
        x[3, 2], y[7, 1] = float("nan"), float("inf")
    found, _left = fitted(torch.zeros(3, 6, dtype=torch.float64), pairs)
    assert float((found - pairs[0][2]).norm() / pairs[0][2].norm()) < 1e-4


def test_slack_takes_a_nearer_map_that_leaves_little_more():
    direction = torch.tensor([1.0, 1e-3], dtype=torch.float64)  # of the second feature there is
    made = torch.Generator().manual_seed(0)  # little, so that fitting it takes large weights
    pairs = []
    for _ in range(6):
        x = torch.randn(200, 2, generator=made, dtype=torch.float64) * direction
        noise = torch.randn(200, 1, generator=made, dtype=torch.float64)
        pairs.append((x, x[:, :1] + 50 * x[:, 1:] + 0.3 * noise, None))
    prior = torch.zeros(1, 2, dtype=torch.float64)
    ridges = [Ridge(prior) for _ in range(2)]
    for ridge in ridges:
        for x, y, _ in pairs:
            ridge.add(x, y)
    (best, least), (near, left) = ridges[0].solve(), ridges[1].solve(slack=0.05)
    assert least < 1.01 * left
    assert left <= 1.05 * least
    assert float(near.norm()) < 0.5 * float(best.norm())
