"""Fits the coefficients of `jd.fitted_multistep`: once, on random laws, none of them of the league.

    python -m benchmarks.solver_coefficients [--tables TABLE ...] [--calls K ...] [--out FILE]

For each number of calls the times, the times of the calls and the weights begin as those of `deis(3)` on the
grid of rho = 7 and fall by Adam along the gradient, through the sampler, of

    mean over laws of log mean |sample - exact flow|^2,   at sigma = .02 s and at 0 together,            (1)

s being a law's scale. The logarithm makes every law count alike, however hard it is. Laws are drawn anew for
this from other generators than the league's: their means, weights, widths, numbers of components, dimensions
and guidance. Half of them begin at sigma = 20 s, half at 80 s, so that the first step depends on neither.
A quarter of the laws is held out, and what is printed is (1) on these, before and after.

The table "near" is of laws in 1 to 32 dimensions, "far" of laws in 64 to 256, whose modes are further apart,
and so part at higher noise; half of these have scales that fall as a power of the coordinate, as those of
images do along their components.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from jaxdiff.sampling import fitted
from jaxdiff.sampling.fitted import CALLS, LEFT, Coefficients, Modes

SCHEDULE = jd.Karras()
BEGIN = (20.0, 80.0)
LAWS, HELD_OUT = 24, 6
ROWS, STEPS = {"near": 24, "far": 8}, {"near": 1200, "far": 600}


class Posed(NamedTuple):
    """Laws of one family, stacked: their denoisers, starts, and where the flow takes these."""

    denoise: jd.Denoiser
    x: jax.Array
    begin: jax.Array
    left: jax.Array
    """At sigma = `LEFT` s."""
    clean: jax.Array


def _parts(draw: np.random.Generator, d: int, count: int, low: float, high: float) -> tuple[np.ndarray, ...]:
    """Weights, means, and variances with standard deviations log-uniform from low to high, each its own."""
    means = draw.standard_normal((count, d)) * draw.uniform(0.5, 1.5)
    std = np.exp(draw.uniform(np.log(low), np.log(high), (count, d)))
    return draw.dirichlet(np.full(count, 2.0)), means, std**2


def _plain(d: int, count: int, low: float, high: float, draw: np.random.Generator) -> tuple[Any, Any]:
    law = jd.GaussianMixture(*_parts(draw, d, count, low, high))
    return law.denoiser(SCHEDULE), law


def _tails(d: int, draw: np.random.Generator) -> tuple[Any, Any]:
    means, variances = draw.standard_normal((3, d)), np.exp(draw.uniform(-5.0, -0.7, (3, d)))
    law = jd.StudentTMixture(draw.dirichlet(np.full(3, 2.0)), means, variances, 4.0)
    return law.denoiser(SCHEDULE), law


def _guided(d: int, strength: float, draw: np.random.Generator) -> tuple[Any, Any]:
    one, other = (_parts(draw, d, count, 0.1, 0.7) for count in (3, 6))
    both = [np.concatenate(parts) for parts in zip(one, other, strict=True)]
    both[0] = np.concatenate([0.3 * one[0], 0.7 * other[0]])
    law, of_all = jd.GaussianMixture(*one), jd.GaussianMixture(*both)
    return jd.guided(law.denoiser(SCHEDULE), strength, unconditional=of_all.denoiser(SCHEDULE)), law


def _falling(d: int, count: int, strength: float, draw: np.random.Generator) -> tuple[Any, Any]:
    """The coordinates' scales fall as a power; guided by a strength away from as many components again."""
    weights, means, variances = _parts(draw, d, 2 * count, 0.1, 0.7)
    fall = np.arange(1.0, d + 1) ** -draw.uniform(0.3, 1.0)
    fall = fall / np.sqrt(np.mean(fall**2))
    both = weights, means * fall, variances * fall**2
    one = jd.GaussianMixture(weights[:count] / weights[:count].sum(), *(part[:count] for part in both[1:]))
    other = jd.GaussianMixture(*both).denoiser(SCHEDULE)
    return jd.guided(one.denoiser(SCHEDULE), strength, unconditional=other), one


Family = Callable[[np.random.Generator], tuple[Any, Any]]
FAMILIES: dict[Modes, tuple[Family, ...]] = {
    "near": (
        functools.partial(_plain, 1, 4, 0.05, 0.5),
        functools.partial(_plain, 2, 4, 0.05, 0.5),
        functools.partial(_plain, 2, 16, 0.04, 0.3),
        functools.partial(_plain, 8, 6, 0.05, 0.7),
        functools.partial(_plain, 32, 8, 0.05, 0.7),
        functools.partial(_tails, 8),
        functools.partial(_guided, 3, 3.0),
        functools.partial(_guided, 12, 2.0),
    ),
    "far": (
        functools.partial(_plain, 64, 8, 0.05, 0.7),
        functools.partial(_plain, 128, 4, 0.05, 0.7),
        functools.partial(_plain, 256, 6, 0.05, 0.7),
        functools.partial(_falling, 64, 8, 1.0),
        functools.partial(_falling, 256, 4, 1.0),
        functools.partial(_falling, 128, 4, 3.0),
    ),
}


def posed(modes: Modes, family: int, laws: int, rows: int) -> Posed:
    """So many laws of a family of a table, with the exact flow of as many rows each."""

    @jax.jit
    def flow(denoise: jd.Denoiser, x: jax.Array, begin: jax.Array) -> tuple[jax.Array, jax.Array]:
        solver, end, key = jd.ExponentialRungeKutta(4), LEFT * denoise.scale, jax.random.key(0)
        grid = jd.times.power_grid(150, t_max=begin, t_min=end, rho=7.0)
        left = jd.integrate(key, denoise, x, grid, sampler=solver)
        rest = jd.times.power_grid(30, t_max=end, t_min=0.02 * end, rho=7.0)
        near = jd.integrate(key, denoise, left, rest, sampler=solver)
        return left, denoise(near, rest[-1]).data

    made = []
    for i in range(laws):
        draw = np.random.default_rng([family, i] if modes == "near" else [family, i, 1])
        denoise, law = FAMILIES[modes][family](draw)
        begin = jnp.asarray(BEGIN[i % 2]) * denoise.scale
        x = law.sample(jax.random.key(i), rows)
        x = x + begin * draw.standard_normal(x.shape)
        made.append(Posed(denoise, x, begin, *flow(denoise, x, begin)))
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *made)


def loss(made: Coefficients, task: Posed) -> jax.Array:
    """(1) of one law."""
    denoise, x, s = task.denoise, task.x, task.denoise.scale
    first = denoise(x, task.begin)
    y, calls = first.data + s * made.ratios[0] * first.noise, made.weights.shape[1]
    values = jnp.zeros((calls, *x.shape), x.dtype).at[0].set(first.noise)
    ends = jnp.append(made.ratios[1:], LEFT)

    def step(carry: Any, at: Any) -> tuple[Any, None]:
        (y, values), (k, call, move, row) = carry, at
        values = values.at[k].set(denoise(y, s * call).noise)
        return (y + s * move * jnp.tensordot(row, values, 1), values), None

    at = (jnp.arange(1, calls), made.calls, ends - made.ratios, made.weights[1:-1])
    (y, values), _ = jax.lax.scan(step, (y, values), at)
    clean = y - s * LEFT * jnp.tensordot(made.weights[-1], values, 1)
    rests = (jnp.mean((y - task.left) ** 2), jnp.mean((clean - task.clean) ** 2))
    return 0.5 * (jnp.log(rests[0]) + jnp.log(rests[1]))


def built(params: dict[str, jax.Array]) -> Coefficients:
    """Falling ratios, and rows of weights that add up to one."""
    parts = jnp.cumsum(jax.nn.softmax(params["gaps"]))[:-1]
    ratios = BEGIN[0] * (LEFT / BEGIN[0]) ** parts
    weights = params["weights"]
    calls = weights.shape[1]
    ends = np.minimum(np.arange(calls + 1), calls - 1)  # the column that makes up each row's sum
    below = jnp.where(np.arange(calls)[None] < ends[:, None], weights, 0.0)
    weights = below + jnp.eye(calls)[ends] * (1 - below.sum(1, keepdims=True))
    return Coefficients(ratios, ratios * jnp.exp(params["shifts"]), weights)


def begun(calls: int) -> dict[str, jax.Array]:
    """`deis(3)` on the grid of rho = 7."""
    grid = jd.times.power_grid(calls, t_max=BEGIN[0], t_min=LEFT, rho=7.0)
    weights = jd.linear_multistep(jd.deis(3), SCHEDULE, grid).weights
    gaps = jnp.log(-jnp.diff(jnp.log(grid)))
    return {"gaps": gaps, "shifts": jnp.zeros(calls - 1), "weights": jnp.concatenate([weights, weights[-1:]])}


def fit(calls: int, tasks: list[Posed], steps: int, learning_rate: float = 0.02) -> tuple[Coefficients, Any]:
    """The coefficients, and (1) before and after on the laws that are held out, a mean over the families."""

    def part(held_out: bool) -> list[Posed]:
        kept = slice(None, HELD_OUT) if held_out else slice(HELD_OUT, None)
        return [jax.tree.map(lambda leaf: leaf[kept], task) for task in tasks]

    def mean(params: dict[str, jax.Array], tasks: list[Posed]) -> jax.Array:
        made = built(params)
        each = [jnp.mean(jax.vmap(lambda task: loss(made, task))(task)) for task in tasks]
        return sum(each) / len(each)  # type: ignore[return-value]

    rate = optax.cosine_decay_schedule(learning_rate, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))

    @jax.jit
    def run(params: Any, tasks: list[Posed]) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(mean)(params, tasks), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)[0][0]

    before = begun(calls)
    after = run(before, part(held_out=False))
    judge = jax.jit(mean)
    return built(after), [float(judge(params, part(held_out=True))) for params in (before, after)]


def main(
    out: pathlib.Path,
    tables: Sequence[Modes] = tuple(FAMILIES),
    calls: Sequence[int] | None = None,
    steps: int | None = None,
    laws: int = LAWS,
) -> dict[tuple[str, int], list[float]]:
    """Fit, print and write; tables and numbers of calls that are in the file and not asked for stay."""
    found = {}
    for modes in tables:
        tasks = [posed(modes, family, laws, ROWS[modes]) for family in range(len(FAMILIES[modes]))]
        for number in calls or CALLS[modes]:
            made, found[modes, number] = fit(number, tasks, steps or STEPS[modes])
            before, after = np.exp(0.5 * np.array(found[modes, number]))
            print(
                f"{modes}, {number} calls, on laws held out: {before:.4f} before, {after:.4f} fitted",
                flush=True,
            )
            known = json.loads(out.read_text()) if out.exists() else {}
            table = known.setdefault(modes, {})
            table[str(number)] = {
                name: np.round(np.asarray(value), 7).tolist() for name, value in made._asdict().items()
            }
            known[modes] = {k: table[k] for k in sorted(table, key=int)}
            out.write_text(json.dumps(known) + "\n")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=tuple(FAMILIES), default=tuple(FAMILIES))
    parser.add_argument("--calls", nargs="+", type=int, help="by default all that a table has")
    parser.add_argument("--out", type=pathlib.Path, default=fitted.TABLES)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    main(arguments.out, arguments.tables, arguments.calls)
