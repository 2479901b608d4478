"""Tables against loops in NumPy."""

import numpy as np
import pytest

from jaxdiff.noising import tables
from jaxdiff.noising.schedules import VariancePreserving, from_betas


def test_the_linear_table_is_ddpms_and_tends_to_the_vp_sde(float64):
    betas = np.asarray(tables.linear_betas(1000))
    np.testing.assert_allclose(betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-12)
    schedule = from_betas(tables.linear_betas(50_000))
    for t in (0.01, 0.3, 1.0):
        np.testing.assert_allclose(schedule.alpha(50_000 * t), VariancePreserving().alpha(t), rtol=2e-3)


def test_the_cosine_table_follows_its_curve():
    """In float32 to full relative precision, where it is not clipped."""
    n = 400
    curve = np.cos(np.pi / 2 * (np.arange(n + 1) / n + 0.008) / 1.008) ** 2
    wanted = np.minimum(1 - curve[1:] / curve[:-1], 0.999)
    np.testing.assert_allclose(tables.cosine_betas(n), wanted, rtol=2e-4)
    np.testing.assert_allclose(tables.cosine_betas(n)[: n // 2], wanted[: n // 2], rtol=2e-6)


def test_the_logarithmic_table_follows_its_recipe():
    n, c0, c1 = 300, 2.0, 4.0
    delta, first = c1 * np.log(n) / n, n**-c0
    wanted = [first, *(delta * min(first * (1 + delta) ** t, 1.0) for t in range(1, n))]
    np.testing.assert_allclose(tables.logarithmic_betas(n, c0, c1), wanted, rtol=2e-5)
    from_betas(tables.logarithmic_betas(n, c0, c1))  # which asks for numbers in (0, 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tables.linear_betas(20), "num_steps must be an integer of at least 21"),
        (lambda: tables.cosine_betas(0), "num_steps must be an integer of at least 1"),
        (lambda: tables.logarithmic_betas(100, -1.0, 4.0), "c0 must be positive"),
        (lambda: tables.logarithmic_betas(10, 2.0, 5.0), "must be below the largest beta"),
    ],
)
def test_bad_tables_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
