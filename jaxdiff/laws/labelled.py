"""A law for each label: what a class-conditional network should learn, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.pytrees import pytree, set_fields
from jaxdiff.denoising.conditions import rows_of
from jaxdiff.denoising.denoiser import Denoiser, Distribution
from jaxdiff.typing import Array, Denoised, Key, Schedule, StartLaw


@pytree
@dataclass(frozen=True, init=False, eq=False)
class Labelled:
    """K laws of one family, that of the data given their label 0, ..., K - 1: ``Labelled(laws)``.

    The laws have the same arrays, such as two `GaussianMixture` of as many components each; Gaussians with
    a full covariance and with a diagonal one do not go together. Laws of images are K `Shaped` laws.

    Raises ValueError for no laws and for laws of several families, shapes or sizes.

    >>> law = jd.Labelled([jd.Gaussian([-1.0], 1.0), jd.Gaussian([3.0], 1.0)])
    >>> law.denoiser(jd.Karras()).given([0, 1])(jnp.zeros((2, 1)), 1.0).data.tolist()
    [[-0.5], [1.5]]
    """

    stacked: Distribution
    """The K laws as one, each of whose arrays has a leading axis of K; `law` takes one out."""
    shape: tuple[int, ...]
    """Of one point."""

    def __init__(self, laws: Sequence[Distribution]) -> None:
        if not isinstance(laws, Sequence):
            raise TypeError(f"laws must be a list of laws, got {checks.described(laws)}.")
        laws = tuple(laws)
        if not laws:
            raise ValueError("laws must hold at least one law, got none.")
        for number, law in enumerate(laws):
            checks.a_law(f"law {number}", law)
            if _family(law) != _family(laws[0]):
                raise ValueError(
                    f"laws must be of one family, with arrays of the same shapes, but law {number}, "
                    f"{_shown(law)}, is not like law 0, {_shown(laws[0])}."
                )
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *laws)
        set_fields(self, stacked=stacked, shape=tuple(laws[0].shape))

    @property
    def num_labels(self) -> int:
        return jax.tree.leaves(self.stacked)[0].shape[0]

    @property
    @compiled
    def scale(self) -> Array:
        """Standard deviation of the data given their label: the root of the laws' mean variance."""
        scales = jax.vmap(lambda law: jnp.asarray(law.scale))(self.stacked)
        return jnp.sqrt(jnp.mean(scales**2))

    def law(self, label: Array | int) -> Distribution:
        """The law of one label, a scalar integer.

        Raises ValueError for a known label out of range; of one that is traced the law is all NaN.
        """
        label = jnp.asarray(label)
        self._check(label)
        checks.shape("label", label, ())
        inside = (label >= 0) & (label < self.num_labels)
        return jax.tree.map(
            lambda leaf: jnp.where(inside, leaf[jnp.clip(label, 0, self.num_labels - 1)], jnp.nan),
            self.stacked,
        )

    def given(self, labels: ArrayLike) -> StartLaw:
        """The law of points that have these labels, a scalar for all or one for each point, (n,).

        Point i is drawn, and its density told, by the law of labels[i]: a start for a denoiser that is bound
        to the same labels. Labels of their own cost as much as all K laws. Raises ValueError for known labels
        out of range and for other numbers of points, TypeError for labels that are not integers; points of
        traced labels out of range are NaN.

        >>> laws = jd.Labelled([jd.Gaussian([-9.0], 1.0), jd.Gaussian([9.0], 1.0)])
        >>> jnp.sign(laws.given([0, 1, 1]).sample(jax.random.key(0), 3))[:, 0].tolist()
        [-1.0, 1.0, 1.0]
        """
        labels = jnp.asarray(labels)
        self._check(labels)
        if labels.ndim > 1:
            raise ValueError(f"labels must be a scalar or have shape (n,), got {labels.shape}.")
        return _Bound(self, labels)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """The exact conditional means given the label that it is bound to: ``.given(labels)``.

        labels are integers, a scalar for all rows or one for each, (batch,). Labels of their own for each row
        cost as much as all K denoisers. The denoiser raises ValueError without labels and for known ones out
        of range, TypeError for labels that are not integers; where labels are traced, NaN answers for those.
        """
        checks.schedule(schedule)
        return Denoiser(_ByLabel(self), schedule, self.shape, self.scale, schedule.t_min, schedule.t_max)

    def _check(self, label: Array) -> None:
        checks.integers("label", label)
        values = checks.known(label)
        if values is not None and values.size and (values.min() < 0 or values.max() >= self.num_labels):
            bad = values[(values < 0) | (values >= self.num_labels)][:1]
            raise ValueError(
                f"a label must be one of 0, ..., {self.num_labels - 1}, one for each law; got {int(bad[0])}."
            )


@pytree
@dataclass(frozen=True, eq=False)
class _ByLabel:
    """The denoiser of a `Labelled`."""

    laws: Labelled

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        labels = denoiser.condition
        if labels is None:
            raise ValueError("the denoiser of labelled laws needs labels: bind it by denoise.given(labels).")
        self.laws._check(labels)
        if labels.ndim > 1:
            raise ValueError(f"labels must be a scalar or have shape (batch,), got {labels.shape}.")
        return _means_by_label(self.laws, denoiser.schedule, labels, x, t)


@jax.jit
def _means_by_label(laws: Labelled, schedule: Schedule, labels: Array, x: Array, t: Array) -> Denoised:
    if labels.size == 1:
        return laws.law(labels.reshape(())).denoiser(schedule)(x, t)
    return _by_label(laws, rows_of(labels, x.shape[0]), lambda law: law.denoiser(schedule)(x, t))


@pytree
@dataclass(frozen=True, eq=False)
class _Bound:
    """The law of points of given labels."""

    laws: Labelled
    labels: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.laws.shape

    def sample(self, key: Key, n: int) -> Array:
        return _draws(key, self, n)

    def log_prob(self, x: Array) -> Array:
        checks.shape("x", x, (None, *self.shape))
        return _log_densities(self, x)


@compiled(static="n")
def _draws(key: Key, bound: _Bound, n: int) -> Array:
    if bound.labels.size == 1:
        return bound.laws.law(bound.labels.reshape(())).sample(key, n)
    return _by_label(bound.laws, rows_of(bound.labels, n), lambda law: law.sample(key, n))


@compiled
def _log_densities(bound: _Bound, x: Array) -> Array:
    if bound.labels.size == 1:
        return bound.laws.law(bound.labels.reshape(())).log_prob(x)
    return _by_label(bound.laws, rows_of(bound.labels, x.shape[0]), lambda law: law.log_prob(x))


def _by_label(laws: Labelled, labels: Array, answer: Callable[[Distribution], Any]) -> Any:
    """What the law of each row's label answers for it; of no law's label NaN.

    Law by law, since parameters for each row may be (batch, d, d).
    """

    def one(known: Any, numbered: tuple[Array, Distribution]) -> tuple[Any, None]:
        number, law = numbered

        def put(old: Array, new: Array) -> Array:
            return jnp.where((labels == number).reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(put, known, answer(law)), None

    shapes = jax.eval_shape(lambda stacked: answer(jax.tree.map(lambda leaf: leaf[0], stacked)), laws.stacked)
    unknown = jax.tree.map(lambda like: jnp.full(like.shape, jnp.nan, like.dtype), shapes)
    return jax.lax.scan(one, unknown, (jnp.arange(laws.num_labels), laws.stacked))[0]


def _family(law: Distribution) -> tuple[object, ...]:
    shapes = [(np.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(law)]
    return jax.tree.structure(law), tuple(shapes)


def _shown(law: Distribution) -> str:
    shapes = ", ".join(str(np.shape(leaf)) for leaf in jax.tree.leaves(law))
    return f"a {type(law).__name__} of arrays {shapes}"
