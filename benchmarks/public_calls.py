"""Every public function that computes, as a call with inputs of its own, for `benchmarks.eager_calls`."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from experiments.networks import applied
from jaxdiff import bootstrap, data, ema, metrics, quantized, random_features, starts, theory, times
from jaxdiff.laws.labelled import Labelled
from jaxdiff.laws.shaped import Shaped
from jaxdiff.models import ResidualMLP
from jaxdiff.sampling.budget import ScoreCurvature
from jaxdiff.typing import Array, Denoised, Key, Params

SCHEDULE = jd.VariancePreserving()
CLASSES, COMPONENTS, LEVELS = 3, 3, 17

LEFT_OUT = {
    "a loop of the host's": ["fit_flow", "starts.flow", "train", "interruption", "inverse.learn_prior"],
    "one program for each label": ["fit_labelled_start", "starts.fit_labelled", "starts.by_labels"],
    "NumPy's, on the host": [
        "dip_score",
        "dip_scores",
        "ema.exponent",
        "ema.reconstruction_weights",
        "times.truncate",
    ],
    "what a call makes is a function or a value for later calls": [
        *("as_denoiser", "guided", "switched", "pytree", "init_state", "averaged", "make_train_step"),
        *("tilted", "rewarded", "composed", "joint", "inverse.linear", "inverse.mask"),
        *("jumps.guided", "jumps.rewarded"),
        *("projected", "projections.box", "projections.half_space", "projections.simplex"),
        *("projections.dynamic_threshold", "projections.equality", "projections.spectral", "witness"),
        *("inverse.mmps", "inverse.tmpd", "inverse.pigdm", "inverse.dps"),
        *("inverse.denoising_posterior", "inverse.diffpir", "inverse.linear_gaussian"),
        *("inverse.langevin", "inverse.ensemble_kalman", "inverse.projection"),
        *("ancestral", "dpm_solver_pp", "sde_dpm_solver_pp", "unipc", "deis"),
        *("starts.gaussian", "starts.gaussian_mixture", "starts.isotropic", "starts.plain", "starts.early"),
        *("starts.low_rank", "starts.factor_mixture"),
        *("starts.student_t_mixture", "ema.at", "ema.warm_up", "ema.power_function", "quantized.predictor"),
        *("conservative", "quantized.potential"),
        *("bootstrap.make_joint_step", "bootstrap.fit_levels"),
        *("linear_multistep", "fitted_multistep", "tune_sampler", "learn_sampler", "maps.halving"),
        *("make_flow_map", "maps.integrated_map", "maps.one_step_map"),
    ],
    "made once, of numbers that are known": [
        "denoiser_flops",
        *("linear_betas", "cosine_betas", "logarithmic_betas"),
        *("jumps.birth_death", "jumps.ordinal", "jumps.grid", "jumps.markov_chain"),
    ],
    "files, devices and their layout": [
        *(
            "restore",
            "save",
            "load_safetensors",
            "save_safetensors",
            "export_sampler",
            "load_sampler",
            "data_mesh",
            "data_parallel",
            "row_parallel",
            "ema.combine",
        ),
        *("data.digits", "data.photograph_patches"),
    ],
    "arithmetic of a few numbers, for the inside of a program": [
        *("discretized.left", "discretized.ddpm", "discretized.trapezoid", "data.bits_per_dimension"),
        *("weights.likelihood", "weights.min_snr", "weights.sigmoid", "weights.as_argument"),
        *("prediction.read", "prediction.solve", "prediction.determinant", "prediction.error_scale"),
        *("prediction.noise_level", "prediction.as_they_are", "prediction.check_type", "ema.check_decay"),
        *("starts.check_fit", "starts.sampling_error", "theory.martingale_constant", "theory.risk_bound"),
        "bootstrap.target_variance",
        *("jumps.path_cost", "jumps.jump_generator", "jumps.noise_generator", "jumps.simplex_generator"),
        *("jumps.bridge", "jumps.ratios", "jumps.reverse_step", "jumps.forward_rates", "jumps.reverse_rates"),
    ],
}
"""Public functions that are not measured, by the reason."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much there is to do in a call."""

    rows: int = 512
    dimension: int = 8
    width: int = 128
    steps: int = 32
    evaluations: int = 100


SMOKE = Size(rows=64, dimension=2, width=8, steps=4, evaluations=20)


class Inputs(NamedTuple):
    """All that a call is given beside its key, new every time, as it is given: a call does no more."""

    x: Array
    """Data, (rows, dimension), and y others."""
    y: Array
    noise: Array
    pixels: Array
    labels: Array
    s: Array
    """Times of the rows, each before its t."""
    t: Array
    first: Array
    """Two times, scalars."""
    last: Array
    grid: Array
    """Increasing times, (steps + 1,)."""
    falling: Array
    """The same, decreasing, and `whole_steps` a thousand times it."""
    whole_steps: Array
    betas: Array
    step: Array
    """A time of theirs."""
    few: Array
    """A few rows of x, and `pair` two of a path."""
    pair: Array
    images: Array
    """Half of x and y, (rows / 2, 2, dimension)."""
    mean: Array
    variances: Array
    """Of each entry of one point, (dimension,), and covariances of every component."""
    covariances: Array
    line: Array
    """One entry of x, (rows,), and other_line of y."""
    other_line: Array
    matrix: Array
    start: jd.Gaussian
    """A law at falling[0], and one of images."""
    shaped: Shaped
    labelled: Labelled
    params: Params
    map_params: Params
    class_params: Params
    features: random_features.RandomFeatures
    gaussian: jd.Gaussian
    mixture: jd.GaussianMixture
    student: jd.StudentTMixture
    factors: jd.FactorMixture
    curvature: ScoreCurvature
    path: Array


Call: TypeAlias = Callable[[Key, Inputs], Any]


def setting(size: Size) -> tuple[Callable[[Key], Inputs], dict[str, Call]]:
    """How inputs are made, and every public function as a call of them, by its name and what is beside it."""
    n, d, steps, budget = size.rows, size.dimension, size.steps, size.evaluations
    operator = jd.inverse.mask(np.arange(d) < 1)

    def first_entry(data: Array) -> Array:
        return data[:, 0]

    def of_first_entry(prior: jd.Denoiser, seen: Array) -> jd.Denoiser:
        return jd.inverse.mmps(prior, operator, seen, 0.3, num_iterations=1)

    plain = ResidualMLP(width=size.width, num_blocks=2)
    with_classes = ResidualMLP(width=size.width, num_blocks=2, num_classes=CLASSES)
    eye = jnp.eye(d)

    def of_features(model: random_features.RandomFeatures) -> jd.Denoiser:
        return jd.make_denoiser(random_features.predict, model, SCHEDULE, shape=(d,))

    @jax.jit
    def fresh(key: Key) -> Inputs:
        keys = iter(jax.random.split(key, 16))
        x, y, noise, means = (jax.random.normal(next(keys), (n, d)) for _ in range(4))
        low, high = (jax.random.uniform(next(keys), (n,), minval=a, maxval=a + 0.3) for a in (0.1, 0.5))
        jitter = 1 + 0.05 * jax.random.uniform(next(keys))
        weights, means = jnp.full(COMPONENTS, 1 / COMPONENTS), 0.5 * means[:COMPONENTS]
        covariances = jitter * 0.5 * jnp.broadcast_to(eye, (COMPONENTS, d, d))
        mixture = jd.GaussianMixture(weights, means, covariances)
        grid = 0.9 * jitter * jnp.linspace(0.02, 1.0, steps + 1)
        gaussian = jd.Gaussian(means[0], covariances[0])
        path = theory.forward_path(next(keys), SCHEDULE, x, grid)
        return Inputs(
            x=x,
            y=y,
            noise=noise,
            pixels=jax.random.randint(next(keys), (n, d), 0, LEVELS),
            labels=jax.random.randint(next(keys), (n,), 0, CLASSES),
            s=low,
            t=high,
            first=0.1 * jitter,
            last=0.9 * jitter,
            grid=grid,
            falling=grid[::-1],
            whole_steps=1000 * grid[::-1],
            betas=0.02 * grid,
            step=2 * jitter,
            few=x[:32],
            pair=path[:2],
            images=x.reshape(n // 2, 2, d),
            mean=x[0],
            variances=jnp.exp(y[0]),
            covariances=jnp.exp(y[:COMPONENTS]),
            line=x[:, 0],
            other_line=y[:, 0],
            matrix=0.9 * jitter * eye,
            start=gaussian.perturbed(SCHEDULE, grid[-1]),
            labelled=Labelled([gaussian] * CLASSES),
            shaped=Shaped(jd.Gaussian(jnp.zeros(2 * d), jitter), (2, d)),
            params=plain.init(next(keys), x[:1], low[:1]),
            map_params=plain.init(next(keys), x[:1], low[:1], s=low[:1]),
            class_params=with_classes.init(next(keys), x[:1], low[:1], jnp.zeros(1, int)),
            features=random_features.init(next(keys), d, 2 * d, bandwidth=2.0),
            gaussian=gaussian,
            mixture=mixture,
            factors=jd.FactorMixture(weights, means, covariances[..., :2], jnp.ones(COMPONENTS)),
            student=jd.StudentTMixture(weights, means, covariances, jnp.full(COMPONENTS, 5.0)),
            curvature=jd.score_curvature(next(keys), mixture.denoiser(SCHEDULE), x),
            path=path,
        )

    def model(i: Inputs) -> jd.Denoiser:
        return jd.make_denoiser(applied(plain), i.params, SCHEDULE, shape=(d,))

    def flow_map(i: Inputs) -> jd.FlowMap:
        return jd.make_flow_map(applied(plain), i.map_params, SCHEDULE, shape=(d,))

    # Networks of the sum of what they are shown, made once: another function is another program.
    def of_noise(params: Params, x: Array, t: Array, noise: Array) -> Array:
        return applied(plain)(params, x + noise, t)

    def of_x(params: Params, x: Array, t: Array, seen: tuple[Array, Array]) -> Array:
        return applied(plain)(params, x + seen[0], t)

    def generator(i: Inputs) -> jd.inverse.PosteriorGenerator:
        return jd.inverse.PosteriorGenerator(jd.make_denoiser(of_noise, i.params, SCHEDULE, shape=(d,)))

    def told_of_x(i: Inputs) -> jd.Denoiser:
        return jd.make_denoiser(of_x, i.params, SCHEDULE, shape=(d,))

    def classes(i: Inputs) -> jd.Denoiser:
        return jd.make_denoiser(
            applied(with_classes), i.class_params, SCHEDULE, shape=(d,), null_condition=CLASSES
        )

    def target(i: Inputs) -> Denoised:
        return Denoised(i.x, i.noise)

    def exact(i: Inputs) -> jd.Denoiser:
        return i.mixture.denoiser(SCHEDULE)

    def sampling(sampler: jd.Sampler) -> Call:
        return lambda key, i: jd.sample(key, model(i), n, sampler=sampler, num_steps=steps)

    def start(family: jd.Family) -> Call:
        return lambda key, i: jd.fit_start(key, family, i.x, SCHEDULE, i.last)

    def told(value: Array, tokens: Array, level: Array) -> Array:
        return value * jnp.ones((*tokens.shape, LEVELS)) * level[:, None, None]

    def first_token(tokens: Array) -> Array:
        return tokens[:, 0] / LEVELS

    def categories(i: Inputs) -> jd.jumps.CategoricalDenoiser:
        return jd.jumps.make_denoiser(told, i.last, jd.jumps.Uniform(LEVELS), shape=(d,))

    equal = jnp.full(steps + 1, 1.0)
    sizes = jnp.asarray([n])
    calls: dict[str, Call] = {
        # Denoisers
        "make_denoiser": lambda key, i: model(i)(i.x, i.t),
        "make_denoiser, one time": lambda key, i: model(i)(i.x, i.last),
        "make_denoiser, guided": lambda key, i: jd.guided(classes(i), 2.0).given(i.labels)(i.x, i.t),
        "ddpm_denoiser": lambda key, i: jd.ddpm_denoiser(applied(plain), i.params, i.betas, shape=(d,))(
            i.x, i.step
        ),
        "drop_condition": lambda key, i: jd.drop_condition(key, i.labels, CLASSES, 0.1),
        "convert": lambda key, i: jd.convert(
            SCHEDULE, i.x, i.y, i.last, source=jd.prediction.v, target=jd.prediction.noise
        ),
        "quantized.log_histogram": lambda key, i: quantized.log_histogram(i.pixels, levels=LEVELS),
        "quantized.quantized_target": lambda key, i: quantized.quantized_target(
            key, SCHEDULE, i.pixels, i.t, levels=LEVELS
        ),
        # Noising
        "perturb": lambda key, i: jd.perturb(SCHEDULE, i.x, i.noise, i.last),
        "transition": lambda key, i: jd.transition(SCHEDULE, i.first, i.last),
        "bridge": lambda key, i: jd.bridge(SCHEDULE, i.x, i.y, i.first, i.last),
        "sde": lambda key, i: jd.sde(SCHEDULE, i.last),
        "log_snr": lambda key, i: jd.log_snr(SCHEDULE, i.last),
        "inverse_log_snr": lambda key, i: jd.inverse_log_snr(SCHEDULE, i.first, t_min=0.1, t_max=i.last),
        "from_betas": lambda key, i: jd.from_betas(i.betas),
        "times.stratified": lambda key, i: times.stratified(key, n),
        "times.uniform": lambda key, i: times.uniform(i.t, t_min=i.first, t_max=i.last),
        "times.log_normal": lambda key, i: times.log_normal(i.t, SCHEDULE, t_min=i.first, t_max=i.last),
        "times.log_snr_uniform": lambda key, i: times.log_snr_uniform(
            i.t, SCHEDULE, t_min=i.first, t_max=i.last
        ),
        "times.power_grid": lambda key, i: times.power_grid(steps, t_min=i.first, t_max=i.last, rho=7.0),
        "times.noise_grid": lambda key, i: times.noise_grid(SCHEDULE, steps, t_min=i.first, t_max=i.last),
        "times.log_snr_grid": lambda key, i: times.log_snr_grid(SCHEDULE, steps, t_min=i.first, t_max=i.last),
        "times.gaussian_grid": lambda key, i: times.gaussian_grid(
            SCHEDULE, steps, variance=i.first, t_min=i.first, t_max=i.last
        ),
        "times.to_clean": lambda key, i: times.to_clean(SCHEDULE, i.falling),
        "times.whole": lambda key, i: times.whole(i.whole_steps),
        # Sampling
        "sample": sampling(jd.dpm_solver_pp()),
        "sample, Heun": sampling(jd.Heun()),
        "sample, ancestral": sampling(jd.ancestral()),
        "sample, PredictorCorrector": sampling(jd.PredictorCorrector()),
        "sample, Renoising": sampling(jd.Renoising()),
        "integrate_adaptively": lambda key, i: jd.integrate_adaptively(
            key, exact(i), i.x, t_max=i.last, t_min=i.first, tolerance=0.1
        ),
        "sample, from a start, on a grid": lambda key, i: jd.sample(
            key,
            exact(i),
            n,
            sampler=jd.EulerMaruyama(),
            times=i.falling,
            start=i.start,
        ),
        "sample, guided": lambda key, i: jd.sample(
            key, jd.guided(classes(i), 2.0).given(i.labels), n, num_steps=steps
        ),
        "inverse.split_gibbs": lambda key, i: jd.inverse.split_gibbs(
            key, exact(i), operator, i.x[0, :1], 0.3, n, noises=i.falling[:3], num_steps=4
        ),
        "inverse.daps": lambda key, i: jd.inverse.daps(
            key,
            exact(i),
            jd.inverse.linear_gaussian(operator, i.x[0, :1], 0.3),
            n,
            noises=i.falling[:3],
            num_steps=4,
        ),
        "inverse.draw_each": lambda key, i: jd.inverse.draw_each(
            key, exact(i), i.x[:, :1], of_first_entry, num_steps=steps
        ),
        "inverse.sample_generator": lambda key, i: jd.inverse.sample_generator(
            key, generator(i), n, num_calls=2
        ),
        "inverse.posterior_distillation_losses": lambda key, i: jd.inverse.posterior_distillation_losses(
            key, generator(i), exact(i), told_of_x(i), i.x, i.t
        ),
        "maps.gaussian_map": lambda key, i: jd.maps.gaussian_map(i.gaussian, SCHEDULE)(i.x, i.t, i.s),
        "maps.drawn_pairs": lambda key, i: jd.maps.drawn_pairs(key, flow_map(i), n),
        "maps.tangent_target": lambda key, i: jd.maps.tangent_target(key, flow_map(i), i.x, i.t, i.s),
        "maps.consistency_target": lambda key, i: jd.maps.consistency_target(
            key, flow_map(i), i.x, i.t, i.s, i.s
        ),
        "maps.composition_target": lambda key, i: jd.maps.composition_target(
            key, flow_map(i), i.x, i.t, i.s, i.s
        ),
        "maps.map_regression_loss": lambda key, i: jd.maps.map_regression_loss(
            flow_map(i), i.y, target(i), i.t, i.s
        ),
        "maps.mean_flow_loss": lambda key, i: jd.maps.mean_flow_loss(key, flow_map(i), i.x),
        "maps.continuous_consistency_loss": lambda key, i: jd.maps.continuous_consistency_loss(
            key, flow_map(i), i.x
        ),
        "maps.consistency_loss": lambda key, i: jd.maps.consistency_loss(key, flow_map(i), i.x, ratio=0.9),
        "maps.shortcut_loss": lambda key, i: jd.maps.shortcut_loss(key, flow_map(i), i.x),
        "maps.progressive_loss": lambda key, i: jd.maps.progressive_loss(
            key, flow_map(i), flow_map(i), i.x, times=i.falling
        ),
        "maps.moment_matching_loss": lambda key, i: jd.maps.moment_matching_loss(key, flow_map(i), i.x),
        "maps.reflow_pairs": lambda key, i: jd.maps.reflow_pairs(key, model(i), n, num_steps=steps),
        "maps.reflow_loss": lambda key, i: jd.maps.reflow_loss(key, model(i), target(i)),
        "maps.score_difference_loss": lambda key, i: jd.maps.score_difference_loss(
            i.x, i.y, exact(i), model(i), i.t
        ),
        "maps.score_distillation_loss": lambda key, i: jd.maps.score_distillation_loss(
            key, i.x, model(i), exact(i)
        ),
        "sample_map": lambda key, i: jd.sample_map(
            key, jd.maps.gaussian_map(i.gaussian, SCHEDULE), n, num_calls=4
        ),
        "particles.run": lambda key, i: jd.particles.run(
            key, jd.particles.Composed([exact(i)], [2.0]), n // 4, groups=4, times=i.falling
        ),
        "particles.best_of": lambda key, i: jd.particles.best_of(
            key,
            jd.particles.Twisted(exact(i), jax.tree_util.Partial(first_entry)),
            n // 4,
            4,
            times=i.falling,
        ),
        "particles.noised_path": lambda key, i: jd.particles.noised_path(key, exact(i), i.few, i.falling),
        "particles.gibbs": lambda key, i: jd.particles.gibbs(
            key,
            jd.particles.Twisted(exact(i), jax.tree_util.Partial(first_entry)),
            jd.particles.noised_path(key, exact(i), i.few, i.falling),
            i.falling,
            n=2,
        ),
        "integrate": lambda key, i: jd.integrate(key, model(i), i.x, i.falling),
        "integrate_path": lambda key, i: jd.integrate_path(key, model(i), i.x, i.falling),
        "initial_noise": lambda key, i: jd.initial_noise(key, model(i), n),
        "kl_budget": lambda key, i: jd.kl_budget(
            key, model(i), i.mixture, i.gaussian, i.falling, num_samples=n
        ),
        "score_curvature": lambda key, i: jd.score_curvature(key, model(i), i.x),
        "initialization_error": lambda key, i: jd.initialization_error(
            key, model(i), i.gaussian, i.x, i.last
        ),
        "discretization_error": lambda key, i: jd.discretization_error(i.curvature, i.falling),
        "optimal_grid": lambda key, i: jd.optimal_grid(i.curvature, steps, t_max=i.last, t_min=i.first),
        "choose_horizon": lambda key, i: jd.choose_horizon(
            key, starts.gaussian(), model(i), i.x, num_steps=steps
        ),
        "fit_start, plain": start(starts.plain()),
        "fit_start, isotropic": start(starts.isotropic()),
        "fit_start, gaussian": start(starts.gaussian()),
        "fit_start, gaussian_mixture": start(starts.gaussian_mixture(2, num_iterations=10)),
        "fit_start, student_t_mixture": start(starts.student_t_mixture(2, num_iterations=10)),
        "fit_start, low_rank": start(starts.low_rank(2)),
        "fit_start, factor_mixture": start(starts.factor_mixture(2, 2, num_steps=10)),
        "fit_start, early": start(starts.early(starts.gaussian(), 0.2)),
        # Jumps
        "jumps.make_denoiser": lambda key, i: categories(i)(i.pixels, i.t),
        "jumps.categorical": lambda key, i: jd.jumps.categorical(key, jnp.abs(i.x)),
        "jumps.perturb": lambda key, i: jd.jumps.perturb(key, jd.jumps.Masking(LEVELS), i.pixels, i.t),
        "jumps.share_uniform": lambda key, i: jd.jumps.share_uniform(
            i.t, jd.jumps.Cosine(), t_min=i.first, t_max=i.last
        ),
        "jumps.denoising_loss": lambda key, i: jd.jumps.denoising_loss(key, categories(i), i.pixels),
        "jumps.score_entropy": lambda key, i: jd.jumps.score_entropy(categories(i), i.pixels, i.pixels, i.t),
        "jumps.cross_entropy": lambda key, i: jd.jumps.cross_entropy(categories(i), i.pixels, i.pixels, i.t),
        "jumps.ratio_matching": lambda key, i: jd.jumps.ratio_matching(categories(i), i.pixels, i.t),
        "jumps.bootstrapped_target": lambda key, i: jd.jumps.bootstrapped_target(
            key, categories(i), i.pixels, i.first, i.last
        ),
        "jumps.sample": lambda key, i: jd.jumps.sample(key, categories(i), n, num_steps=steps),
        "jumps.integrate": lambda key, i: jd.jumps.integrate(key, categories(i), i.pixels, i.falling),
        "jumps.first_hitting": lambda key, i: jd.jumps.first_hitting(
            key, jd.jumps.make_denoiser(told, i.last, jd.jumps.Masking(LEVELS), shape=(d,)), n
        ),
        "jumps.draw_paths": lambda key, i: jd.jumps.draw_paths(key, categories(i), n, num_steps=steps),
        "jumps.particle_gibbs": lambda key, i: jd.jumps.particle_gibbs(
            key, categories(i), first_token, jnp.stack([i.pixels] * 3, axis=1)
        ),
        "jumps.steered": lambda key, i: jd.jumps.steered(
            key, categories(i), first_token, n // 4, groups=4, num_steps=steps
        ),
        "jumps.log_bound": lambda key, i: jd.jumps.log_bound(key, categories(i), i.pixels, num_times=4),
        # Densities
        "density_formula": lambda key, i: jd.density_formula(
            key, model(i), i.x, evaluations=jd.Evaluations(budget)
        ),
        "density_formula, a reference": lambda key, i: jd.density_formula(
            key, model(i), i.x, evaluations=jd.Evaluations(budget, reference=i.mixture)
        ),
        "log_density": lambda key, i: jd.log_density(key, model(i), i.x, num_evaluations=budget),
        "log_density_increment": lambda key, i: jd.log_density_increment(
            key, model(i), i.x, i.first, i.last, evaluations=jd.Evaluations(budget)
        ),
        "log_density_difference": lambda key, i: jd.log_density_difference(
            key, model(i), exact(i), i.x, evaluations=jd.Evaluations(budget)
        ),
        "telescoped_log_density": lambda key, i: jd.telescoped_log_density(
            key, [exact(i), model(i)], i.x, [jd.Evaluations(budget), jd.Evaluations(20)]
        ),
        "pilot_time_density": lambda key, i: jd.pilot_time_density(
            key, model(i), i.few, evaluations=jd.Evaluations(64)
        ),
        "noise_level_curve": lambda key, i: jd.noise_level_curve(
            key, model(i), i.few, i.grid, evaluations=jd.Evaluations(16 * (steps + 1))
        ),
        "rotation_curve": lambda key, i: jd.rotation_curve(key, model(i), i.few, i.grid),
        "probability_flow": lambda key, i: jd.probability_flow(key, model(i), i.x, num_probes=2),
        "probability_flow, on a grid": lambda key, i: jd.probability_flow(
            key, model(i), i.x, i.grid, start=i.gaussian
        ),
        "adaptive_probability_flow": lambda key, i: jd.adaptive_probability_flow(
            key, model(i), i.few, tolerance=1e-2, max_steps=64
        ),
        "elbo": lambda key, i: jd.elbo(key, model(i), i.x, i.grid, num_paths=2),
        "discretized_formula": lambda key, i: jd.discretized_formula(
            key, model(i), i.few, i.grid, evaluations=jd.Evaluations(12 * (steps + 1))
        ),
        "class_logits": lambda key, i: jd.class_logits(
            key, classes(i), i.few, num_classes=CLASSES, evaluations=jd.Evaluations(budget)
        ),
        # Laws
        "Gaussian": lambda key, i: jd.Gaussian(i.mean, i.variances),
        "GaussianMixture": lambda key, i: jd.GaussianMixture(
            i.mixture.weights, i.mixture.means, i.covariances
        ),
        "Shaped.log_prob": lambda key, i: i.shaped.log_prob(i.images),
        "fit_gaussian": lambda key, i: jd.fit_gaussian(i.x),
        "FactorMixture": lambda key, i: jd.FactorMixture(
            i.mixture.weights, i.mixture.means, i.factors.factors, i.factors.variances
        ),
        "fit_low_rank": lambda key, i: jd.fit_low_rank(i.x, 2),
        "fit_factor_mixture": lambda key, i: jd.fit_factor_mixture(key, i.x, 2, 2, num_steps=10),
        "fit_mixture": lambda key, i: jd.fit_mixture(key, i.x, 2, num_iterations=10),
        "fit_student_mixture": lambda key, i: jd.fit_student_mixture(key, i.x, 2, num_iterations=10),
        # Learning
        "denoising_target": lambda key, i: jd.denoising_target(key, SCHEDULE, i.x, i.t),
        "stable_target": lambda key, i: jd.stable_target(key, SCHEDULE, i.x, i.t),
        "bootstrapped_target": lambda key, i: jd.bootstrapped_target(key, model(i), i.x, i.s, i.t, mix=0.9),
        "bootstrap.half_noise_target": lambda key, i: bootstrap.half_noise_target(
            key, model(i), i.x, i.t, mix=0.9
        ),
        "bootstrap.half_noise_loss": lambda key, i: bootstrap.half_noise_loss(
            key, model(i), model(i), i.x, mix=0.9
        ),
        "bootstrap.earlier_time": lambda key, i: bootstrap.earlier_time(SCHEDULE, i.t, 0.5, t_min=i.first),
        "bootstrap.noise_correlation": lambda key, i: bootstrap.noise_correlation(SCHEDULE, i.first, i.last),
        "bootstrap.optimal_gate": lambda key, i: bootstrap.optimal_gate(i.first, i.last),
        "bootstrap.matrix_gate": lambda key, i: bootstrap.matrix_gate(i.first, i.matrix),
        "bootstrap.optimal_mix": lambda key, i: bootstrap.optimal_mix(i.first, i.last, 1.0),
        "denoising_loss": lambda key, i: jd.denoising_loss(key, model(i), i.x),
        "regression_loss": lambda key, i: jd.regression_loss(model(i), i.y, target(i), i.t),
        "implicit_loss": lambda key, i: jd.implicit_loss(model(i), i.x, i.t),
        "sliced_loss": lambda key, i: jd.sliced_loss(key, model(i), i.x, i.t),
        "rewards.reward_weights": lambda key, i: jd.rewards.reward_weights(i.line),
        "rewards.log_mean_loss": lambda key, i: jd.rewards.log_mean_loss(i.line, i.line),
        "rewards.adjoint_matching_target": lambda key, i: jd.rewards.adjoint_matching_target(
            key, model(i), exact(i), first_entry, n, times=i.falling
        ),
        "rewards.renoised_reward_target": lambda key, i: jd.rewards.renoised_reward_target(
            key, model(i), exact(i), first_entry, i.x, i.last
        ),
        "noisy_data_target": lambda key, i: jd.noisy_data_target(key, SCHEDULE, i.x, i.last, 0.1),
        "sure_loss": lambda key, i: jd.sure_loss(model(i), i.x, 0.5),
        "conservativity_loss": lambda key, i: jd.conservativity_loss(key, model(i), i.x, i.t),
        "score_regularizer": lambda key, i: jd.score_regularizer(key, model(i), i.x, i.t),
        "regularized_generator": lambda key, i: jd.regularized_generator(i.line, 0.1, i.last),
        "random_features.init": lambda key, i: random_features.init(key, d, 2 * d, bandwidth=i.last),
        "random_features.features": lambda key, i: random_features.features(i.features.frequencies, i.x),
        "random_features.predict": lambda key, i: random_features.predict(i.features, i.x, i.t),
        "random_features.fit": lambda key, i: random_features.fit(
            i.features, of_features, i.x, target(i), i.last, penalty=1e-3
        ),
        "random_features.ridge": lambda key, i: random_features.ridge(i.x, i.y, penalty=1e-3),
        "ema.updated": lambda key, i: ema.updated(i.params, i.params, 0.9),
        # Metrics
        "metrics.wasserstein_1d": lambda key, i: metrics.wasserstein_1d(i.line, i.other_line),
        "metrics.sliced_wasserstein": lambda key, i: metrics.sliced_wasserstein(
            key, i.x, i.y, num_projections=64
        ),
        "metrics.max_sliced_wasserstein": lambda key, i: metrics.max_sliced_wasserstein(
            key, i.x, i.y, num_starts=2, num_steps=10
        ),
        "metrics.energy_distance": lambda key, i: metrics.energy_distance(i.x, i.y),
        "metrics.mmd": lambda key, i: metrics.mmd(i.x, i.y),
        "metrics.frechet_distance": lambda key, i: metrics.frechet_distance(i.x, i.y),
        "metrics.classifier_two_sample_test": lambda key, i: metrics.classifier_two_sample_test(
            key, i.x, i.y, width=16, num_steps=10
        ),
        # Data
        "data.batch": lambda key, i: data.batch(key, i.x, 32),
        "data.epoch_batch": lambda key, i: data.epoch_batch(key, i.x, 32, 3),
        "data.dequantize": lambda key, i: data.dequantize(key, i.pixels, levels=LEVELS),
        "data.quantize": lambda key, i: data.quantize(i.x, levels=LEVELS),
        "data.two_moons": lambda key, i: data.two_moons(key, n),
        "data.eight_gaussians": lambda key, i: data.eight_gaussians(key, n),
        "data.checkerboard": lambda key, i: data.checkerboard(key, n),
        # Theory
        "score_error": lambda key, i: jd.score_error(key, model(i), i.mixture, i.grid, num_samples=n),
        "theory.forward_path": lambda key, i: theory.forward_path(key, SCHEDULE, i.x, i.grid),
        "theory.martingale_terms": lambda key, i: theory.martingale_terms(
            model(i), exact(i), i.x, i.path, i.grid, weights=equal
        ),
        "theory.empirical_risk": lambda key, i: theory.empirical_risk(
            model(i), i.x, i.path, i.grid, weights=equal
        ),
        "theory.minimize_risk": lambda key, i: theory.minimize_risk(
            of_features,
            jax.tree.map(lambda leaf: leaf[None], i.features),
            i.x,
            i.path,
            i.grid,
            sizes=sizes,
            weights=equal,
        ),
        "theory.posterior_covariance": lambda key, i: theory.posterior_covariance(model(i), i.x, i.last),
        "theory.increment_covariance": lambda key, i: theory.increment_covariance(
            model(i), i.pair, i.x, i.first, i.last
        ),
        "theory.cluster_constants": lambda key, i: theory.cluster_constants(
            SCHEDULE, i.grid, radius=i.last, std=i.first
        ),
        "theory.martingale_bound": lambda key, i: theory.martingale_bound(SCHEDULE, i.grid, equal, i.grid),
        "theory.increment_constants": lambda key, i: theory.increment_constants(SCHEDULE, i.grid, i.first),
    }
    laws: dict[str, Callable[[Inputs], Any]] = {
        "Gaussian": lambda i: i.gaussian,
        "GaussianMixture": lambda i: i.mixture,
        "StudentTMixture": lambda i: i.student,
        "FactorMixture": lambda i: i.factors,
        "Empirical": lambda i: jd.Empirical(i.x),
    }
    for name, law in laws.items():
        calls[f"{name}.sample"] = lambda key, i, law=law: law(i).sample(key, n)
        calls[f"{name}.denoiser"] = lambda key, i, law=law: law(i).denoiser(SCHEDULE)(i.y, i.t)
        calls[f"{name}.perturbed"] = lambda key, i, law=law: law(i).perturbed(SCHEDULE, i.last)
        if name != "Empirical":
            calls[f"{name}.log_prob"] = lambda key, i, law=law: law(i).log_prob(i.x)
    calls["Labelled.denoiser"] = lambda key, i: i.labelled.denoiser(SCHEDULE).given(i.labels)(i.x, i.t)
    return fresh, calls
