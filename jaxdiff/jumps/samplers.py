"""Samplers of jump processes: steps from t to s < t in which tokens move on their own, given all of x_t.

Each is a frozen pytree with ``chances(denoise, x, t, s)``, the law of every token of x_s given x_t, (batch,
*shape, states); what is random is one draw of it. With p, r and the rates of `jaxdiff.jumps.processes`, and
h_k the reverse rate to k, H their sum:

    Ancestral        r_s(k) P_st(k, x)                                             exact for one token    (1)
    Euler            1 [k = x] (1 - (t - s) H) + (t - s) h_k                                              (2)
    TauLeaping       1 [k = x] e^-A + (1 - e^-A) h_k / H,      A = (t - s) H                              (3)
    Corrected        (1), and then (3) forwards and backwards at s, of which p_s is the stationary law    (4)
    Remasking        (1) with a share of the seen tokens masked again, and so many more that are shown    (5)

Since tokens move on their own, the law of all of them errs by O(1 / steps) in total variation. The analytic
step of score entropy, "Tweedie", which undoes P_st in r_t, is (1): r_s P_st = r_t. Campbell et al. 2022,
arXiv 2205.14987; Lou et al. 2023, arXiv 2310.16834; Wang et al. 2025, arXiv 2503.00307 (5). The free rate of
discrete flow matching, Gat et al. 2024, arXiv 2407.15595, is that of (4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.jumps.denoiser import CategoricalDenoiser
from jaxdiff.jumps.draws import categorical
from jaxdiff.jumps.processes import Masking, one_hot, rate, ratios, reverse_step
from jaxdiff.typing import Array, Key


class JumpSampler(Protocol):
    """A frozen pytree of settings (`jaxdiff.pytree`) that moves rows of tokens."""

    def step(self, key: Key, denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
        """Tokens x_s of tokens x_t, (batch, *shape), for scalars s < t."""
        ...


class _Independent:
    """A step in which tokens move on their own."""

    def chances(self, denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
        raise NotImplementedError

    def step(self, key: Key, denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
        return categorical(key, self.chances(denoise, x, t, s))


@pytree
@dataclass(frozen=True)
class Ancestral(_Independent):
    """Eq. (1): data are drawn for each token, and x_s by the bridge. Austin et al. 2021, arXiv 2107.03006.

    >>> denoise = jd.jumps.Enumerated(jnp.array([0.25, 0.75])).denoiser(jd.jumps.Masking(2))
    >>> masks = jnp.full((10_000, 1), 2)
    >>> x = jd.jumps.Ancestral().step(jax.random.key(0), denoise, masks, 1.0, 0.5)
    >>> round(float((x == 2).mean()), 1)  # half are shown
    0.5
    """

    def chances(self, denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
        return reverse_step(denoise.process, denoise(x, t), x, s, t)


ANCESTRAL = Ancestral()


@pytree
@dataclass(frozen=True)
class Euler(_Independent):
    """Eq. (2); where (t - s) H is above one the token jumps.

    >>> denoise = jd.jumps.Enumerated(jnp.array([0.25, 0.75])).denoiser(jd.jumps.Masking(2))
    >>> x = jd.jumps.Euler().step(jax.random.key(0), denoise, jnp.full((10_000, 1), 2), 1.0, 0.8)
    >>> round(float((x == 2).mean()), 1)  # by the rate at the end of the step, 1 / .8: 1 - .2 / .8
    0.8
    """

    def chances(self, denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
        jumps = (t - s) * _away(denoise, x, t, s)
        jumps = jumps / jnp.maximum(jumps.sum(-1, keepdims=True), 1.0)
        return jumps + one_hot(x, denoise.process.states) * (1 - jumps.sum(-1, keepdims=True))


@pytree
@dataclass(frozen=True)
class TauLeaping(_Independent):
    """Eq. (3): a token that jumps does so once in a step.

    >>> denoise = jd.jumps.Enumerated(jnp.array([0.25, 0.75])).denoiser(jd.jumps.Masking(2))
    >>> x = jd.jumps.TauLeaping().step(jax.random.key(0), denoise, jnp.full((10_000, 1), 2), 1.0, 0.8)
    >>> round(float((x == 2).mean()), 1)
    0.8
    """

    def chances(self, denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
        return _leap(one_hot(x, denoise.process.states), (t - s) * _away(denoise, x, t, s))


@pytree
@dataclass(frozen=True)
class Corrected:
    """Eq. (4): a predictor's step, and then steps at s that mix and would leave its law as it is if short.

    size: how long they are together, in units of t - s; 0 is none. With exact conditionals two calls more a
    step take a half off the error under masking, and a sixth under uniform jumps: less than so many more
    steps do. They are for denoisers that err. Raises ValueError for a negative size or no steps.
    """

    predictor: JumpSampler = ANCESTRAL
    num_steps: int = 2
    size: Array | float = 0.5

    def __post_init__(self) -> None:
        check_sampler("predictor", self.predictor)
        checks.integer("num_steps", self.num_steps, 1)
        checks.within("size", self.size, 0.0, float("inf"))

    def step(self, key: Key, denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
        predict_key, key = jax.random.split(key)
        x = self.predictor.step(predict_key, denoise, x, t, s)

        def correct(number: Array, x: Array) -> Array:
            return categorical(jax.random.fold_in(key, number), self.correction(denoise, x, t, s))

        return jax.lax.fori_loop(0, self.num_steps, correct, x)

    def correction(self, denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
        """The chances of a step at s, (batch, *shape, states); at the clean end nothing moves."""
        clean = s <= denoise.schedule.t_min
        at = jnp.where(clean, t, s)  # where reverse rates are infinite
        own = one_hot(x, denoise.process.states)
        forward = rate(denoise.process, at) * denoise.process.leaving(x) * (1 - own)
        moves = self.size / self.num_steps * (t - s) * (_away(denoise, x, at, at) + forward)
        return jnp.where(clean, own, _leap(own, moves))


@pytree
@dataclass(frozen=True)
class Remasking(_Independent):
    """Eq. (5), for `Masking`: seen tokens are masked again, with chance eta times the most that is possible.

    eta = 0 is `Ancestral`; the law of each token stays that of the process for every eta in [0, 1]. That of
    all of them, with exact conditionals, errs more than without, by the order 1 / steps only where eta falls
    so too: it is for denoisers that err. Raises ValueError for an eta out of range, and of a process without
    a mask.

    >>> denoise = jd.jumps.Enumerated(jnp.array([0.25, 0.75])).denoiser(jd.jumps.Masking(2))
    >>> shown = jnp.ones((10_000, 1), int)
    >>> x = jd.jumps.Remasking(0.5).step(jax.random.key(0), denoise, shown, 0.6, 0.4)
    >>> round(float((x == 2).mean()), 1)  # masked again: half of the most, which is 1 here
    0.5
    """

    eta: Array | float = 0.1

    def __post_init__(self) -> None:
        checks.within("eta", self.eta, 0.0, 1.0)

    def chances(self, denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
        mask = check_masking("Remasking", denoise).mask
        (kept, alpha), lost = map(denoise.schedule.alpha, (s, t)), denoise.schedule.sigma(t)
        most = denoise.schedule.sigma(s) / jnp.maximum(alpha, jnp.finfo(alpha.dtype).tiny)
        back = self.eta * jnp.minimum(1.0, most)
        shown = (kept - (1 - back) * alpha) / lost
        law = jnp.exp(denoise(x, t))
        law = jnp.where((x == mask)[..., None], shown * law, (1 - back) * law)
        return jnp.concatenate([law, 1 - law.sum(-1, keepdims=True)], axis=-1).clip(0)


def _away(denoise: CategoricalDenoiser, x: Array, t: Array, s: Array) -> Array:
    """Reverse rates at t to other tokens, (batch, *shape, states)."""
    process = denoise.process
    # Where all is forgotten a rate is infinite, or a product of that and zero: then a little into the step.
    t = jnp.where(process.schedule.alpha(t) > 0, t, t - 1e-3 * (t - s))
    rates = process.entering(x) * (1 - one_hot(x, process.states))
    return jnp.where(rates > 0, rate(process, t) * rates * ratios(process, denoise(x, t), x, t), 0.0)


def _leap(own: Array, moves: Array) -> Array:
    """Eq. (3), for rates to other tokens times their time."""
    total = moves.sum(-1, keepdims=True)
    jump = -jnp.expm1(-total)
    return own * (1 - jump) + jump * moves / jnp.where(total > 0, total, 1.0)


def check_masking(name: str, denoise: CategoricalDenoiser) -> Masking:
    """The process; ValueError unless it is one of masking."""
    if not isinstance(denoise.process, Masking):
        raise ValueError(
            f"{name} is for processes of masking, got one of {type(denoise.process).__name__}; take "
            "Ancestral() or Corrected()."
        )
    return denoise.process


def check_sampler(name: str, value: Any) -> None:
    """Raise TypeError unless value is a sampler of tokens."""
    if not hasattr(value, "step") or isinstance(value, type):
        raise TypeError(f"{name} must be one such as jumps.Ancestral(), got {checks.described(value)}.")
