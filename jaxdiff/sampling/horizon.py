"""How late a sampler may start, from which law and on which grid: all of it is tried, by the sampler itself.

From each horizon T a law of the family, fitted at T, is run down every grid with the sampler and the number
of steps that are meant, and its samples are compared with what they should be:

    cost(T, grid) = SW_2(samples, reference)              `jaxdiff.laws.metrics`, eq. (2)            (1)

So the integrator's own error counts, whatever the integrator is, and so does all of the start's; neither is a
bound or a surrogate, and no density or score of the start is asked for. Divergences are those of Euler and
Maruyama's chain (`jaxdiff.sampling.budget`), and rank horizons wrongly for any better integrator.

Samples of the law itself are as far from the reference as so few samples are, which is more than good
horizons differ by. So the reference has 4 times as many, and the best grid of every horizon runs again with
as many. And since a start's draws cost nothing beside the denoiser's calls, one is taken out of each of n
cells of 8 n of them: the means of these are those of 8 n in few dimensions. The grids of a horizon start
from the same draws.

The grids, with r = sigma / alpha and a last step to no noise on every one of them, are, in K steps,

    r_k = r_0 (1 - k / K)^rho,               rho = 1, 3/2, 2, 3, 5                                   (2)
    r_k = r_0 (r_last / r_0)^(k / (K - 1)),  r_last = 1/100, 1/25, 1/10 of the data's scale          (3)

since where the last step begins matters as much as the spacing does, and both depend on the sampler's order.

Another rule does not ask the denoiser: the shortest T at which no projection of the noised data has two
modes, `dip_scores`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import folded
from jaxdiff._numerics.randomness import noise_like
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.laws.labelled import Labelled
from jaxdiff.noising.process import inverse_log_snr, log_snr, perturb
from jaxdiff.sampling.budget import check_data, last_time
from jaxdiff.sampling.driver import integrate
from jaxdiff.sampling.exponential_adams import dpm_solver_pp
from jaxdiff.sampling.sampler import Sampler, check_sampler
from jaxdiff.sampling.starts import Family, by_labels, check_fit, fit_labelled
from jaxdiff.sampling.trial import REPEATS, Trial, make_trial, together
from jaxdiff.typing import Array, Key, Schedule, StartLaw, Time

_NUM_HORIZONS = 8
_LEAST, _MOST = 0.125, 64.0  # sigma over alpha in units of the data, on either side of those tried
_POWERS, _LAST = (1.0, 1.5, 2.0, 3.0, 5.0), (0.01, 0.04, 0.1)  # of (2) and (3)
REFERENCES = ("model", "data")


class Candidates(NamedTuple):
    """What was tried, a start a row: distances (1), in the data's unit."""

    family: Array
    """Number of the family that each start is of, in the order in which they were given, (starts,)."""
    t_max: Array
    """Horizons, (starts,), increasing in each family."""
    times: Array
    """Grids, (starts, grids, num_steps + 1)."""
    distance: Array
    """Of each, (starts, grids); of the best grid of a start from 4 times as many samples."""
    from_data: Array
    """The same from the data themselves, noised, on the best grid of each start, (starts,)."""
    no_steps: Array
    """Of the start's draws over alpha as they are, without the denoiser, (starts,)."""


class Horizon(NamedTuple):
    """A choice of `choose_horizon`, a pytree; printed, it says why."""

    t_max: Array
    start: StartLaw | Labelled
    """The one that was tried at t_max; of labelled data one for each label."""
    times: Array
    """num_steps + 1 decreasing times from t_max to no noise."""
    candidates: Candidates

    @property
    def family(self) -> Array:
        """Number of the family that the start is of, in the order in which they were given."""
        return self.candidates.family[self.candidates.distance.min(1).argmin()]

    def table(self, dip_scores: ArrayLike | None = None) -> str:
        """The best grid of every start in print, beside `dip_scores` of their horizons where they are given.

        Raises ValueError for another number of scores, and where the choice is traced.
        """
        if _traced((self.t_max, self.candidates)):
            raise ValueError("a traced choice has no numbers to print: return it from jit first.")
        tried = jax.device_get(self.candidates)
        best = tried.distance.argmin(1)
        last = np.take_along_axis(tried.times[:, :, -2], best[:, None], axis=1)[:, 0]
        head = ["t_max", "last t", "distance", "from data", "no steps"]
        columns = [tried.t_max, last, tried.distance.min(1), tried.from_data, tried.no_steps]
        if tried.family.any():
            head, columns = ["family", *head], [tried.family, *columns]
        if dip_scores is not None:
            checks.shape("dip_scores", dip_scores, np.shape(tried.t_max))
            head, columns = [*head, "dip"], [*columns, np.asarray(dip_scores)]
        lines = ["".join(f"{name:>11}" for name in head)]
        lines += ["".join(f"{value:11.3g}" for value in row) for row in zip(*columns, strict=True)]
        lines[1 + tried.distance.min(1).argmin()] += "  <- the least"
        lines.append(f"sliced W_2, {len(self.times) - 1} steps")
        if dip_scores is not None:
            unimodal = tried.t_max[np.asarray(dip_scores) < 0]
            rule = f"t_max = {unimodal.min():.3g}" if unimodal.size else "none of these"
            lines[-1] += f"; the first horizon without a second mode, by the dip, is {rule}"
        return "\n".join(lines)

    def __str__(self) -> str:
        return repr(self) if _traced((self.t_max, self.candidates)) else self.table()


def choose_horizon(
    key: Key,
    family: Family[Any] | Sequence[Family[Any]],
    denoise: Denoiser,
    data: Array,
    *,
    num_steps: int,
    sampler: Sampler | None = None,
    horizons: Sequence[float] | Array | None = None,
    reference: str = "model",
    held_out: float = 0.2,
    num_samples: int = 2048,
    labels: ArrayLike | None = None,
) -> Horizon:
    """The horizon, start law and grid from which so many steps of the sampler leave the least distance (1).

    family: of start laws; of several, each is tried at every horizon, and ``choice.family`` is the number of
        the one that is chosen. Give `starts.gaussian` beside a richer one: what that fits of few rows it
        brings to a short horizon with their sampling error, and from 8 calls on the Gaussian of a long one is
        often better (MEASURED, `experiments.initialization`, part horizon).
    data: of shape (n, *shape), the denoiser's.
    sampler: the one that is to be used, by default `sample`'s own.
    horizons: times to try, any order, between the first of the denoiser's working range and its `last_time`.
        By default 8, at which noise is from 1/4 to 32 times the data, each twice the one before, or as many
        closer ones where the denoiser knows less.
    reference: "model", what the denoiser's own long run makes of data under all of its noise. Of it there are
        as many samples as are wanted, so near candidates are told apart, and what the denoiser has learned
        wrongly counts for nothing. Or "data", a part held_out of the rows, which is not fitted: then all
        errors count, to the precision that as many rows have.
    num_samples: of each run; there are 9 and 4 runs a start, and 4 long ones for the reference. All draw from
        the same random numbers.
    labels: of the rows, (n,), 0, ..., K - 1, for a denoiser that is told them: the start is then a `Labelled`
        of `fit_labelled_start`, to be bound to the labels of samples by its `given`. Not under ``jit``.

    Print the answer to see what each start would cost.

    Under ``jit`` it is one program where the fits of the family, a single one, are pure JAX, as all but
    flows' are. Random projections see the large shapes of images best.

    Raises TypeError for integer data, and ValueError for NaN, for data of another shape than the denoiser's,
    for no family or, under ``jit``, several, for horizons out of range, for an unknown reference, for a
    held_out that leaves fewer than 2 rows on either side, and what the fits raise.

    >>> law = jd.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [0.01, 0.01])
    >>> denoise, data = law.denoiser(jd.Karras()), law.sample(jax.random.key(0), 200)
    >>> key, family = jax.random.key(1), jd.starts.gaussian()
    >>> options = {"num_steps": 4, "horizons": [0.1, 2], "num_samples": 200}
    >>> choice = jd.choose_horizon(key, family, denoise, data, **options)
    >>> float(choice.t_max)  # at .1 the two modes are seen, which no Gaussian has
    2.0
    """
    checks.key(key)
    data = check_data(denoise, data)
    checks.integer("num_steps", num_steps, 1)
    checks.integer("num_samples", num_samples, 2)
    checks.option("reference", reference, REFERENCES)
    sampler = check_sampler(dpm_solver_pp() if sampler is None else sampler)
    tried = _check_horizons(denoise, horizons)
    num_held_out = round(held_out * len(data)) if reference == "data" else 0
    if reference == "data" and not 2 <= num_held_out <= len(data) - 2:
        raise ValueError(
            f"held_out must leave at least 2 rows on either side, got {held_out} of {len(data)} rows, "
            f"which is {num_held_out}."
        )
    parts = [data] if labels is None else by_labels(data, labels)
    families = (family,) if isinstance(family, Family) or not isinstance(family, Sequence) else tuple(family)
    if len(families) != 1 and (not families or _traced((key, denoise, data, tried))):
        raise ValueError(
            f"family must be one or, outside of jit, more, got {len(families)}: laws of several are of "
            "several types, and which is chosen must be known."
        )
    for own in families:
        check_fit(key, own, min(parts, key=len), denoise.schedule, tried)
    if labels is not None:
        labels = jnp.asarray(labels)
        denoise = denoise.given(labels)
    split_key, run_key, fit_key = jax.random.split(key, 3)
    fitted, judging = _split(split_key, len(data), num_held_out, num_samples)
    of_fitted, told = (None, None) if labels is None else (labels[fitted], labels[judging])
    horizons = jnp.asarray(tried, float)
    reference_key, run_key = jax.random.split(run_key)
    trial = make_trial(reference_key, denoise.at_rows(judging), data[judging], told, reference == "model")
    choices = []
    for number, own in enumerate(families):
        laws = _fits(fit_key, own, data[fitted], denoise.schedule, tried, of_fitted)
        choices.append(_choose(run_key, trial, number, laws, horizons, sampler, num_steps))
        checks.finite("the distance of each candidate", choices[-1].candidates.distance)
    if len(choices) == 1:
        return choices[0]
    candidates = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(own.candidates for own in choices))
    least = min(choices, key=lambda own: float(own.candidates.distance.min()))
    return least._replace(candidates=candidates)


def _traced(tree: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def _fits(
    key: Key,
    family: Family[Any],
    data: Array,
    schedule: Schedule,
    horizons: Array | np.ndarray,
    labels: Array | None,
) -> StartLaw | Labelled:
    """The laws of family at each horizon, stacked: one after another, or in one loop of a program's."""

    def fit(t: Time) -> StartLaw | Labelled:
        if labels is not None:
            return fit_labelled(key, family, by_labels(data, labels), schedule, t)
        return family.fit(key, data, schedule, t)

    if _traced((key, data, schedule, horizons)):
        return jax.lax.map(fit, jnp.asarray(horizons, float))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(fit, horizons))


@functools.partial(jax.jit, static_argnames=("n", "num_held_out", "num_samples"))
def _split(key: Key, n: int, num_held_out: int, num_samples: int) -> tuple[Array, Array]:
    """Numbers of the rows to be fitted, and of those that judge, again and again until they are num_samples.

    With none held out, all rows do both.
    """
    order = jax.random.permutation(key, n)
    judging = order[: num_held_out or n][:num_samples]
    return order[num_held_out:], jnp.tile(judging, max(1, num_samples // len(judging)))


@functools.partial(jax.jit, static_argnames="num_steps")
def _choose(
    key: Key, trial: Trial, family: int, laws: Any, horizons: Array, sampler: Sampler, num_steps: int
) -> Horizon:
    """The best of all candidates of a family, NaN where a distance is."""
    denoise, data, labels = trial.denoise, trial.data, trial.labels
    schedule, t_min = denoise.schedule, denoise.working_range[0]
    keys = jax.random.split(key, 2 + REPEATS)
    noise_key, start_keys, run_keys = keys[0], keys[1:-1], jax.random.split(keys[-1], 1 + REPEATS)

    def drawn(law: Any, key: Key) -> Array:
        if labels is not None:
            return law.given(labels).sample(key, len(data))
        return trial.stratified(key, law.sample)

    def distance(x: Array) -> Array:
        return trial.distance(trial.coordinates(x))

    def run(x: Array, times: Array, key: Key) -> Array:
        return integrate(key, denoise, x, times, sampler=sampler)

    def at(candidate: tuple[Any, Array]) -> tuple[Array, Array, Array, Array]:
        law, t = candidate
        grids = _grids(schedule, denoise.scale, t, t_min, num_steps)
        x = jax.lax.map(lambda key: drawn(law, key), start_keys)
        distances = jax.lax.map(lambda times: distance(run(x[0], times, run_keys[0])), grids)
        best = jnp.argmin(distances)
        noised = perturb(schedule, data, noise_like(noise_key, data), t)
        found = jax.lax.map(
            lambda one: trial.coordinates(run(one[0], grids[best], one[1])),
            (jnp.concatenate([x, noised[None]]), run_keys),
        )
        distances = distances.at[best].set(trial.distance(together(found[:-1])))
        return grids, distances, trial.distance(found[-1]), distance(x[0] / schedule.alpha(t))

    times, distances, from_data, no_steps = jax.lax.map(at, (laws, horizons))
    families = jnp.full(len(horizons), family)
    candidates = Candidates(families, horizons, times, distances, from_data, no_steps)
    horizon, grid = jnp.unravel_index(jnp.argmin(distances), distances.shape)
    inside = (horizons > t_min) & (horizons < last_time(denoise))
    good = (inside & jnp.isfinite(candidates.distance).all(axis=1)).all()

    def chosen(leaf: Array) -> Array:
        leaf = leaf[horizon]
        return jnp.where(good, leaf, jnp.nan) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    start = jax.tree.map(chosen, laws)
    return Horizon(chosen(horizons), start, chosen(candidates.times[:, grid]), candidates)


def _grids(schedule: Schedule, scale: Array | float, t_max: Time, t_min: Time, num_steps: int) -> Array:
    """All of (2) and (3), (grids, num_steps + 1), with no noise but the last below that of t_min."""
    first, least = (jnp.exp(-0.5 * log_snr(schedule, t)) for t in (t_max, t_min))
    # In terms of the last noise, (2) is a power law as well, and (3) one of no power.
    powers = jnp.asarray(_POWERS)
    ends = jnp.maximum(first * jnp.asarray(float(num_steps)) ** -powers, least)
    below = jnp.maximum(0.5 * first, jnp.sqrt(first * least))
    lasts = jnp.clip(scale * jnp.asarray(_LAST), least, below)
    part = jnp.arange(num_steps) / max(1, num_steps - 1)

    def by_power(power: Array, last: Array) -> Array:
        return (first ** (1 / power) + part * (last ** (1 / power) - first ** (1 / power))) ** power

    ratios = jnp.concatenate(
        [jax.vmap(by_power)(powers, ends), first * (lasts[:, None] / first) ** part[None]]
    )
    times = jax.vmap(
        jax.vmap(lambda ratio: inverse_log_snr(schedule, -2 * jnp.log(ratio), t_min=t_min, t_max=t_max))
    )(ratios)
    times = times.at[:, 0].set(t_max)
    return jnp.pad(times, ((0, 0), (0, 1)), constant_values=schedule.t_min)


def _check_horizons(denoise: Denoiser, horizons: Sequence[float] | Array | None) -> Array | np.ndarray:
    """The horizons in order."""
    t_min, t_end = denoise.working_range[0], last_time(denoise)
    if horizons is None:
        horizons = _default_horizons(denoise.schedule, denoise.scale, t_min, t_end)
    checks.shape("horizons", horizons, (None,))
    known, low, high = (checks.known(t) for t in (horizons, t_min, t_end))
    if known is None:
        return jnp.sort(jnp.asarray(horizons, float))
    known = np.sort(known)
    if low is not None and high is not None and not (known.size and low < known[0] <= known[-1] < high):
        raise ValueError(
            f"horizons must lie between {float(low):g} and {float(high):g}, the times at which this denoiser "
            f"works and noise is not all there is; got {known.tolist()}."
        )
    return known


@folded
@jax.jit
def _default_horizons(schedule: Schedule, scale: Array | float, t_min: Time, t_end: Time) -> Array:
    ratios = (jnp.exp(-0.5 * log_snr(schedule, t)) for t in (t_min, t_end))
    low, high = jnp.maximum(next(ratios), _LEAST * scale), jnp.minimum(next(ratios), _MOST * scale)
    inner = jnp.linspace(jnp.log(low), jnp.log(high), _NUM_HORIZONS + 2)[1:-1]
    return jax.vmap(lambda level: inverse_log_snr(schedule, level, t_min=t_min, t_max=t_end))(-2 * inner)
