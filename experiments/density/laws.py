"""The laws whose log-densities the density experiments estimate: mixtures with components of every shape."""

import jax.numpy as jnp
import numpy as np

from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.mixture import GaussianMixture


def mixture(d: int) -> GaussianMixture:
    """Four components by hand in the plane, or five of random means and spectra (.03 to .6) in d dimensions.

    Turned by a random rotation: random signs see the trace of a diagonal Jacobian without error, so in the
    components' own axes Hutchinson's estimate would look better than it is.
    """
    if d == 2:
        weights = [0.4, 0.3, 0.2, 0.1]
        means = np.array([[-1.5, 0.0], [1.2, 1.0], [1.0, -1.4], [0.0, 2.2]])
        variances = np.array([[0.09, 0.25], [0.16, 0.04], [0.04, 0.16], [0.02, 0.02]])
    else:
        rng = np.random.default_rng(1)
        weights = [0.3, 0.25, 0.2, 0.15, 0.1]
        means = rng.standard_normal((5, d))
        variances = np.exp(rng.uniform(np.log(0.03), np.log(0.6), (5, d)))
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((d, d)))[0]
    basis = jnp.broadcast_to(turn, (len(weights), d, d))
    return GaussianMixture(
        jnp.asarray(weights), jnp.asarray(means @ turn.T), Spectrum(jnp.asarray(variances), basis)
    )
