"""A trained model's log-densities of held-out digits: the formula, the flow and the evidence lower bound.

The model is that of `experiments.quickstart`, trained here unless its directory holds it already. For the
same dequantized test images, in nats of x in [0, 1]^64, all from noise sigma = 3e-4 to 5 and the Gaussian of
the data as start and as reference:

    formula         `density_formula`, without extrapolation: the evidence lower bound in continuous time
    elbo            of the reverse chain on a grid even in log-SNR, with the covariance of that Gaussian
    flow            of the probability flow, exact trace
    flow, probes    the same with Hutchinson's trace, as the main job reports it

The first two are of one law, up to the grid of the second; the third is of another, since a learned denoiser
is not quite that of any law, and can be on either side. Beside each mean: its standard error by the method's
own noise, and the wall time of the whole set. Beside the differences, which are over the same images: their
standard errors, noise included. The formula gets as many evaluations as bring the mean to 0.1 nats, where the
noise levels' density comes from a pilot on training images (not in its time, about as long).

Expect the first two to agree, and the flow to be above them by 1 to 2 nats. MEASURED (a core of an AMD
EPYC, jax 0.10.2, 2026-11-29; 505 s, training not included; over images the standard error is .55):

    formula           98.58 +- 0.10 nats       11 s
    elbo              98.54 +- 0.08            52 s
    flow             100.19                   370 s
    flow, probes     100.23 +- 0.12            38 s

With 60 evaluations and no pilot the formula gave 99.2 +- 1.3 in 3.7 s.
"""

import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments import quickstart
from experiments.image_problems import SCHEDULE, Problem
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.densities.elbo import elbo
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.flow import LogDensity, probability_flow
from jaxdiff.densities.formula import TimeDensity, density_formula, pilot_time_density
from jaxdiff.noising import times

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class Config:
    """What is evaluated, and how finely."""

    model: quickstart.Config = quickstart.CONFIGS["digits"]
    run: str = "results/quickstart-digits"  # where the trained model is, or is put; "" for a passing one
    rows: int = 360
    evaluations: int = 320
    pilot_evaluations: int = 1024  # on each of 32 training images
    chain_steps: int = 1000
    flow_steps: int = 32
    probes: int = 4
    exact: bool = True  # the trace of the flow too: as many products with the Jacobian as dimensions, a step


def smoke() -> Config:
    """A model of twenty steps, a few images."""
    return Config(
        model=quickstart.smoke(),
        run="",
        rows=6,
        evaluations=800,
        pilot_evaluations=256,
        chain_steps=400,
        flow_steps=4,
        probes=2,
    )


def run(config: Config) -> dict[str, Any]:
    """Mean log-densities, and their differences to the formula's over the same images."""
    problem, denoise = quickstart.trained(config.model, config.run)
    return {"config": dataclasses.asdict(config)} | compare(config, problem, denoise)


def compare(config: Config, problem: Problem, denoise: Denoiser) -> dict[str, Any]:
    """A row for each method, over the same held-out images, in nats of the model's x."""
    encode_key, pilot_key, *keys = jax.random.split(jax.random.key(1), 6)
    x = problem.encode(encode_key, problem.test[: config.rows])
    t_min, t_max = problem.flow_t_min, problem.t_max
    start = problem.law.perturbed(SCHEDULE, t_max)
    shared = {"denoise": denoise, "x": x, "start": start}

    def grid(num_steps: int) -> jax.Array:
        return times.log_snr_grid(SCHEDULE, num_steps, t_max=t_max, t_min=t_min)[::-1]

    # The edges of the levels are seen at a hundredth of the images' own noise: even strata would miss them.
    time_density = pilot_time_density(
        pilot_key,
        denoise,
        problem.encode(pilot_key, problem.train[:32]),
        evaluations=Evaluations(
            config.pilot_evaluations, reference=problem.law, time_density=TimeDensity(problem.law.scale)
        ),
        num_bins=64,
    )
    flow = functools.partial(probability_flow, **shared, times=grid(config.flow_steps))
    methods = {
        "formula": functools.partial(
            density_formula,
            **shared,
            evaluations=Evaluations(config.evaluations, reference=problem.law, time_density=time_density),
            extrapolate=False,
        ),
        "elbo": functools.partial(
            elbo,
            **shared,
            times=grid(config.chain_steps),
            num_paths=2,
            data_covariance=problem.law.covariance,
        ),
        **({"flow": flow} if config.exact else {}),
        "flow, probes": functools.partial(flow, num_probes=config.probes),
    }
    nats, rows = {}, []
    for (name, method), key in zip(methods.items(), keys, strict=False):
        compiled = jax.jit(method).lower(key).compile()
        began = time.monotonic()
        answer: LogDensity = jax.block_until_ready(compiled(key))
        seconds = time.monotonic() - began
        nats[name] = np.asarray(answer.value, np.float64)
        difference = nats[name] - nats["formula"]
        rows.append(
            {
                "method": name,
                "nats": float(nats[name].mean()),
                "standard_error": float(np.sqrt(np.mean(np.square(answer.standard_error)) / len(x))),
                "seconds": seconds,
                "less_formula": float(difference.mean()),
                "less_formula_standard_error": float(difference.std(ddof=1) / len(x) ** 0.5),
            }
        )
    return {
        "rows": rows,
        "over_images_standard_error": float(nats["formula"].std(ddof=1) / len(x) ** 0.5),
        "values": {name: values.tolist() for name, values in nats.items()},
    }


def table(figures: dict[str, Any]) -> str:
    """A line for each method."""
    lines = [f"{'':14s}{'held-out nats':>20s}{'less the formula':>22s}{'seconds':>10s}"]
    for row in figures["rows"]:
        lines.append(
            f"{row['method']:14s}{row['nats']:11.3f} +- {row['standard_error']:.3f}"
            f"{row['less_formula']:+13.3f} +- {row['less_formula_standard_error']:.3f}{row['seconds']:10.1f}"
        )
    lines.append(f"over images the standard error is {figures['over_images_standard_error']:.2f}")
    return "\n".join(lines)


def draw(figures: dict[str, Any], axes: "Axes") -> None:
    """Each image by the formula and by the flow."""
    flow, formula = figures["values"]["flow"], figures["values"]["formula"]
    axes.plot(flow, formula, ".", markersize=3)
    ends = [min(flow), max(flow)]
    axes.plot(ends, ends, linewidth=0.8)
    axes.set(xlabel="probability flow, nats", ylabel="density formula, nats", title="held-out digits")
