"""What starts are tried on: a reference of many samples, and how far those of a start are from it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff._numerics import strata
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws.components import PRECISION
from jaxdiff.noising.process import perturb
from jaxdiff.noising.times import log_snr_grid, to_clean
from jaxdiff.sampling.budget import last_time
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.exponential_adams import unipc
from jaxdiff.typing import Array, Key

REPEATS = 4
_STEPS = 48  # of the long run, whose own error is then far below what samples can show
_PROJECTIONS = 64
_DRAWS = 8  # of which one is taken
_MOST_NUMBERS = 2**24  # of such draws at a time


class Trial(NamedTuple):
    """Rows of data, the denoiser and labels at these, and the reference along directions."""

    denoise: Denoiser
    data: Array
    labels: Array | None
    directions: Array
    """(projections, size), of length one."""
    wanted: Array
    """Sorted coordinates of the reference, (projections, REPEATS n)."""

    def coordinates(self, x: Array) -> Array:
        """Along the directions, (projections, rows)."""
        return jnp.matmul(self.directions, x.reshape(len(x), -1).T, precision=PRECISION)

    def stratified(self, key: Key, draw: Callable[[Key, int], Array]) -> Array:
        """A draw for each row of data, one out of 8, or as many as there is room for."""
        out_of = max(1, min(_DRAWS, _MOST_NUMBERS // self.data.size))
        return strata.stratified(key, draw, lambda x: self.coordinates(x).T, len(self.data), out_of=out_of)

    def distance(self, coordinates: Array) -> Array:
        """SW_2 of those of n samples or of all repeats, beside the means of neighbouring quantiles."""
        wanted = self.wanted.reshape(*coordinates.shape, -1).mean(2)
        return jnp.sqrt(jnp.mean((jnp.sort(coordinates, axis=1) - wanted) ** 2))


@functools.partial(jax.jit, static_argnames="own")
def make_trial(key: Key, denoise: Denoiser, data: Array, labels: Array | None, own: bool) -> Trial:
    """The reference is the denoiser's own long runs from data under all noise, or else the data."""
    reference_key, direction_key = jax.random.split(key)
    directions = jax.random.normal(direction_key, (_PROJECTIONS, data.size // len(data)), data.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    trial = Trial(denoise, data, labels, directions, directions)
    t_min, t_max = denoise.working_range[0], last_time(denoise)
    times = to_clean(denoise.schedule, log_snr_grid(denoise.schedule, _STEPS, t_max=t_max, t_min=t_min))

    def noise(key: Key, n: int) -> Array:
        return noise_like(key, jnp.zeros((n, *data.shape[1:]), data.dtype))

    def reference(key: Key) -> Array:
        if not own:
            return trial.coordinates(data)
        x = perturb(denoise.schedule, data, trial.stratified(key, noise), t_max)
        return trial.coordinates(integrate(key, denoise, x, times, sampler=unipc()))

    each = jax.lax.map(reference, jax.random.split(reference_key, REPEATS))
    return trial._replace(wanted=jnp.sort(together(each), axis=1))


def together(coordinates: Array) -> Array:
    """Those of all repeats, (repeats, projections, n) -> (projections, repeats n)."""
    return jnp.moveaxis(coordinates, 0, 1).reshape(_PROJECTIONS, -1)
