"""Classification by the density formula: which class's model gives x the greatest density.

With r_c = eps - N_c(X_t), N_c the noise of class c's denoiser, the density formulas of two classes (eq. 5 of
`densities.formula`)
have their reference in common, and it is not in their difference:

    log p(x | c) - log p(x | c') = (1/2) int E[|r_c'|^2 - |r_c|^2] dlambda.                          (1)

So no constant is left open, and the weight is dlambda / 2. Most of |r_c|^2 is the noise's and the same for
all classes: with one noise and one noise level for all of them it goes out of (1) point by point, and what
is left falls at both ends as (4) there does. With log-priors added, softmax gives posteriors.

Unlikely classes are told apart by few evaluations. In *successive elimination* a first round looks at all
classes, and each later one at the likeliest of each row so far; a difference is then the mean over all points
that both of its classes have seen. (Diffusion classifiers: Li et al. 2023, arXiv 2303.16203, with weight 1 in
place of dlambda / 2, and the elimination.)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks, low_discrepancy
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.denoising.ends import check_clean, check_no_data_left, is_clean, no_data_left
from jaxdiff.densities.inputs import check_data
from jaxdiff.densities.levels import (
    KnownTimeDensity,
    TimeDensity,
    check_time_density,
    default_reference,
    level_integrand,
)
from jaxdiff.typing import Array, Key


class References(Protocol):
    """A law for each class: a `Labelled`, or any pytree with this method."""

    def law(self, label: Array, /) -> Distribution:
        """The law of a class, a scalar integer that may be traced."""
        ...


class ClassLogits(NamedTuple):
    """Log-posteriors of the classes, less that of each row's likeliest; softmax of them is the posterior."""

    value: Array
    """In nats, (batch, classes); 0 for the likeliest class."""
    standard_error: Array
    """Of value, (batch, classes): the Monte Carlo error of the difference between two classes."""


def class_logits(
    key: Key,
    denoise: Denoiser,
    x: Array,
    *,
    num_classes: int,
    num_evaluations: int,
    elimination: Sequence[tuple[int, int]] = (),
    log_prior: Array | None = None,
    references: References | None = None,
    time_density: TimeDensity | None = None,
    rows_per_call: int = 4096,
) -> ClassLogits:
    """log p(x | c) + log_prior[c], less that of the likeliest class, of x, (batch, *denoise.shape); eq. (1).

    denoise: one whose condition is a label 0, ..., num_classes - 1: class c is ``denoise.given(c)``, c a
        traced scalar. So are networks that are shown labels, and `Labelled` laws.
    num_evaluations: the most that are spent on each class in the first round.
    elimination: (classes, evaluations) of each later round: that many classes, the likeliest of each row so
        far, get at most so many evaluations more. 10 classes with 20 and then ((3, 80),) cost 440 for 1,000.
    log_prior: shape (num_classes,), up to a constant; by default classes are equally likely.
    references: a `Labelled` of laws that are like the classes: they take the noise out of eq. (1) that they
        know of. By default all classes have one, which is to say none.
    The other options are those of `density_formula`, and so is the standard error. Beyond the denoiser's
        working range the differences of classes are taken to fall on as they do for smooth densities.

    Row i depends on (key, i) and x_i only; denoisers are called on at most rows_per_call rows, or on one cell
    (num_evaluations / 10 rows) of each class if that is more. Raises as `density_formula`, and ValueError for
    fewer than two classes, rounds that do not have fewer and fewer classes, or a log_prior of other shape.
    """
    x = check_data(key, denoise, x)
    known_density = check_time_density(denoise, time_density)
    check_no_data_left(denoise, known_density.scale)
    check_clean(denoise, known_density.scale)
    checks.integer("rows_per_call", rows_per_call, 1)
    rounds = _check_rounds(num_classes, num_evaluations, elimination)
    if log_prior is not None:
        checks.shape("log_prior", log_prior, (num_classes,))
        checks.finite("log_prior", log_prior)
    if references is not None:
        checks.law("references.law(0)", references.law(jnp.asarray(0)), x)
    return _class_logits(
        key, denoise, x, log_prior, references, known_density, rounds=rounds, rows_per_call=rows_per_call
    )


@functools.partial(jax.jit, static_argnames=("rounds", "rows_per_call"))
def _class_logits(
    key: Key,
    denoise: Denoiser,
    x: Array,
    log_prior: Array | None,
    references: References | None,
    time_density: KnownTimeDensity,
    *,
    rounds: tuple[tuple[int, int], ...],
    rows_per_call: int,
) -> ClassLogits:
    """The rounds, and all differences to the winner."""
    num_classes, rows = rounds[0][0], jnp.arange(len(x))[:, None]
    known = jnp.zeros((len(x), num_classes), x.dtype)  # what is added to a mean
    if log_prior is not None:
        known += jnp.asarray(log_prior, x.dtype)[None]
    if references is not None:
        known += jax.lax.map(lambda c: references.law(c).log_prob(x), jnp.arange(num_classes)).T
    logits, sums, sizes, done = known, jnp.zeros_like(known), jnp.zeros_like(known), []
    for number, (kept, evaluations) in enumerate(rounds):
        labels = jax.lax.top_k(logits, kept)[1]
        pairs, strata = low_discrepancy.layout(evaluations, x[0].size)
        round_key = jax.random.fold_in(key, number)
        cells = pairs * _cells(
            round_key, denoise, x, labels, references, time_density, pairs, strata, rows_per_call
        )
        seen = jnp.zeros_like(known).at[rows, labels].set(1)
        full = jnp.zeros((*known.shape, *cells.shape[2:]), x.dtype).at[rows, labels].set(cells)
        sums, sizes = sums + full.sum((2, 3)), sizes + 2 * pairs * strata * seen
        logits = jnp.where(seen > 0, known + sums / sizes, -jnp.inf)  # who is out stays out
        done.append((seen, full))
    winner = jnp.argmax(logits, axis=1)[:, None]
    total, square = jnp.zeros_like(known), jnp.zeros_like(known)
    for seen, full in done:
        difference = full - jnp.take_along_axis(full, winner[..., None, None], axis=1)
        total += seen * difference.sum((2, 3))
        square += seen * jnp.sum((difference[..., 0] - difference[..., 1]) ** 2, axis=2)
    value = known - jnp.take_along_axis(known, winner, axis=1) + total / sizes
    least = min(full.shape[2] for _, full in done)
    ends = no_data_left(denoise, time_density.scale, denoise.working_range[1])
    ends &= is_clean(denoise, time_density.scale)
    return ClassLogits(
        value=jnp.where(ends, value, jnp.nan),
        standard_error=jnp.sqrt(square) / sizes * low_discrepancy.strata_factor(least),
    )


def _cells(
    key: Key,
    denoise: Denoiser,
    x: Array,
    labels: Array,
    references: References | None,
    time_density: KnownTimeDensity,
    pairs: int,
    strata: int,
    rows_per_call: int,
) -> Array:
    """Means over cells, shape (batch, k, strata, 2), of the labels (batch, k), with one noise for a row's."""
    each, k = 4 * pairs * strata, labels.shape[1]
    t_min, t_max = denoise.working_range
    common = default_reference(denoise, x)

    def of_row(row: tuple[Array, Array, Array]) -> Array:
        number, x, labels = row
        own = denoise.at_rows(number[None])

        def of_class(label: Array) -> Array:
            reference = common if references is None else references.law(label)
            integrand = level_integrand(
                own.given(label),
                reference.denoiser(denoise.schedule),
                x[None],
                t_min,
                t_max,
                (True, True),
                time_density,
            )
            return low_discrepancy.cell_means(
                jax.random.fold_in(key, number),
                x[None],
                integrand,
                strata=strata,
                replicates=2,
                pairs=pairs,
                rows_per_call=max(1, rows_per_call // k),
            )[0]

        return jax.vmap(of_class)(labels)

    together = min(len(x), max(1, rows_per_call // (k * each)))
    return jax.lax.map(of_row, (jnp.arange(len(x)), x, labels), batch_size=together)


def _check_rounds(
    num_classes: int, num_evaluations: int, elimination: Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    checks.integer("num_classes", num_classes, 2)
    rounds = [(num_classes, num_evaluations), *elimination]
    for i, (kept, evaluations) in enumerate(rounds):
        checks.integer(f"elimination[{i - 1}][1]" if i else "num_evaluations", evaluations, 20)
        if i:
            checks.integer(f"elimination[{i - 1}][0]", kept, 1)
            if kept >= rounds[i - 1][0]:
                raise ValueError(
                    f"elimination must have fewer classes in each round than before, got {kept} after "
                    f"{rounds[i - 1][0]}."
                )
    return tuple((int(kept), int(evaluations)) for kept, evaluations in rounds)
