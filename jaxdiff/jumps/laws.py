"""Laws of tokens in closed form: all sequences enumerated, and chains of any length.

What all but x_i say of token i, `CategoricalDenoiser.others`, is exact for both. A hidden chain h_1, h_2, ...
moves by A from the law pi and shows v with chance E(h, v); with e_i(h) = sum_v E(h, v) P_0t(v, x_i),

    f_1 = pi,    f_{i+1} = (f_i e_i) A,        b_n = 1,    b_{i-1} = A (b_i e_i)                         (1)
    others_i(v) = log sum_h f_i(h) b_i(h) E(h, v)                                                        (2)

each f and b divided by its sum; with P_0t = I the logarithms of the sums of f_i e_i add up to log p(x).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.pytrees import pytree, set_fields
from jaxdiff._numerics.randomness import per_row
from jaxdiff.jumps.denoiser import CategoricalDenoiser, from_estimate
from jaxdiff.jumps.draws import check_tokens, looked_up
from jaxdiff.jumps.processes import JumpProcess, check_process, likelihood
from jaxdiff.typing import Array, Key


@pytree
@dataclass(frozen=True, eq=False)
class Enumerated:
    """Any law over the sequences of a few tokens: probs has one axis of the vocabulary for each of them.

    Raises ValueError for axes of several lengths, or chances that are negative or do not sum to one.

    >>> alike = jd.jumps.Enumerated(jnp.array([[0.5, 0.0], [0.0, 0.5]]))  # of two equal tokens
    >>> denoise, seen = alike.denoiser(jd.jumps.Masking(2)), jnp.array([[1, 2]])  # 2 is the mask
    >>> jnp.exp(denoise(seen, 0.5))[0, 1].round(4).tolist()
    [0.0, 1.0]
    """

    probs: Array
    """(vocabulary, ..., vocabulary)."""

    def __post_init__(self) -> None:
        probs = jnp.asarray(self.probs, float)
        if probs.ndim == 0 or len(set(probs.shape)) != 1:
            raise ValueError(f"probs must have one axis of the vocabulary a token, got shape {probs.shape}.")
        _check_chances("probs", probs.reshape(-1))
        set_fields(self, probs=probs)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.probs.ndim,)

    def sample(self, key: Key, n: int) -> Array:
        """n sequences, (n, length); row i depends on (key, i) only."""
        flat = self.probs.reshape(-1)
        u = per_row(key, n, lambda key: jax.random.uniform(key, (), flat.dtype))
        which = jax.vmap(lambda u: looked_up(u, flat))(u)
        return jnp.stack(jnp.unravel_index(which, self.probs.shape), axis=1).astype(jnp.int32)

    def log_prob(self, x: Array) -> Array:
        """log p(x) in nats, (batch, length) -> (batch,)."""
        check_tokens("x", x, len(self.probs))
        checks.shape("x", x, (None, *self.shape))
        return jnp.log(self.probs[tuple(x.T)])

    def denoiser(self, process: JumpProcess) -> CategoricalDenoiser:
        """The exact denoiser, at every time of the schedule."""
        _check_vocabulary(process, len(self.probs))
        return from_estimate(_EnumeratedOthers(self.probs), process, shape=self.shape)


@pytree
@dataclass(frozen=True, eq=False)
class _EnumeratedOthers:
    probs: Array

    @compiled
    def __call__(self, denoiser: CategoricalDenoiser, x: Array, t: Array) -> Array:
        def row(x: Array, t: Array) -> Array:
            own = likelihood(denoiser.process, x, t)  # (length, vocabulary)

            def token(i: int) -> Array:
                law = jnp.moveaxis(self.probs, i, 0)
                for j in reversed([j for j in range(len(x)) if j != i]):
                    law = law @ own[j]
                return law / law.sum()

            return jnp.log(jnp.stack([token(i) for i in range(len(x))]))

        return jax.vmap(row)(x, t)


@pytree
@dataclass(frozen=True, eq=False)
class HiddenMarkov:
    """Sequences of one length that a hidden Markov chain shows, eq. (1).

    Raises ValueError for shapes that do not go together and chances that do not sum to one.

    >>> coin = {"initial": [0.5, 0.5], "transition": [[1.0, 0.0], [0.0, 1.0]]}  # fair or not, and stays so
    >>> law = jd.jumps.HiddenMarkov(**coin, emission=[[0.5, 0.5], [0.0, 1.0]], length=2)
    >>> jnp.exp(law.log_prob(jnp.array([[1, 1]]))).round(4).tolist()  # (1 / 4 + 1) / 2
    [0.625]
    """

    initial: Array
    """pi, (hidden,)."""
    transition: Array
    """A, (hidden, hidden), its rows summing to one."""
    emission: Array
    """E, (hidden, vocabulary), its rows summing to one."""
    length: int

    def __post_init__(self) -> None:
        checks.integer("length", self.length, 1)
        fields = {
            name: jnp.asarray(getattr(self, name), float) for name in ("initial", "transition", "emission")
        }
        checks.shape("initial", fields["initial"], (None,))
        hidden = len(fields["initial"])
        checks.shape("transition", fields["transition"], (hidden, hidden))
        checks.shape("emission", fields["emission"], (hidden, None))
        for name, value in fields.items():
            _check_chances(name, value)
        set_fields(self, **fields)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    def sample(self, key: Key, n: int) -> Array:
        """n sequences, (n, length); row i depends on (key, i) only."""
        u = per_row(key, n, lambda key: jax.random.uniform(key, (self.length, 2), self.initial.dtype))
        return _shown(self, u)

    def log_prob(self, x: Array) -> Array:
        """log p(x) in nats, (batch, length) -> (batch,)."""
        check_tokens("x", x, self.emission.shape[1])
        checks.shape("x", x, (None, self.length))
        return _log_prob(self, x)

    def denoiser(self, process: JumpProcess) -> CategoricalDenoiser:
        """The exact denoiser, at every time of the schedule."""
        _check_vocabulary(process, self.emission.shape[1])
        return from_estimate(_ChainOthers(self), process, shape=self.shape)


def markov_chain(initial: ArrayLike, transition: ArrayLike, length: int) -> HiddenMarkov:
    """A Markov chain of tokens, all of which are seen: a language of pairs. Raises as `HiddenMarkov`.

    >>> chain = jd.jumps.markov_chain([0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]], 3)
    >>> jnp.exp(chain.log_prob(jnp.array([[0, 0, 1]]))).round(4)  # .5 * .9 * .1
    Array([0.045], dtype=float32)
    """
    checks.shape("initial", initial, (None,))
    return HiddenMarkov(jnp.asarray(initial), jnp.asarray(transition), jnp.eye(np.shape(initial)[0]), length)


@pytree
@dataclass(frozen=True, eq=False)
class _ChainOthers:
    law: HiddenMarkov

    @compiled
    def __call__(self, denoiser: CategoricalDenoiser, x: Array, t: Array) -> Array:
        law, own = self.law, jax.vmap(lambda x, t: likelihood(denoiser.process, x, t))(x, t)
        seen = jnp.moveaxis(own @ law.emission.T, 1, 0)  # e of eq. (1), (length, batch, hidden)
        first = jnp.broadcast_to(law.initial, seen.shape[1:])

        def on(before: Array, seen: Array) -> tuple[Array, Array]:
            return _divided((before * seen) @ law.transition), before

        def back(after: Array, seen: Array) -> tuple[Array, Array]:
            return _divided((after * seen) @ law.transition.T), after

        _, before = jax.lax.scan(on, first, seen)
        _, after = jax.lax.scan(back, jnp.ones_like(first), seen, reverse=True)
        return jnp.moveaxis(jnp.log((before * after) @ law.emission), 0, 1)


@compiled
def _log_prob(law: HiddenMarkov, x: Array) -> Array:
    def on(before: Array, x: Array) -> tuple[Array, Array]:
        joint = before * law.emission.T[x]
        return _divided(joint) @ law.transition, jnp.log(joint.sum(-1))

    first = jnp.broadcast_to(law.initial, (len(x), len(law.initial)))
    return jax.lax.scan(on, first, x.T)[1].sum(0)


@compiled
def _shown(law: HiddenMarkov, u: Array) -> Array:
    """The sequences of uniform numbers, (n, length, 2)."""

    def on(before: Array, u: Array) -> tuple[Array, Array]:
        hidden = looked_up(u[:, 0], before)
        return law.transition[hidden], looked_up(u[:, 1], law.emission[hidden])

    first = jnp.broadcast_to(law.initial, (len(u), len(law.initial)))
    return jax.lax.scan(on, first, jnp.moveaxis(u, 1, 0))[1].T


def _divided(values: Array) -> Array:
    return values / values.sum(-1, keepdims=True)


def _check_chances(name: str, value: Array) -> None:
    """Raise ValueError unless known chances are not negative and sum to one along the last axis."""
    known = checks.known(value)
    if known is not None and not ((known >= 0).all() and np.allclose(known.sum(-1), 1, atol=1e-4)):
        raise ValueError(
            f"{name} must hold chances that sum to one along the last axis, got sums from "
            f"{known.sum(-1).min():g} to {known.sum(-1).max():g}, the least of them {known.min():g}."
        )


def _check_vocabulary(process: JumpProcess, wanted: int) -> None:
    check_process("process", process)
    if process.vocabulary != wanted:
        raise ValueError(
            f"process must be one of the law's {wanted} tokens, got one of {process.vocabulary}."
        )
