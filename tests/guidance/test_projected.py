"""Denoisers whose estimates lie in a set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxdiff.guidance import projections
from jaxdiff.guidance.projected import projected
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.schedules import Karras, VariancePreserving
from jaxdiff.sampling.driver import sample

RNG = np.random.default_rng(5)
LAW = Gaussian(jnp.asarray([0.4, -0.3, 0.1]), jnp.asarray([1.0, 0.5, 0.2]))
X = jnp.asarray(RNG.standard_normal((6, 3)))
NORMAL, OFFSET = np.array([1.0, -2.0, 0.5]), 0.3
MATRIX = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]])
SETS = {
    "box": (
        projections.box(-0.2, jnp.asarray([0.1, 0.3, 0.2])),
        [{"type": "ineq", "fun": lambda y: y + 0.2}, {"type": "ineq", "fun": lambda y: [0.1, 0.3, 0.2] - y}],
    ),
    "half-space": (
        projections.half_space(NORMAL, OFFSET),
        [{"type": "ineq", "fun": lambda y: OFFSET - NORMAL @ y}],
    ),
    "equality": (
        projections.equality(MATRIX, np.array([0.2, -0.1])),
        [{"type": "eq", "fun": lambda y: MATRIX @ y - [0.2, -0.1]}],
    ),
    "simplex": (
        projections.simplex,
        [{"type": "ineq", "fun": lambda y: y}, {"type": "eq", "fun": lambda y: y.sum() - 1}],
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_a_projection_answers_the_nearest_point(name, float64):
    """By SciPy's sequential quadratic programming."""
    project, constraints = SETS[name]
    for x, got in zip(np.asarray(X), np.asarray(project(X)), strict=True):
        found = scipy.optimize.minimize(
            lambda y, x=x: ((y - x) ** 2).sum(), np.full(3, 1 / 3), constraints=constraints, tol=1e-14
        )
        np.testing.assert_allclose(got, found.x, atol=1e-6)


@pytest.mark.parametrize("schedule", [VariancePreserving(), Karras()], ids=["vp", "karras"])
def test_the_noise_follows_and_x_is_kept(schedule, float64):
    project, _ = SETS["half-space"]
    denoise, t = jax.tree.map(lambda leaf: leaf.astype(float), LAW).denoiser(schedule), 0.7
    data = jnp.asarray(X, float)
    got = projected(denoise, project)(data, t)
    np.testing.assert_allclose(got.data, project(denoise(data, t).data))
    t = jnp.asarray(t)
    x = schedule.alpha(t) * got.data + schedule.sigma(t) * got.noise
    np.testing.assert_allclose(x, data, rtol=1e-12)


def test_no_sample_violates_its_constraint():
    box = projected(LAW.denoiser(Karras()), projections.box(-0.2, 0.25))
    got = np.asarray(sample(jax.random.key(0), box, 500))
    assert got.min() >= np.float32(-0.2)
    assert got.max() <= np.float32(0.25)
    assert ((got == np.float32(-0.2)) | (got == np.float32(0.25))).mean() > 0.3  # mass is moved to the edges


def test_no_constraint_is_the_denoiser_itself():
    denoise = LAW.denoiser(Karras())
    got, wanted = projected(denoise, projections.box(-50.0, 50.0))(X, 0.7), denoise(X, 0.7)
    np.testing.assert_array_equal(got.data, wanted.data)
    np.testing.assert_array_equal(got.noise, wanted.noise)


def test_a_dynamic_threshold_is_what_numpy_makes_of_each_row(float64):
    """Between -1 and 3: rows inside stay, and of those out the quantile of the distances is at the edge."""
    rng = np.random.default_rng(3)
    data = 1 + rng.standard_normal((5, 4, 4)) * np.array([0.2, 1.0, 2.0, 5.0, 20.0])[:, None, None]
    for quantile in (0.8, 1.0):
        got = projections.dynamic_threshold(-1.0, 3.0, quantile)(jnp.asarray(data))
        for row, mine in zip(data, np.asarray(got), strict=True):
            away = np.sort(np.abs(row.ravel() - 1) / 2)
            place = quantile * (len(away) - 1)  # between order statistics, linearly
            low = int(place)
            most = away[low] + (place - low) * (away[min(low + 1, len(away) - 1)] - away[low])
            most = max(most, 1.0)
            np.testing.assert_allclose(mine, 1 + 2 * np.clip((row - 1) / 2, -most, most) / most, rtol=1e-12)
    np.testing.assert_array_equal(got[0], data[0])


def test_a_dynamic_threshold_keeps_strong_guidance_within_and_its_contrasts():
    """No sample is out, and fewer entries are at the edges than a box cuts off there."""
    at_edges = {}
    for name, project in {
        "box": projections.box(-1.0, 1.0),
        "dynamic": projections.dynamic_threshold(-1.0, 1.0, 0.9),
    }.items():
        strong = Gaussian(jnp.zeros(16), 4.0).denoiser(Karras())
        got = np.asarray(sample(jax.random.key(0), projected(strong, project), 200))
        assert np.abs(got).max() <= 1
        at_edges[name] = (np.abs(got) > 0.999).mean()
    assert at_edges["box"] > 0.5  # P(|N(0, 4)| > 1) = .62
    assert at_edges["dynamic"] < 0.25


def test_bounded_amplitudes_are_the_nearest(float64):
    """Under upper bounds alone, a convex set, by SciPy; a band is the product with a real matrix."""
    high, x = np.array([0.8, 0.5, 1.2, 0.3, 1.2, 0.5]), RNG.standard_normal((3, 6))
    got = projections.spectral(0.0, high)(jnp.asarray(x))
    waves = np.exp(-2j * np.pi * np.outer(np.arange(6), np.arange(6)) / 6) / 6**0.5
    constraint = {"type": "ineq", "fun": lambda y: high**2 - np.abs(waves @ y) ** 2}
    for row, mine in zip(x, np.asarray(got), strict=True):
        found = scipy.optimize.minimize(
            lambda y, row=row: ((y - row) ** 2).sum(), 0 * row, constraints=constraint, tol=1e-14
        )
        np.testing.assert_allclose(mine, found.x, atol=1e-5)
    kept = np.array([1, 1, 0, 0, 0, 1])
    band = (waves.conj().T @ np.diag(kept) @ waves).real
    got = projections.spectral(0.0, np.where(kept, 99.0, 0.0))(jnp.asarray(x))
    np.testing.assert_allclose(got, x @ band.T, atol=1e-12)


def test_a_spectrum_is_taken_and_phases_are_kept(float64):
    """Of images of two channels: by NumPy's transform, the change as long as the amplitudes' by Parseval."""
    x = RNG.standard_normal((4, 5, 6, 2))
    wished = np.abs(np.fft.fftn(RNG.standard_normal((5, 6, 2)), axes=(0, 1), norm="ortho"))
    low, high = 0.8 * wished, 1.1 * wished
    got = np.asarray(projections.spectral(low, high, axes=(0, 1))(jnp.asarray(x)))
    before, after = (np.fft.fftn(v, axes=(1, 2), norm="ortho") for v in (x, got))
    assert (np.abs(after) > low - 1e-12).all()
    assert (np.abs(after) < high + 1e-12).all()
    np.testing.assert_allclose((after * before.conj()).imag, 0, atol=1e-12)
    assert (after * before.conj()).real.min() > 0
    moved = np.clip(np.abs(before), low, high) - np.abs(before)
    np.testing.assert_allclose(((got - x) ** 2).sum((1, 2, 3)), (moved**2).sum((1, 2, 3)), rtol=1e-12)
    np.testing.assert_array_equal(projections.spectral(0.0, 99.0)(jnp.asarray(x)), x)
