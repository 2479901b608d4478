"""Exponential Adams rules: the multistep family of DPM-Solver++, UniPC, DEIS and SA-Solver, one formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import number
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.sampling import exponential
from jaxdiff.sampling.exponential import ESTIMATES, Estimate
from jaxdiff.typing import Array, Key, Schedule


class AdamsState(NamedTuple):
    """The sample as predicted, and the latest estimates with their l = log(alpha / sigma), newest first.

    held: where steps are corrected, the last one with the estimate held, to which its polynomial adds.
    """

    x: Array
    held: tuple[Array, ...]
    values: tuple[Array, ...]
    half_log_snr: tuple[Array, ...]
    steps_done: Array


@pytree
@dataclass(frozen=True)
class ExponentialAdams:
    """Eq. (1) or (2) of `jaxdiff.sampling.exponential` through the last `order` estimates. One call a step.

    estimate: "data" (eq. 1) or "noise" (eq. 2). stochasticity: tau, 0 for the probability flow and 1 for the
    reverse SDE; an array may be traced. corrector: before each step the one before it is done again through
    the estimate that was since made at its end, at no further call (UniC). midpoint: the line through the
    last two estimates counts with its value at the middle of the step in l, not with its integral; it adds
    less, which serves long steps in the data, and is of order 2 as well.

    Early steps use the values there are, and until there are as many as wanted each is corrected in any case,
    so that a third order is not lost by a first step of order one. On the probability flow the error falls
    with the order named, with a corrector with order + 1; where that is over three, the first step's third
    order is what is left in the limit, though little is seen of it from pure noise, where estimates of the
    data hardly move. With noise the law's mean and variance are of the second order from order 2 on (on
    Gaussian data). A step to sigma_s = 0 is of order 1.

    `dpm_solver_pp`, `sde_dpm_solver_pp`, `unipc` and `deis` are settings of it; tau between and beyond is
    SA-Solver's (arXiv 2309.05019). Raises ValueError for another order or estimate, stochasticity < 0,
    or a midpoint of other than order 2 without a corrector.

    >>> denoise, times = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras()), jnp.geomspace(1, 0.01, 21)
    >>> sampler = jd.ExponentialAdams(order=3)
    >>> x = jd.integrate(jax.random.key(0), denoise, jnp.array([[2.0]]), times, sampler=sampler)
    >>> round(float(x[0, 0]), 2)  # 2 / 2^(1/2)
    1.41
    """

    order: int = 2
    estimate: Estimate = "data"
    corrector: bool = False
    stochasticity: Array | float = 0.0
    midpoint: bool = False

    def __post_init__(self) -> None:
        checks.integer("order", self.order, 1)
        checks.option("order", self.order, (1, 2, 3, 4))
        checks.option("estimate", self.estimate, ESTIMATES)
        checks.option("corrector", self.corrector, (False, True))
        checks.within("stochasticity", self.stochasticity, 0.0, float("inf"))
        checks.option("midpoint", self.midpoint, (False, True))
        if self.midpoint and (self.order != 2 or self.corrector):
            raise ValueError(
                f"midpoint must go with order 2 and no corrector, got order {self.order}, corrector "
                f"{self.corrector}."
            )

    @property
    def _corrects(self) -> bool:
        """Whether any step is done again; from order 3 on the early ones are."""
        return self.corrector or self.order > 2

    def init(self, x: Array) -> AdamsState:
        past, nothing = self.order - 1 + self.corrector, jnp.zeros_like(x)
        zero = jnp.zeros((), jnp.promote_types(x.dtype, jnp.float32))
        held = (nothing,) * self._corrects
        return AdamsState(x, held, (nothing,) * past, (zero,) * past, jnp.zeros((), int))

    def step(self, key: Key, denoise: Denoiser, state: AdamsState, t: Array, s: Array) -> AdamsState:
        checks.shape("stochasticity", self.stochasticity, ())  # several are mapped over, not broadcast
        schedule, x, done = denoise.schedule, state.x, state.steps_done
        here = denoise(x, t)
        known = (
            (exponential.value(self.estimate, here), *state.values),
            (exponential.half_log_snr(schedule, t), *state.half_log_snr),
        )
        if self._corrects:
            others = (0, *range(2, self.order + self.corrector))
            again = (done > 0) & (self.corrector | (done < self.order - 1))
            made = self._polynomial(schedule, known, done, t, origin=1, others=others)
            x = jnp.where(again, state.held[0] + made, x)
        z = 0.0 if number(self.stochasticity) == 0 else noise_like(key, state.x)
        held = exponential.held_step(self.estimate, schedule, x, here, t, s, self.stochasticity, z)
        others = tuple(range(1, self.order))
        new = held + self._polynomial(schedule, known, done, s, origin=0, others=others)
        values, logs = (past[: len(state.values)] for past in known)
        return AdamsState(new, (held,) * self._corrects, values, logs, done + 1)

    def _polynomial(
        self,
        schedule: Schedule,
        known: tuple[tuple[Array, ...], tuple[Array, ...]],
        done: Array,
        end: Array,
        *,
        origin: int,
        others: tuple[int, ...],
    ) -> Array:
        """What the polynomial through the others adds to a step to `end` with the value at origin held."""
        values, logs = known
        # Value j was made j steps ago, and one at alpha = 0 is infinitely far.
        ready = [jnp.isfinite(logs[origin]) & (done >= max(j, origin)) for j in others]
        nodes = [logs[j] for j in others]
        parts = exponential.weights(
            self.estimate,
            schedule,
            logs[origin],
            end,
            nodes,
            ready,
            self.stochasticity,
            midpoint=self.midpoint,
        )
        moves = [w * (values[j] - values[origin]) for w, j in zip(parts, others, strict=True)]
        return sum(moves, jnp.zeros_like(values[origin]))


def dpm_solver_pp(order: int = 2) -> ExponentialAdams:
    """DPM-Solver++, multistep, of order 1 (DDIM), 2 or 3. Lu et al. 2022, arXiv 2211.01095.

    Order 2 is the paper's 2M, with the slope's value at the middle of a step; integrated,
    ``ExponentialAdams(2)``, it leaves 1.1 to 1.7 times the error at 4 to 8 calls (`benchmarks.solvers`).

    >>> jd.dpm_solver_pp(2) == jd.ExponentialAdams(order=2, midpoint=True)
    True
    """
    return ExponentialAdams(order, midpoint=order == 2)


def sde_dpm_solver_pp(order: int = 2) -> ExponentialAdams:
    """SDE-DPM-Solver++, multistep: the same on the reverse SDE. Order 1 is `ancestral`.

    >>> jd.sde_dpm_solver_pp().stochasticity
    1.0
    """
    return ExponentialAdams(order, stochasticity=1.0, midpoint=order == 2)


def unipc(order: int = 3, estimate: Estimate = "noise") -> ExponentialAdams:
    """UniPC: predictor and corrector at one call a step. Zhao et al. 2023, arXiv 2302.04867.

    On the noise it is the best of the family from about 10 calls on (`benchmarks.solvers`); below, `deis`.
    The coefficients are integrated exactly, where the paper has approximate ones at its order 2.

    >>> jd.unipc(3).corrector
    True
    """
    return ExponentialAdams(order, estimate, corrector=True)


def deis(order: int = 3) -> ExponentialAdams:
    """DEIS: polynomials in log(sigma / alpha) through the noise. Zhang and Chen 2022, arXiv 2204.13902.

    The best of the family for up to 8 calls (`benchmarks.solvers`).

    >>> jd.deis(3) == jd.ExponentialAdams(order=3, estimate="noise")
    True
    """
    return ExponentialAdams(order, "noise")
