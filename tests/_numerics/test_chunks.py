import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff._numerics.chunks import map_within, rows_within


def wide(rows):
    """(n,) -> (n,), by way of (n, 5, 100) float32 inside of a loop and a call: 2,000 bytes a row."""

    def once(carry, _):
        made = jax.jit(jnp.sin)(carry[:, None, None] + jnp.arange(500.0).reshape(1, 5, 100))
        return carry + made.sum((1, 2)), None

    return jax.lax.scan(once, rows, length=3)[0]


@pytest.mark.parametrize(("allowed", "wanted"), [(1, 1), (8_000, 1), (80_000, 10), (800_000, 100)])
def test_rows_are_as_many_as_fit(allowed, wanted):
    """Four arrays of the size of the largest are alive at once."""
    assert rows_within(wide, jnp.zeros(1000), allowed) == wanted


def test_xla_takes_no_more_than_is_allowed():
    rows = jnp.zeros(10_000)
    for allowed in (10**6, 10**7):
        compiled = jax.jit(lambda rows, most=allowed: map_within(wide, rows, most)).lower(rows).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        assert analysis.temp_size_in_bytes < allowed + 200_000  # rows and answers


def test_calls_do_not_matter():
    rows = jnp.linspace(0, 1, 77)
    np.testing.assert_allclose(map_within(wide, rows, 100_000), wide(rows), rtol=1e-6)
