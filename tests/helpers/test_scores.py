"""Scores: against brute force, known values and their own definitions."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy

from helpers import scores

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 40)
P = RNG.uniform(size=(3, 2, 40)).round(1)  # rounded: ties, zeros and ones
INSIDE = np.clip(P, 0.01, 0.99)


def test_auc_is_the_share_of_pairs_in_order():
    one, zero = P[..., Y == 1, None], P[..., None, Y == 0]
    expected = ((one > zero) + (one == zero) / 2).mean(axis=(-2, -1))
    found = scores.auc(Y, P)
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(scores.auc(Y, 1 - P), 1 - expected, atol=1e-12)
    assert scores.auc([0, 0, 1], [0.1, 0.2, 0.3]) == 1
    assert scores.auc([0, 1], [0.5, 0.5]) == 0.5


def test_log_score():
    rows = [np.log(p if y else 1 - p) for y, p in zip(Y, INSIDE[1, 0], strict=True)]
    found = scores.log_score(Y, INSIDE)
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found[1, 0], np.mean(rows))
    assert scores.log_score([0, 1], [0.0, 1.0]) == 0
    assert scores.log_score([0, 1], [0.5, 0.0]) == -np.inf


def test_brier_score():
    rows = [(p - y) ** 2 for y, p in zip(Y, P[2, 1], strict=True)]
    found = scores.brier_score(jnp.asarray(Y), jnp.asarray(P))
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found[2, 1], np.mean(rows), rtol=1e-6)


@pytest.mark.parametrize(
    "score", [scores.log_score, lambda y, p: -scores.brier_score(y, p)]
)
def test_the_truth_scores_best(score):
    truth, grid = 0.3, np.linspace(0.05, 0.95, 19)
    expected = truth * score([1], grid[:, None]) + (1 - truth) * score(
        [0], grid[:, None]
    )
    assert grid[expected.argmax()] == pytest.approx(truth)


def test_calibration_bins_and_error():
    p = np.array([0.0, 0.05, 0.15, 0.95, 1.0, 0.99])
    y = np.array([0, 1, 0, 1, 1, 0])
    predicted, observed, counts = scores.calibration_bins(y, p, 10)
    assert counts.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    np.testing.assert_allclose(predicted[[0, 1, 9]], [0.025, 0.15, 2.94 / 3])
    np.testing.assert_allclose(observed[[0, 1, 9]], [0.5, 0, 2 / 3])
    assert np.isnan(predicted[2:9]).all()
    assert np.isnan(observed[2:9]).all()
    gaps = [0.475, 0.15, 2.94 / 3 - 2 / 3]
    expected = np.dot(gaps, [2, 1, 3]) / 6
    assert scores.expected_calibration_error(y, p) == pytest.approx(expected)
    assert scores.expected_calibration_error(y, y) == 0


def test_true_probabilities_are_calibrated():
    p = RNG.uniform(size=100_000)
    y = RNG.uniform(size=p.size) < p
    assert scores.expected_calibration_error(y, p) < 0.01
    assert scores.expected_calibration_error(y, p**2) > 0.1


def test_entropy_parts():
    total, aleatoric, epistemic = scores.entropy_parts(P[:, 0])
    both = np.stack([P[:, 0], 1 - P[:, 0]])
    np.testing.assert_allclose(total, entropy(both.mean(axis=1)), atol=1e-12)
    np.testing.assert_allclose(aleatoric, entropy(both).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(total, aleatoric + epistemic)
    assert (epistemic >= 0).all()


def test_entropy_parts_at_the_ends():
    total, aleatoric, epistemic = scores.entropy_parts(
        [[0.0, 0.5, 0.3], [1.0, 0.5, 0.3]]
    )
    np.testing.assert_allclose(total[:2], np.log(2))
    np.testing.assert_allclose(aleatoric[:2], [0, np.log(2)])
    np.testing.assert_allclose(epistemic, [np.log(2), 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "args", "error", "message"),
    [
        ("auc", ([1, 1], [0.1, 0.2]), ValueError, "y: .*both.*got 0 of 0 and 2 of 1"),
        (
            "auc",
            ([0, 2], [0.1, 0.2]),
            ValueError,
            r"y: expected classes 0 and 1, got \[",
        ),
        (
            "log_score",
            ([0, 1], [0.1]),
            ValueError,
            r"p: expected 2 columns.*got .*\(1,\)",
        ),
        ("log_score", ([0], 0.1), ValueError, r"p: expected 1 columns.*shape \(\)"),
        (
            "brier_score",
            ([0], [1.5]),
            ValueError,
            "p: expected between 0 and 1, got 1.5",
        ),
        (
            "brier_score",
            ([0], [np.nan]),
            ValueError,
            "p: expected finite numbers, got 1",
        ),
        ("brier_score", ([[0]], [0.5]), ValueError, "y: expected 1 dimension"),
        (
            *("expected_calibration_error", ([0], [[0.1]]), ValueError),
            r"p: expected 1 dimension \(average draws first\), got shape \(1, 1\)",
        ),
        ("calibration_bins", ([0], [0.1], 0), ValueError, "num_bins: .*least 1, got 0"),
        (
            "entropy_parts",
            (0.5,),
            ValueError,
            "p: expected draws in the first dimension",
        ),
        (
            "entropy_parts",
            ([-0.1],),
            ValueError,
            "p: expected between 0 and 1, got -0.1",
        ),
        ("entropy_parts", ("no",), TypeError, "p: expected an array of numbers"),
    ],
)
def test_bad_input(name, args, error, message):
    with pytest.raises(error, match=message):
        getattr(scores, name)(*args)
