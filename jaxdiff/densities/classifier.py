"""Classification by the density formula: which class's model gives x the greatest density.

With r_c = eps - N_c(X_t), N_c the noise of class c's denoiser, the density formulas of two classes (eq. 5 of
`densities.formula`) have their reference in common, and it is not in their difference:

    log p(x | c) - log p(x | c') = (1/2) int E[|r_c'|^2 - |r_c|^2] dlambda.                          (1)

So no constant is left open, and the weight is dlambda / 2. Most of |r_c|^2 is the noise's and the same for
all classes: with one noise and one noise level for all of them it goes out of (1) point by point, and what
is left falls at both ends as (4) there does. With log-priors added, softmax gives posteriors.

Unlikely classes are told apart by few evaluations, and which are unlikely shows while they are spent. In a
*race* the classes of a row go round by round, each as long as all before it; a class that is behind the
likeliest by so many standard errors of their difference is out, and a row with one class left is done
(Maron & Moore 1997). (Diffusion classifiers: Li et al. 2023, arXiv 2303.16203, with weight 1 in place of
dlambda / 2, and eliminations that are fixed beforehand.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import checks, low_discrepancy
from jaxdiff._numerics.chunks import map_within, rows_within
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.denoising.ends import check_clean, check_no_data_left, is_clean, no_data_left
from jaxdiff.densities.evaluations import Evaluations, KnownEvaluations, check_evaluations
from jaxdiff.densities.inputs import check_data
from jaxdiff.densities.levels import default_reference, level_integrand
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
    num_evaluations: Array
    """Of the denoiser, for all classes of a row together, (batch,)."""


def class_logits(
    key: Key,
    denoise: Denoiser,
    x: Array,
    evaluations: Evaluations = Evaluations(),  # noqa: B008 - frozen
    *,
    num_classes: int,
    margin: float | None = None,
    first_round: int = 20,
    log_prior: Array | None = None,
    references: References | None = None,
) -> ClassLogits:
    """log p(x | c) + log_prior[c], less that of the likeliest class, of x, (batch, *denoise.shape); eq. (1).

    denoise: one whose condition is a label 0, ..., num_classes - 1: class c is ``denoise.given(c)``, c a
        traced scalar. So are networks that are shown labels, and `Labelled` laws.
    evaluations: the most that are spent on each class, with no reference: that is said below.
    margin: for a race, how many standard errors behind its row's likeliest a class is dropped; 3 is safe. It
        keeps the difference that it has, of the evaluations that it had, and so its part in the posterior. By
        default all classes get all evaluations.
    first_round: evaluations of each class before the first are dropped, at least 20.
    log_prior: shape (num_classes,), up to a constant; by default classes are equally likely.
    references: a `Labelled` of laws that are like the classes: they take the noise out of eq. (1) that they
        know of. By default all classes have one, which is to say none.

    The standard error is as of `density_formula`. Beyond the denoiser's working range the differences of
    classes are taken to fall on as they do for smooth densities. Row i depends on (key, i) and x_i only. With
    a margin there is no reverse-mode derivative. Raises as `density_formula`, and ValueError for fewer than
    two classes, a margin that is not positive, a first round below 20, or a log_prior of other shape.

    >>> laws = jd.Labelled([jd.Gaussian([-4.0], 1.0), jd.Gaussian([4.0], 1.0)]).denoiser(jd.Karras())
    >>> logits = jd.class_logits(jax.random.key(0), laws, jnp.array([[4.0], [-4.0]]), num_classes=2)
    >>> logits.value.argmax(1).tolist()
    [1, 0]
    """
    x = check_data(key, denoise, x)
    known = check_evaluations(denoise, evaluations, without=("reference",))
    check_no_data_left(denoise, known.scale)
    check_clean(denoise, known.scale)
    checks.integer("num_classes", num_classes, 2)
    checks.integer("first_round", first_round, 20)
    if margin is not None:
        checks.positive_number("margin", margin)
    if log_prior is not None:
        checks.shape("log_prior", log_prior, (num_classes,))
        checks.finite("log_prior", log_prior)
    if references is not None:
        checks.law("references.law(0)", references.law(jnp.asarray(0)), x)
    return _class_logits(
        key,
        denoise,
        x,
        log_prior,
        references,
        known,
        margin,
        num_classes=num_classes,
        rounds=(known.number,) if margin is None else _rounds(known.number, first_round),
    )


def _rounds(num_evaluations: int, first: int) -> tuple[int, ...]:
    """Evaluations of a class in each round: as many as in all before it, and what is left in the last."""
    rounds, left = [min(first, num_evaluations)], num_evaluations - first
    while left >= 20:
        rounds.append(min(left, sum(rounds)))
        left -= rounds[-1]
        if left < 20:  # too few for a round of their own
            rounds[-1] += max(left, 0)
    return tuple(rounds)


@functools.partial(jax.jit, static_argnames=("num_classes", "rounds"))
def _class_logits(
    key: Key,
    denoise: Denoiser,
    x: Array,
    log_prior: Array | None,
    references: References | None,
    evaluations: KnownEvaluations,
    margin: Array | float | None,
    *,
    num_classes: int,
    rounds: tuple[int, ...],
) -> ClassLogits:
    """The rounds, and all differences to the winner."""
    known = jnp.zeros((len(x), num_classes), x.dtype)  # what is added to a mean
    if log_prior is not None:
        known += jnp.asarray(log_prior, x.dtype)[None]
    if references is not None:
        known += jax.lax.map(lambda c: references.law(c).log_prob(x), jnp.arange(num_classes)).T
    running, done = jnp.ones(known.shape, bool), []
    value, error = jnp.zeros_like(known), jnp.zeros_like(known)
    for number, each in enumerate(rounds):
        layout = low_discrepancy.layout_of(each, x[0].size)
        seen = running & (running.sum(1, keepdims=True) > 1)
        means = _CellMeans(jax.random.fold_in(key, number), denoise, x, references, evaluations, layout)
        done.append(_Round(seen, means.of_all(num_classes) if number == 0 else means.of(seen), layout))
        value, error = _differences(known, running, done)
        if margin is not None:
            running &= value >= -margin * error
    scale = evaluations.scale
    ends = no_data_left(denoise, scale, denoise.working_range[1]) & is_clean(denoise, scale)
    return ClassLogits(
        value=jnp.where(ends, value, jnp.nan),
        standard_error=error,
        num_evaluations=_sum(one.layout.points * one.seen.sum(1) for one in done),
    )


class _Round(NamedTuple):
    """What a round of the race has seen."""

    seen: Array
    """Which classes, (batch, classes)."""
    cells: Array
    """Their means over cells, (batch, classes, strata, replicates)."""
    layout: low_discrepancy.Layout


def _differences(known: Array, running: Array, done: list[_Round]) -> tuple[Array, Array]:
    """Log-posteriors less that of the likeliest that is still running, and their errors, (batch, classes)."""
    sizes = _sum(one.layout.points * one.seen for one in done)

    def mean(of: Callable[[_Round], Array]) -> Array:
        return _sum(one.seen * 2 * one.layout.pairs * of(one) for one in done) / sizes

    total = known + mean(lambda one: one.cells.sum((2, 3)))
    winner = jnp.argmax(jnp.where(running, total, -jnp.inf), axis=1)[:, None]

    def apart(cells: Array) -> Array:
        return cells - jnp.take_along_axis(cells, winner[..., None, None], axis=1)

    value = (
        known - jnp.take_along_axis(known, winner, axis=1) + mean(lambda one: apart(one.cells).sum((2, 3)))
    )
    square = _sum(
        one.seen * (2 * one.layout.pairs) ** 2 * low_discrepancy.square_error_of_sum(apart(one.cells))
        for one in done
    )
    freedom = np.cumsum([one.layout.freedom for one in done])
    factors = jnp.asarray([low_discrepancy.student_factor(count) for count in freedom], known.dtype)
    rounds = _sum(one.seen.astype(int) for one in done)
    return value, jnp.sqrt(square) / sizes * factors[rounds - 1]


def _sum(arrays: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, arrays)


class _CellMeans(NamedTuple):
    """Means over cells of the integrands of rows and classes, with one noise for all classes of a row."""

    key: Key
    denoise: Denoiser
    x: Array
    references: References | None
    evaluations: KnownEvaluations
    layout: low_discrepancy.Layout

    def of_all(self, num_classes: int) -> Array:
        """Of every class of every row, (batch, num_classes, strata, replicates)."""
        of_classes = jax.vmap(self._one, (None, 0, None))
        share = max(1, self.evaluations.bytes_per_call // num_classes)

        def of_rows(rows: Array) -> Array:
            return jax.vmap(lambda row: of_classes(row, jnp.arange(num_classes), share))(rows)

        return map_within(of_rows, jnp.arange(len(self.x)), self.evaluations.bytes_per_call)

    def of(self, seen: Array) -> Array:
        """Of what is seen, (batch, classes), and zero elsewhere, in time in proportion to what is seen."""
        n, most = len(self.x), self.evaluations.bytes_per_call

        def of_class(numbered: tuple[Array, Array]) -> Array:
            label, wanted = numbered
            order = jnp.argsort(~wanted)

            def of_rows(rows: Array) -> Array:
                return jax.vmap(lambda row: self._one(row, label, most))(rows)

            # Few rows in a call leave little of the last call of a class empty.
            together = min(-(-n // 8), rows_within(of_rows, order, most))

            def some(i: Array, answer: Array) -> Array:
                rows = order[jnp.minimum(i * together + jnp.arange(together), n - 1)]
                return answer.at[rows].set(of_rows(rows))

            calls = (wanted.sum() + together - 1) // together
            nothing = jnp.zeros((n, self.layout.strata, self.layout.replicates), self.x.dtype)
            return jnp.where(wanted[:, None, None], jax.lax.fori_loop(0, calls, some, nothing), 0)

        cells = jax.lax.map(of_class, (jnp.arange(seen.shape[1]), seen.T))
        return jnp.swapaxes(cells, 0, 1)

    def _one(self, row: Array, label: Array, bytes_per_call: int) -> Array:
        """(strata, replicates), of one class of one row."""
        x, t_ends = self.x[row][None], self.denoise.working_range
        law = default_reference(self.denoise, x) if self.references is None else self.references.law(label)
        integrand = level_integrand(
            self.denoise.at_rows(row[None]).given(label),
            law.denoiser(self.denoise.schedule),
            x,
            *t_ends,
            (True, True),
            self.evaluations.time_density,
        )
        row_key = jax.random.fold_in(self.key, row)
        return low_discrepancy.cell_means(row_key, x, integrand, self.layout, bytes_per_call)[0]
