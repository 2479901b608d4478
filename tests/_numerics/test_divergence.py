import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import divergence
from jaxdiff._numerics.randomness import signs_like

A = np.random.default_rng(0).standard_normal((6, 6))


def f(x):
    """Rows do not mix; the Jacobian is A diag(1 - tanh^2) plus a multiple of x x^T."""
    return jnp.tanh(x) @ A.T + 0.3 * x * (x**2).sum(1, keepdims=True)


def reference(x):
    jacobians = [A * (1 - np.tanh(r) ** 2) + 0.3 * ((r**2).sum() * np.eye(6) + 2 * np.outer(r, r)) for r in x]
    return np.array([np.trace(j) for j in jacobians])


def test_exact_divergence(float64):
    x = np.random.default_rng(1).standard_normal((5, 6))
    value, trace = jax.jit(lambda x: divergence.exact(f, x))(x)
    np.testing.assert_allclose(value, f(x), rtol=1e-12)
    np.testing.assert_allclose(trace, reference(x), rtol=1e-12)


def test_divergence_of_images(float64):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 2))
    scale = jnp.arange(24.0).reshape(3, 4, 2)
    _, trace = divergence.exact(lambda x: jax.vmap(lambda r: scale * r**2)(x), x)
    np.testing.assert_allclose(trace, 2 * (np.asarray(scale) * np.asarray(x)).sum((1, 2, 3)), rtol=1e-12)


def test_hutchinson_is_unbiased_and_exact_on_the_basis(float64):
    x = np.random.default_rng(2).standard_normal((3, 6))
    probes = signs_like(jax.random.key(1), jnp.asarray(x), 4000)
    _, traces = jax.jit(lambda x: divergence.hutchinson(f, x, probes))(jnp.asarray(x))
    error = np.asarray(traces.mean(0)) - reference(x)
    assert (np.abs(error) < 4 * np.asarray(traces.std(0)) / np.sqrt(4000)).all()
    basis = jnp.broadcast_to(np.sqrt(6) * jnp.eye(6)[:, None], (6, 3, 6))
    _, traces = divergence.hutchinson(f, jnp.asarray(x), basis)
    np.testing.assert_allclose(traces.mean(0), reference(x), rtol=1e-12)


def test_a_sketch_keeps_it_unbiased_and_takes_the_low_rank_part(float64):
    """Hutch++ where one direction carries most of the trace: unbiased, with little left for the signs."""
    x = jnp.asarray(3 * np.random.default_rng(2).standard_normal((3, 6)))

    def g(x):  # Jacobian 10 u u' + .1 A diag(1 - tanh^2), with u the unit vector of ones
        return 10 * x.mean(1, keepdims=True) * jnp.ones_like(x) + 0.1 * jnp.tanh(x) @ A.T

    @jax.jit
    def estimates(key):
        probe_key, sketch_key = jax.random.split(key)
        probes, sketch = signs_like(probe_key, x, 1), signs_like(sketch_key, x, 3)
        return divergence.hutchinson(g, x, probes)[1][0], divergence.hutchinson(g, x, probes, sketch)[1][0]

    keys = jax.random.split(jax.random.key(0), 3000)
    plain, sketched = map(np.asarray, jax.lax.map(estimates, keys, batch_size=100))
    wanted = [10 + 0.1 * np.trace(A * (1 - np.tanh(row) ** 2)) for row in np.asarray(x)]
    assert (np.abs(sketched.mean(0) - wanted) < 4 * sketched.std(0) / np.sqrt(3000)).all()
    assert (sketched.std(0) < 0.3 * plain.std(0)).all()


def test_a_full_sketch_is_exact(float64):
    x = jnp.asarray(np.random.default_rng(2).standard_normal((3, 6)))
    probes = signs_like(jax.random.key(0), x, 1)
    sketch = jnp.broadcast_to(jnp.eye(6)[:, None], (6, 3, 6))
    _, traces = jax.jit(lambda x: divergence.hutchinson(f, x, probes, sketch))(x)
    np.testing.assert_allclose(traces[0], reference(np.asarray(x)), rtol=1e-10)
