"""Discrete time: the density formula as a sum over the levels of a grid.

With levels lambda_1 > ... > lambda_n, e_k = E|r_k|^2 at each (r: `densities.formula`, eq. 1) and s = sigmoid,
the formula

    log p(x) = -(d/2) log(2 pi e) - (1/2) int (E|r|^2 - d s(lambda)) dlambda                     (1)
             ~ d constant - (1/2) [sum_k w_k e_k + c |x|^2]                                      (2)

needs a rule. It is the same for every schedule, since the levels alone enter.

left        with u = s(-lambda), whose dlambda is -du / (u (1 - u)): w_k = (u_{k+1} - u_k) / (u_k (1 - u_k)),
            u_{n+1} = 1. Where alpha^2 + sigma^2 = 1, u_k = 1 - prod_{i <= k} (1 - beta_i) and
            w_k = beta_{k+1} / u_k: the form of Li & Yan 2024, arXiv 2408.16765, as far as it is known here.
ddpm        the evidence lower bound itself, with every step's relative entropy in closed form
            (`densities.elbo`, eq. 7), w_k = e^(lambda_{k-1} - lambda_k) - 1 at the posterior variance; it is
            what the mean over paths tends to. c = e^(lambda_n), from the start at N(0, sigma^2 I).
trapezoid   in lambda, and beyond either end the integrand of (1) falls as e^-|lambda|, as it does for a
            smooth density: one more unit of weight at both.

Errors, DERIVED, for smooth data. The first two rules err to first order in the steps, -(1/2) sum over the
clean levels of d (delta_k - log(1 + delta_k)) with delta_k = u_{k+1} / u_k - 1, whatever the data:

    beta_t nearly constant near t = 0, as in `linear_betas` and `cosine_betas` of `noising.tables`: delta_k =
        1 / k, and the error tends to -(gamma / 2) d = -0.2886 d (gamma: Euler's constant). More steps do not
        help.
    `logarithmic_betas`: delta = c1 log T / T for c0 log(T) / delta steps, so -c0 c1 d log(T)^2 / (4 T).

"ddpm" at a data variance above zero has no such term: clean levels are then nearly exact, whatever the data.
The trapezoid errs as the square of the steps in lambda, plus O(e^-2 |lambda|) at the ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, low_discrepancy
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.densities.elbo import kernels
from jaxdiff.densities.evaluations import Evaluations, KnownEvaluations, check_evaluations
from jaxdiff.densities.inputs import LogDensity, check_data, check_times, grid_log_snr
from jaxdiff.noising.process import perturb
from jaxdiff.typing import Array, Key

_REPLICATES = 6


class Rule(NamedTuple):
    """The nodes and weights of eq. (2)."""

    constant: Array
    """A scalar."""
    weights: Array
    """w, shape (n,)."""
    start: Array
    """c, a scalar."""

    def log_density(self, x: Array, squared_errors: Array) -> Array:
        """Eq. (2) for data x, shape (batch, d), and e, shape (batch, n); shape (batch,)."""
        known = self.constant * x.shape[1] - 0.5 * self.start * jnp.sum(x**2, axis=1)
        return known - 0.5 * jnp.sum(self.weights[None] * squared_errors, axis=1)


def left(levels: Array) -> Rule:
    """The left rule in sigmoid(-lambda), at decreasing log-SNRs, shape (n,).

    >>> levels = jnp.linspace(10, -10, 10_001)
    >>> errors = jax.nn.sigmoid(levels)[None] ** 2  # E|r|^2 of N(0, 1) at x = 0
    >>> rule = jd.discretized.left(levels)
    >>> value = rule.log_density(jnp.zeros((1, 1)), errors)
    >>> round(float(value[0]), 2), round(-math.log(2 * math.pi) / 2, 2)
    (-0.92, -0.92)
    """
    after = jnp.append(levels[1:], -jnp.inf)
    weights = -jnp.expm1(after - levels) * jnp.exp(jax.nn.softplus(levels) - jax.nn.softplus(after))
    constant = 0.5 * (jax.nn.softplus(levels[0]) - jnp.log(2 * jnp.pi) - 1)
    return Rule(constant, weights, jnp.zeros_like(constant))


def ddpm(levels: Array, data_variance: Array | float = 0.0) -> Rule:
    """The evidence lower bound of the chain whose steps are exact for data of covariance data_variance I.

    >>> levels = jnp.linspace(10, -10, 11)
    >>> errors = jax.nn.sigmoid(levels)[None] ** 2  # E|r|^2 of N(0, 1) at x = 0
    >>> rule = jd.discretized.ddpm(levels, data_variance=1.0)
    >>> value = rule.log_density(jnp.zeros((1, 1)), errors)  # few levels, of which each is exact
    >>> round(float(value[0]), 3), round(-math.log(2 * math.pi) / 2, 3)
    (-0.919, -0.919)
    """
    gains, ratios = kernels(levels, jnp.asarray(data_variance, levels.dtype).reshape(1))
    entropies = jnp.sum(jnp.log(ratios)) + jnp.sum(1 / ratios[1:] - 1)
    constant = 0.5 * (levels[0] - jnp.log(2 * jnp.pi) - entropies)
    return Rule(constant, gains / ratios[:, 0], jnp.exp(levels[-1]))


def trapezoid(levels: Array) -> Rule:
    """The trapezoidal rule in lambda, with the two tails.

    >>> levels = jnp.linspace(10, -10, 101)
    >>> errors = jax.nn.sigmoid(levels)[None] ** 2  # E|r|^2 of N(0, 1) at x = 0
    >>> value = jd.discretized.trapezoid(levels).log_density(jnp.zeros((1, 1)), errors)
    >>> round(float(value[0]), 3), round(-math.log(2 * math.pi) / 2, 3)
    (-0.919, -0.919)
    """
    half = 0.5 * (levels[:-1] - levels[1:])
    weights = jnp.append(half, 1.0) + jnp.append(1.0, half)
    constant = 0.5 * (jnp.sum(weights * jax.nn.sigmoid(levels)) - jnp.log(2 * jnp.pi) - 1)
    return Rule(constant, weights, jnp.zeros_like(constant))


def discretized_formula(
    key: Key,
    denoise: Denoiser,
    x: Array,
    times: Array,
    evaluations: Evaluations = Evaluations(),  # noqa: B008 - frozen
    *,
    rule: Callable[[Array], Rule] = trapezoid,
) -> LogDensity:
    """log p(x) of data x, shape (batch, *denoise.shape), by eq. (2) at increasing times.

    times: of finite log-SNR; 1, ..., T for a table.
    evaluations: for each row and all times together, at least 12 len(times), with no reference and no time
        density. One key gives the same e_k for each rule.
    rule: a function of the levels, `left`, `ddpm` or `trapezoid`.

    The noise of different times is independent. The standard error, between six replicates of everything and
    with Student's factor for them (1.31), is that of the noise: how the rule errs is said above.
    sigmoid(lambda)^2 (|eps|^2 - d), of mean zero, is taken off |r|^2. Row i depends on (key, i), x_i and the
    condition of row i only. In single precision or better, whatever x is in. Raises as `elbo`.

    >>> law, times = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.geomspace(0.01, 50, 20)
    >>> answer = jd.discretized_formula(jax.random.key(0), law, jnp.zeros((1, 1)), times)
    >>> error = answer.value[0] + math.log(2 * math.pi) / 2
    >>> bool(abs(error) < 3 * answer.standard_error[0] + 0.02)
    True
    """
    x = check_data(key, denoise, x)
    times = check_times(denoise, times, x.dtype)
    known = check_evaluations(
        denoise, evaluations, 2 * _REPLICATES * len(times), without=("reference", "time_density")
    )
    # Evaluated here, so that another rule compiles nothing anew.
    made = rule(grid_log_snr(denoise.schedule, times))
    checks.shape("the rule's weights", made.weights, (len(times),))
    return _discretized(key, denoise, x, times, made, known)


@jax.jit
def _discretized(
    key: Key, denoise: Denoiser, x: Array, times: Array, rule: Rule, evaluations: KnownEvaluations
) -> LogDensity:
    schedule, d = denoise.schedule, x[0].size
    levels = grid_log_snr(schedule, times)

    def squared_error(rows: Array, noise: Array, at: Array, v: Array) -> Array:
        t, control = times[at], jax.nn.sigmoid(levels[at]) ** 2
        x_t = jax.vmap(lambda x, noise, t: perturb(schedule, x, noise, t))(x[rows], noise, t)
        r = (noise - denoise.at_rows(rows)(x_t, t).noise).reshape(-1, d)
        return jnp.sum(r**2, axis=1) - control * (jnp.sum(noise.reshape(-1, d) ** 2, axis=1) - d)

    pairs = evaluations.number // (2 * _REPLICATES * len(times))
    layout = low_discrepancy.Layout(len(times), _REPLICATES, pairs)
    cells = low_discrepancy.cell_means(key, x, squared_error, layout, evaluations.bytes_per_call)
    values = jax.vmap(lambda e: rule.log_density(x.reshape(-1, d), e), in_axes=2)(cells)
    error = values.std(0, ddof=1) / _REPLICATES**0.5
    return LogDensity(values.mean(0), error * low_discrepancy.student_factor(_REPLICATES - 1))
