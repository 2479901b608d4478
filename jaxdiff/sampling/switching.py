"""Another network at other times: a cheap one where noise hides what a dear one would see.

Early exits (arXiv 2408.05927) and pairs of a small and a large model are this with networks of a depth or of
a size; so is a law in closed form at high noise, `fit_gaussian`'s say, before a network. What a step costs is
counted in FLOP, since calls are then no measure of it.

Features that are cached between steps are not here: a denoiser is a function of (x, t) alone, so that
samplers, densities and transforms may call it in any order, at any rows. What a cache would save of the
answers themselves, `ExponentialAdams` and `LinearMultistep` use already.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.rows import to_rows
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.guidance.tilted import bound, transformed
from jaxdiff.typing import Array, Denoised, Time


def switched(denoisers: Sequence[Denoiser], at: Sequence[Time]) -> Denoiser:
    """The first denoiser below the time at[0], the second from there up to at[1], and so on.

    at: increasing times, one fewer than denoisers, of any values without a new program. At a scalar t, as in
        every sampler on a grid, one network runs; with one t a row all run, and each row takes its own.

    MEASURED: with `fit_gaussian` from sigma = 10 on and a mixture's own denoiser below, two of 8 calls and
    three of 16 from sigma = 20 to .02, the error of `unipc()` was .0386 for .0370 and .0072 for .0067 (5
    modes, d = 16), .147 for .147 and .0251 for .0251 (25 modes in the plane); from sigma = 3 on it was four
    to five times as much in d = 16. A start fitted at that time (`fit_start`) saves these calls, too.

    It knows the times of all together, is bound to a condition as a whole, and keeps the scale of the first.
    Raises ValueError for other numbers of denoisers and times, times that do not increase, denoisers of
    another schedule or shape, and for one that does not know the times that it is to answer.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> zero = jd.as_denoiser(lambda x, t: jd.Denoised(0 * x, x / t), jd.Karras(), shape=(1,))
    >>> both = jd.switched([law, zero], [3.0])
    >>> [float(both(jnp.array([[2.0]]), t).data[0, 0]) for t in (1.0, 4.0)]
    [1.0, 0.0]
    """
    denoisers = tuple(denoisers)
    for i, one in enumerate(denoisers):
        check_denoiser(f"denoisers[{i}]", one)
        check_agree(f"denoisers[{i}]", one, "denoisers[0]", denoisers[0])
    if len(denoisers) < 2 or len(at) != len(denoisers) - 1:
        raise ValueError(
            f"switched needs two denoisers or more and one time between each two, got {len(denoisers)} "
            f"denoisers and {len(at)} times."
        )
    for i, t in enumerate(at):
        checks.shape(f"at[{i}]", t, ())
        for one in denoisers[i : i + 2]:
            one.check_times(f"at[{i}]", t)
        if i > 0:
            checks.ordered(f"at[{i - 1}]", at[i - 1], f"at[{i}]", t)
    whole = transformed(denoisers[0], _Switched(denoisers, tuple(at)))
    return dataclasses.replace(whole, t_max=denoisers[-1].t_max)


def denoiser_flops(denoise: Denoiser, times: Array, *, n: int = 1) -> np.ndarray:
    """Floating-point operations of a call with n rows at each of the known times, as XLA counts them.

    Before it compiles, so nothing is fused, and a loop inside the network is counted once. For a sampler of
    one call a step ``denoiser_flops(denoise, times[:-1]).sum()`` is what a sample costs. Raises ValueError
    for times that are traced or that the denoiser does not know.

    >>> weights = jnp.ones((64, 64))
    >>> wide = jd.make_denoiser(lambda w, x, t: x @ w, weights, jd.Karras(), shape=(64,))
    >>> flops = jd.denoiser_flops(wide, jnp.array([1.0]))
    >>> bool(1 <= flops[0] / (2 * 64 * 64) < 1.5)  # little but the product
    True
    """
    check_denoiser("denoise", denoise)
    checks.integer("n", n, 1)
    checks.shape("times", times, (None,))
    known = checks.known(times)
    if known is None:
        raise ValueError("times must be known, not traced: a program is counted for each of them.")
    denoise.check_times("times", known)
    x = jax.ShapeDtypeStruct((n, *denoise.shape), jnp.float32)

    def count(t: float) -> float:
        cost = jax.jit(functools.partial(_at(denoise, t), t=t)).lower(x).cost_analysis()
        return float(cost["flops"])  # pyright: ignore[reportOptionalSubscript, reportArgumentType]

    return np.array([count(float(t)) for t in known])


@pytree
@dataclass(frozen=True, eq=False)
class _Switched:
    denoisers: tuple[Denoiser, ...]
    at: tuple[Time, ...]

    def number(self, t: Array | float) -> Array:
        """Of the denoiser that answers at t."""
        return jnp.sum(jnp.asarray([jnp.asarray(t) >= at for at in self.at]).astype(int), axis=0)

    def __call__(self, denoiser: Denoiser, x: Array, t: Array) -> Denoised:
        inner = [bound(one, denoiser) for one in self.denoisers]
        # One that is not asked may not know the time.
        calls = [lambda one=one: one(x, jnp.clip(t, one.t_min, one.t_max)) for one in inner]
        number = self.number(t)
        if jnp.ndim(t) == 0:
            return jax.lax.switch(number, calls)
        answers = [call() for call in calls]
        return jax.tree.map(lambda *parts: _chosen(number, parts), *answers)


def _at(denoise: Denoiser, t: float) -> Denoiser:
    """The same with the one that answers at t in the place of every switched one, at any depth."""
    estimate = denoise.estimate
    if isinstance(estimate, _Switched):
        return _at(bound(estimate.denoisers[int(estimate.number(t))], denoise), t)

    def inner(node: Any) -> Any:
        return _at(node, t) if isinstance(node, Denoiser) else node

    estimate = jax.tree.map(inner, estimate, is_leaf=lambda node: isinstance(node, Denoiser))
    return dataclasses.replace(denoise, estimate=estimate)


def _chosen(number: Array, parts: Sequence[Array]) -> Array:
    answer = parts[0]
    for i, part in enumerate(parts[1:], 1):
        answer = jnp.where(to_rows(number, part) == i, part, answer)
    return answer
