"""Masked tokens shown one after another: at times of their own, and in an order by confidence."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import per_row
from jaxdiff.jumps.denoiser import CategoricalDenoiser, check_denoiser
from jaxdiff.jumps.draws import categorical
from jaxdiff.jumps.samplers import check_masking
from jaxdiff.jumps.times import time_of_share
from jaxdiff.typing import Array, Key

ORDERS = "probability", "margin", "entropy", "random"


def first_hitting(key: Key, denoise: CategoricalDenoiser, n: int) -> Array:
    """n samples of masking's reverse process without an error of time, (n, *shape), by a call for each token.

    With m masked tokens left at t, the next one is shown at the time of the share sigma(t) u^(1/m), u
    uniform, and is any of the m; its law is the denoiser's there. So the samples' law is exact where the
    denoiser is. Zheng et al. 2024, arXiv 2409.02908. Row i depends on (key, i) only. Raises TypeError for
    what is no key or denoiser, ValueError for a process without a mask or times that end before.

    >>> alike = jd.jumps.Enumerated(jnp.array([[0.5, 0.0], [0.0, 0.5]])).denoiser(jd.jumps.Masking(2))
    >>> x = jd.jumps.first_hitting(jax.random.key(0), alike, 100)
    >>> bool((x[:, 0] == x[:, 1]).all())  # as the law has them, and steps of both at once would not
    True
    """
    checks.key(key)
    check_denoiser("denoise", denoise)
    checks.integer("n", n, 1)
    check_masking("first_hitting", denoise)
    if denoise.t_min > denoise.schedule.t_min:
        raise ValueError(
            "first_hitting asks at all times down to the clean end, got a denoiser of t_min = "
            f"{denoise.t_min:g}; take sample(...)."
        )
    return _first_hitting(key, denoise, n)


@functools.partial(jax.jit, static_argnames="n")
def _first_hitting(key: Key, denoise: CategoricalDenoiser, n: int) -> Array:
    mask, length = check_masking("", denoise).mask, math.prod(denoise.shape)
    t_min, t_max = jnp.asarray(denoise.t_min, float), jnp.asarray(denoise.t_max, float)

    def show(carry: tuple[Array, Array], m: Array) -> tuple[tuple[Array, Array], None]:
        x, share = carry
        own = jax.random.fold_in(key, m)
        u = per_row(jax.random.fold_in(own, 0), n, lambda key: jax.random.uniform(key, (2,)))
        share = share * u[:, 0] ** (1 / m)
        t = jax.vmap(lambda share: time_of_share(denoise.schedule, share, t_min, t_max))(share)
        law = jnp.exp(denoise(x.reshape(n, *denoise.shape), t)).reshape(n, length, -1)
        hidden = x == mask
        number = 1 + jnp.minimum(jnp.floor(u[:, 1:] * m), m - 1)
        which = (jnp.cumsum(hidden, axis=1) == number) & hidden
        return (jnp.where(which, categorical(jax.random.fold_in(own, 1), law), x), share), None

    start = jnp.full((n, length), mask, jnp.int32), jnp.broadcast_to(denoise.schedule.sigma(t_max), (n,))
    (x, _), _ = jax.lax.scan(show, start, jnp.arange(length, 0, -1))
    return x.reshape(n, *denoise.shape)


@pytree
@dataclass(frozen=True)
class Confident:
    """A sampler of `Masking` that shows as many tokens as the schedule says, those of most confidence first.

    order: "probability" of the token that was drawn (Chang et al. 2022, arXiv 2202.04200), "margin" between
    the two likeliest (Kim et al. 2025, arXiv 2502.06768), least "entropy", or "random". All but the last have
    another law than the process, even with exact conditionals: it is better where those are not. Raises
    ValueError for another order, and of a process without a mask.

    >>> denoise = jd.jumps.Enumerated(jnp.full((2, 2), 0.25)).denoiser(jd.jumps.Masking(2))
    >>> x = jd.jumps.Confident("margin").step(jax.random.key(0), denoise, jnp.full((5, 2), 2), 1.0, 0.5)
    >>> (x == 2).sum(1).tolist()  # one of two is still masked, in each row
    [1, 1, 1, 1, 1]
    """

    order: str = "probability"

    def __post_init__(self) -> None:
        checks.option("order", self.order, ORDERS)

    def step(self, key: Key, denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
        mask, n = check_masking("Confident", denoise).mask, len(x)
        draw_key, order_key = jax.random.split(key)
        log_probs = denoise(x, t)
        drawn = categorical(draw_key, jnp.exp(log_probs))
        hidden = (x == mask).reshape(n, -1)
        score = self._scores(order_key, log_probs, drawn).reshape(n, -1)
        left = jnp.round(hidden.shape[1] * denoise.schedule.sigma(s))
        rank = jnp.argsort(jnp.argsort(jnp.where(hidden, -score, jnp.inf), axis=1), axis=1)
        shown = hidden & (rank < hidden.sum(1, keepdims=True) - left)
        return jnp.where(shown.reshape(x.shape), drawn, x)

    def _scores(self, key: Key, log_probs: Array, drawn: Array) -> Array:
        """Confidences, of drawn's shape."""
        if self.order == "probability":
            return jnp.take_along_axis(log_probs, drawn[..., None], axis=-1)[..., 0]
        if self.order == "margin":
            first, second = jnp.moveaxis(jax.lax.top_k(jnp.exp(log_probs), 2)[0], -1, 0)
            return first - second
        if self.order == "entropy":
            probs = jnp.exp(log_probs)
            return jnp.where(probs > 0, probs * jnp.where(probs > 0, log_probs, 0.0), 0.0).sum(-1)
        size = math.prod(drawn.shape[1:])
        return per_row(key, len(drawn), lambda key: jax.random.uniform(key, (size,))).reshape(drawn.shape)
