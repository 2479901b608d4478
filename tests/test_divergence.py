import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import divergence
from jaxdiff.randomness import signs_like

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
