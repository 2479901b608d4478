"""The evidence lower bound of a denoiser's reverse chain, for any grid of times under any schedule.

Times t_1 < ... < t_n have log-SNRs lambda_k; h_k = lambda_{k-1} - lambda_k > 0 and g_k = e^(h_k) - 1. Given
data x, the noise eps_k of x_k = alpha_k x + sigma_k eps_k is, backwards in k, a path

    eps_{k-1} = e^(-h_k / 2) eps_k + sqrt(1 - e^(-h_k)) z_k,       z_k ~ N(0, I).                (1)

The chain goes from x_n ~ start to x_{k-1} | x_k with the mean of the bridge (`noising.process`, eq. 3) at the
denoiser's data, and with the covariance that is exact for data of covariance S: the bridge's times

    C_k = I + g_k S (S + e^(-lambda_k))^-1.                                                      (2)

S = 0 is DDPM's posterior variance; S = I under a variance-preserving schedule DDPM's larger choice, the
variance v of x_k | x_{k-1}, and S = infinity v / a^2 under every schedule (a, v: eq. 2 there). The last
step goes to the data, N(D(x_1, t_1), e^(-lambda_1) C_1), with C_1 = S (S + e^(-lambda_1))^-1, or I where that
is zero and has no density. With r_k = eps_k - N(x_k, t_k) the log-ratios of chain and noising process are

    l_k = (1/2) [|z_k|^2 - u' C_k^-1 u - log det C_k],        u = z_k - sqrt(g_k) r_k,   k > 1,   (3)
    l_1 = -(1/2) [r_1' C_1^-1 r_1 + log det(2 pi e^(-lambda_1) C_1)],                             (4)
    l_{n+1} = log p_start(x_n) - log q(x_n | x).                                                 (5)

Their sum B over a path is the bound's estimate, and over K paths

    E B  <=  E log mean_j e^(B_j)  <=  log p(x),                                                 (6)

p the density of what the chain makes, whose log is in the mean over data at most their own log-density. The
mean over z_k of (3) is minus a relative entropy,

    E[l_k | x_k] = -(1/2) [g_k r_k' C_k^-1 r_k + trace(C_k^-1 - I) + log det C_k].               (7)

No step knows alpha or sigma, and nothing large cancels. B has little variance where the chain is nearly the
reverse of the process, and none where it is: the log-ratio is then log p(x) on every path. Sohl-Dickstein
et al. 2015, arXiv 1503.03585; Ho et al. 2020, arXiv 2006.11239; (1) to (7) in log-SNR are derived here.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.chunks import BYTES_PER_CALL, map_within
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.densities.inputs import LogDensity, check_data, check_times, grid_log_snr, normal_log_prob
from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.noising.process import perturb
from jaxdiff.typing import Array, Key, StartLaw


def elbo(
    key: Key,
    denoise: Denoiser,
    x: Array,
    times: Array,
    *,
    num_paths: int,
    data_covariance: ArrayLike | Spectrum = 1.0,
    importance_weighted: bool = False,
    start: StartLaw | None = None,
    bytes_per_call: int = BYTES_PER_CALL,
) -> LogDensity:
    """A lower bound of log p(x) of eq. (6) at data x, shape (batch, *denoise.shape); len(times) calls a path.

    times: increasing, both ends with sigma > 0 and alpha > 0, as for `probability_flow`.
    num_paths: the value is the mean of B over so many independent paths, and its standard error theirs (NaN
        for one path).
    data_covariance: S of the d entries of x, a scalar (times the identity), (d,), (d, d) or a `Spectrum`: 0
        for the posterior variance; with that of the data (`fit_gaussian`) a Gaussian's bound is exact.
    importance_weighted: the log of the mean of e^B instead (Burda et al. 2016, arXiv 1509.00519): less below
        log p(x) with every path, with the jackknife's standard error, which is not told of what is missing.
    start: the law of x at times[-1], of points like x; by default N(0, sigma^2 I), where sampling starts.
    bytes_per_call: what the arrays of one call of the denoiser may take, about. Memory does not depend on the
        numbers of times and paths; a derivative keeps the noise of one call's paths.

    Row i depends on (key, i), x_i and the condition of row i only. Differentiable in x and in what the
    denoiser holds. In single precision or better, whatever x is in. Raises TypeError for integer x and
    ValueError for NaN, for times that do not increase, that the denoiser does not know or that reach an
    infinite log-SNR (where these are traced the answer is NaN), and for laws of points of another shape.

    >>> law, times = jd.Gaussian([0.0, 0.0], 1.0).denoiser(jd.Karras()), jnp.geomspace(0.01, 80, 100)
    >>> bound = jd.elbo(jax.random.key(0), law, jnp.zeros((1, 2)), times, num_paths=64)
    >>> bool(bound.value[0] < -math.log(2 * math.pi) + 3 * bound.standard_error[0])
    True
    """
    checks.integer("num_paths", num_paths, 1)
    checks.integer("bytes_per_call", bytes_per_call, 1)
    x = check_data(key, denoise, x)
    times = check_times(denoise, times, x.dtype)
    if start is not None:
        checks.law("start", start, x)
    spectrum = Gaussian(jnp.zeros(x[0].size, x.dtype), data_covariance).covariance
    return _elbo(
        key,
        denoise,
        x,
        times,
        spectrum,
        start,
        num_paths=num_paths,
        importance_weighted=bool(importance_weighted),
        bytes_per_call=bytes_per_call,
    )


@functools.partial(jax.jit, static_argnames=("num_paths", "importance_weighted", "bytes_per_call"))
def _elbo(
    key: Key,
    denoise: Denoiser,
    x: Array,
    times: Array,
    spectrum: Spectrum,
    start: StartLaw | None,
    *,
    num_paths: int,
    importance_weighted: bool,
    bytes_per_call: int,
) -> LogDensity:
    schedule, d = denoise.schedule, x[0].size
    levels = grid_log_snr(schedule, times)
    gains, ratios = kernels(levels, spectrum.values)
    last = schedule.sigma(times[-1]).astype(x.dtype)

    def bounds(numbers: Array) -> Array:
        """B of (6) for paths by their numbers, each to the data of one row."""
        rows = numbers // num_paths
        data, asked = x[rows], denoise.at_rows(rows)

        def draw(step: Array | int) -> Array:
            def one(number: Array) -> Array:
                path_key = jax.random.fold_in(
                    jax.random.fold_in(key, number // num_paths), number % num_paths
                )
                return jax.random.normal(jax.random.fold_in(path_key, step), (d,), x.dtype)

            return jax.vmap(one)(numbers).reshape(data.shape)

        @jax.checkpoint  # or a derivative would keep what every call computed
        def step(carry: tuple[Array, Array], at: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
            (noise, value), (k, t, gain, ratio) = carry, at
            r = noise - asked(perturb(schedule, data, noise, t), t).noise
            z = jnp.where(k > 0, draw(k), 0.0)  # the last step goes to the data, which are given
            u = (z - jnp.sqrt(gain) * r).reshape(-1, d)
            if spectrum.basis is not None:
                u = jnp.matmul(u, spectrum.basis, precision=jax.lax.Precision.HIGHEST)
            squares = jnp.sum(z.reshape(-1, d) ** 2, axis=1) - jnp.sum(u**2 / ratio[None], axis=1)
            value = value + 0.5 * (squares - jnp.sum(jnp.broadcast_to(jnp.log(ratio), (d,))))
            noise = (noise + jnp.sqrt(gain) * z) / jnp.sqrt(1 + gain)
            return (noise, value), None

        noise = draw(len(times))
        x_n = perturb(schedule, data, noise, times[-1])
        prior = normal_log_prob(x_n, last) if start is None else start.log_prob(x_n)
        prior = prior + 0.5 * jnp.sum(noise.reshape(-1, d) ** 2, axis=1)
        # The normalizers of (4) and (5), but for log det C_1.
        value = (prior + 0.5 * d * (levels[0] + 2 * jnp.log(last))).astype(x.dtype)
        steps = jnp.arange(len(times)), times, gains, ratios
        return jax.lax.scan(step, (noise, value), steps, reverse=True)[0][1]

    values = map_within(bounds, jnp.arange(x.shape[0] * num_paths), bytes_per_call)
    values = values.reshape(x.shape[0], num_paths)
    if not importance_weighted:
        return LogDensity(values.mean(1), values.std(1, ddof=1) / num_paths**0.5)
    error = _without_one(values).std(1, ddof=1) * (num_paths - 1) / num_paths**0.5
    return LogDensity(jax.nn.logsumexp(values, axis=1) - jnp.log(num_paths), error)


def kernels(levels: Array, data_variances: Array) -> tuple[Array, Array]:
    """g and C of eq. (2) at log-SNRs levels, (n,), for S of eigenvalues data_variances, (m,): (n,), (n, m).

    The first are those of the step to the data: C_1 of eq. (4), and g_1 = 1, with which (7) is right for it
    too, but for the constants.
    """
    known = jax.nn.sigmoid(levels[:, None] + jnp.log(data_variances)[None])
    last = jnp.where(data_variances > 0, known[0], 1.0)
    gains = jnp.expm1(levels[:-1] - levels[1:])
    ratios = 1 + gains[:, None] * known[1:]
    return jnp.append(1.0, gains).astype(levels.dtype), jnp.concatenate([last[None], ratios])


def _without_one(values: Array) -> Array:
    """log of the sum of e^values over a row, each entry left out in turn; shape (batch, K)."""
    largest = jnp.argmax(values, axis=1)[:, None] == jnp.arange(values.shape[1])[None]
    total = jax.nn.logsumexp(values, axis=1, keepdims=True)
    rest = jax.nn.logsumexp(jnp.where(largest, -jnp.inf, values), axis=1, keepdims=True)
    return jnp.where(largest, rest, total + jnp.log1p(-jnp.where(largest, 0.0, jnp.exp(values - total))))
