"""The log-density of one denoiser less that of another: comparisons, and densities of a network that is dear.

Eq. (3) of `jaxdiff.densities.formula` asks nothing of its reference but what it answers, so it holds between
two denoisers N and M of one schedule, with neither density known:

    log p(x) - log q(x) = (1/2) int E[(N - M) . (2 eps - N - M)] dlambda                                (1)

The same noise is shown to both, and the integrand is as small as they are alike. So two models are told apart
by far fewer evaluations than the difference of their two log-densities takes. And a *telescope*, from a cheap
denoiser p_1 to a dear one p_L,

    log p_L(x) = log p_1(x) + sum_l (log p_l(x) - log p_{l-1}(x)),                                      (2)

gives its many evaluations to what is cheap and its few to what is dear; with variances V_l an evaluation and
costs C_l the error is least, at a given cost in all, for numbers in proportion to (V_l / C_l)^(1/2) (Giles
2008, Oper. Res. 56, for means over paths). Every term is unbiased, and so is the sum. Derived here.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, low_discrepancy
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.denoising.ends import check_clean, check_no_data_left, is_clean, no_data_left
from jaxdiff.densities.evaluations import Evaluations, KnownEvaluations, check_evaluations
from jaxdiff.densities.formula import density_formula
from jaxdiff.densities.inputs import LogDensity, check_data
from jaxdiff.densities.levels import level_integrand
from jaxdiff.typing import Array, Key


def log_density_difference(
    key: Key,
    denoise: Denoiser,
    other: Denoiser,
    x: Array,
    evaluations: Evaluations = Evaluations(),  # noqa: B008 - frozen
) -> LogDensity:
    """log p(x) - log q(x) in nats, eq. (1), of data x (batch, *shape), p of denoise and q of other; (batch,).

    evaluations: of each of the two a row, with no reference. value +- 1.96 standard errors is a 95 %
    interval. The range of times is denoise's working range, which other must know; beyond it the integrand is
    taken to fall as it does for smooth laws. Errors are those of `density_formula`, and ValueError for
    denoisers of two schedules or shapes. For a mean over data mind that the errors of rows are independent:
    that of the mean is their root sum of squares over the number of rows.

    >>> p, q = (jd.Gaussian([0.0], v).denoiser(jd.Karras()) for v in (1.0, 4.0))
    >>> answer = jd.log_density_difference(jax.random.key(0), p, q, jnp.zeros((1, 1)))
    >>> round(float(answer.value[0]), 1)  # log 2
    0.7
    """
    x = check_data(key, denoise, x)
    _check_other("other", other, "denoise", denoise)
    known = check_evaluations(denoise, evaluations, without=("reference",))
    check_no_data_left(denoise, known.scale)
    check_clean(denoise, known.scale)
    return _difference(key, denoise, other, x, known)


@jax.jit
def _difference(
    key: Key, denoise: Denoiser, other: Denoiser, x: Array, evaluations: KnownEvaluations
) -> LogDensity:
    t_min, t_max = denoise.working_range
    integrand = level_integrand(denoise, other, x, t_min, t_max, (True, True), evaluations.time_density)
    value, error = low_discrepancy.mean(key, x, integrand, evaluations.number, evaluations.bytes_per_call)
    ends = no_data_left(denoise, evaluations.scale, t_max) & is_clean(denoise, evaluations.scale)
    return LogDensity(jnp.where(ends, value, jnp.nan), error)


def telescoped_log_density(
    key: Key,
    denoisers: Sequence[Denoiser],
    x: Array,
    evaluations: Sequence[Evaluations],
) -> LogDensity:
    """log p(x) in nats of the last of the denoisers, eq. (2), from the cheapest to the dearest; (batch,).

    evaluations: of each term: of the first denoiser by `density_formula`, and then of each pair by
    `log_density_difference`. So the last is evaluated evaluations[-1].number times a row. The first may be a
    smaller network, or the same in bfloat16. Raises as those, and ValueError unless there are evaluations for
    each denoiser, at least one.

    >>> rough, fine = (jd.Gaussian([0.0], v).denoiser(jd.Karras()) for v in (2.0, 1.0))
    >>> evaluations, x = [jd.Evaluations(256), jd.Evaluations(64)], jnp.zeros((1, 1))
    >>> answer = jd.telescoped_log_density(jax.random.key(0), [rough, fine], x, evaluations)
    >>> error = answer.value[0] + math.log(2 * math.pi) / 2
    >>> bool(abs(error) < 4 * answer.standard_error[0])
    True
    """
    denoisers = tuple(denoisers)
    if isinstance(evaluations, Evaluations) or not denoisers or len(denoisers) != len(evaluations):
        got = "one" if isinstance(evaluations, Evaluations) else len(evaluations)
        raise ValueError(
            f"evaluations must be a sequence of an Evaluations for each of the denoisers, at least one; got "
            f"{got} for {len(denoisers)}."
        )
    for number, denoise in enumerate(denoisers):
        check_denoiser(f"denoisers[{number}]", denoise)
        _check_other(f"denoisers[{number}]", denoise, "the last of the denoisers", denoisers[-1])
    checks.key(key)
    keys = jax.random.split(key, len(denoisers))
    terms = [density_formula(keys[0], denoisers[0], x, evaluations[0])]
    for l in range(1, len(denoisers)):  # noqa: E741 - of eq. (2)
        terms.append(log_density_difference(keys[l], denoisers[l], denoisers[l - 1], x, evaluations[l]))
    return _sum(terms)


@jax.jit
def _sum(terms: list[LogDensity]) -> LogDensity:
    values, errors = (jnp.stack(part) for part in zip(*terms, strict=True))
    return LogDensity(values.sum(0), jnp.sqrt(jnp.sum(errors**2, axis=0)))


def _check_other(other_name: str, other: Denoiser, name: str, denoise: Denoiser) -> None:
    check_denoiser(other_name, other)
    check_agree(other_name, other, name, denoise)
    for end, t in zip(("t_min", "t_max"), denoise.working_range, strict=True):
        other.check_times(f"the {end} of {name}", t)
