"""Bad input is refused before any work on the batch, by an error that says what was got and what was wanted.

A table of mistakes: what was done, and the words of the error. Those of files, feeds, networks and runs are
next to what they need to be made.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff import models, theory
from jaxdiff.denoising import prediction, quantized
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.densities import flow
from jaxdiff.guidance.classifier_free import guided
from jaxdiff.laws import fitting, metrics
from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.learning import losses, targets, training, weights
from jaxdiff.noising import process, schedules, times
from jaxdiff.sampling.ddim import DDIM
from jaxdiff.sampling.driver import initial_noise, integrate
from jaxdiff.sampling.driver import sample as sample_from_noise
from jaxdiff.sampling.euler_maruyama import EulerMaruyama
from jaxdiff.sampling.exponential_adams import dpm_solver_pp
from jaxdiff.sampling.heun import Heun
from jaxdiff.sampling.predictor_corrector import PredictorCorrector
from jaxdiff.typing import Denoised

KEY = jax.random.key(0)
VP, FLOW, KARRAS = schedules.VariancePreserving(), schedules.RectifiedFlow(), schedules.Karras()
X = jnp.ones((4, 3))
INTEGERS = jnp.ones((4, 3), int)
NAN = X.at[1, 2].set(jnp.nan)
FALLING = jnp.asarray([0.9, 0.5, 0.1])
U = jnp.full(5, 0.5)
PLANE, SPACE = Gaussian(jnp.zeros(2), 1.0), Gaussian(jnp.zeros(3), 1.0)
LEVELS = jnp.log(jnp.full((3, 4), 0.25))
TABLE = schedules.from_betas(jnp.full(10, 0.1))


def known(answer, schedule=VP, shape=(3,)):
    """The denoiser of a function, at all times of the schedule."""
    t_max = min(schedule.t_max, 80.0)
    return as_denoiser(answer, schedule, shape=shape, t_min=max(schedule.t_min, 0.0), t_max=t_max)


def sample(answer, x=X, grid=FALLING, schedule=VP):
    return integrate(KEY, known(answer, schedule), x, jnp.asarray(grid), sampler=Heun())


def flow_of(answer, x=X, grid=FALLING[::-1], schedule=VP, **options):
    return flow.probability_flow(KEY, known(answer, schedule), x, jnp.asarray(grid), **options)


def regress(answer, x=X, target=None, t=0.5, **options):
    denoise = made(answer, **options)
    return losses.regression_loss(denoise, x, target or Denoised(x, x), t)


def made(answer, **options):
    options = {"schedule": VP, "shape": (3,), **options}
    return make_denoiser(lambda params, x, t: answer(x, t).noise, None, **options)


def answering(*shape):
    return lambda params, x, t: jnp.zeros(shape)


def level_denoiser(network, x=X):
    predict = quantized.predictor(network, LEVELS)
    shape = x.shape[1:]
    return make_denoiser(predict, None, VP, shape=shape, prediction=quantized.prediction)(x, 0.5)


def quantized_target(pixels=INTEGERS, t=U[:4], levels=4):
    return quantized.quantized_target(KEY, VP, pixels, t, levels=levels)


def untouched(*_):
    pytest.fail("the denoiser, or the network, was called or traced on bad input")


def unbound(params, x, t):
    return 0 * x


def answered(predict=unbound, **options):
    return make_denoiser(predict, None, VP, shape=(3,), **options)(X, 0.5)


def weighted(weight):
    return losses.regression_loss(made(untouched), X, Denoised(X, X), 0.5, weight=weight)


NETWORK = models.ResidualMLP(width=8, num_blocks=0)
STATE = training.TrainState(jnp.zeros((), int), {}, None, ())
KNOWN = make_denoiser(unbound, None, KARRAS, shape=(3,))
MAP = jd.maps.gaussian_map(SPACE, VP)
GENERATOR = jd.inverse.PosteriorGenerator(KNOWN)
EMPTY = X[:0]
LINEAR = jd.LinearMultistep(FALLING, FALLING[:-1], jnp.eye(2))
POINT = Gaussian(jnp.zeros(3), 0.0)
TOKENS, UNMASKED = (
    jd.jumps.make_denoiser(lambda params, x, level: jnp.zeros((*x.shape, 4)), None, process, shape=(3,))
    for process in (jd.jumps.Masking(4), jd.jumps.Uniform(4))
)
LABELLED = jd.Labelled([SPACE, Gaussian(jnp.ones(3), 2.0)])


class PlainSampler:
    def init(self, x):
        pytest.fail("was called")

    step = init


@jd.pytree
@dataclasses.dataclass(frozen=True)
class BareSampler:
    def init(self, x):
        return x

    def step(self, key, denoise, state, t, s):
        return state


class PlainSchedule:
    t_min, t_max, working_range = 0.0, 1.0, (0.001, 1.0)

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


@jd.pytree
@dataclasses.dataclass(frozen=True)
class ScheduleOfMath(PlainSchedule):
    def alpha(self, t):
        return math.cos(t)


@jd.pytree
@dataclasses.dataclass(frozen=True)
class ScheduleOfVectors(PlainSchedule):
    def alpha(self, t):
        return jnp.stack([1 - t, 1 - t])


@jd.pytree
@dataclasses.dataclass(frozen=True)
class ScheduleOfNumbers(PlainSchedule):
    def alpha(self, t):
        return 1

    t_max, working_range = 80.0, (0.002, 80.0)


# What was done, and the words that must be said of it.
# fmt: off
MISTAKES = [
    # process, weights and schedules
    ("perturb: noise of another shape", lambda: process.perturb(VP, X, X[:, :2], 0.5),
     ValueError, r"data and noise must have one shape, got \(4, 3\) and \(4, 2\)"),
    ("convert: prediction of another shape", lambda: prediction.convert(VP, X[:2], X, 0.5, source=prediction.v, target=prediction.data),
     ValueError, r"prediction and x must have one shape, got \(2, 3\) and \(4, 3\)"),
    ("edm: no spread", lambda: prediction.EDM(0.0), ValueError, "data_std must be positive"),
    ("edm: negative", lambda: prediction.EDM(data_std=-0.5), ValueError, "got -0.5"),
    ("min_snr: gamma 0", lambda: weights.min_snr(0.0), ValueError, "gamma must be positive"),
    ("vp: rate 0", lambda: schedules.VariancePreserving(0.0), ValueError, "beta_min must be positive"),
    ("sub-vp: negative rate", lambda: schedules.SubVariancePreserving(0.1, -2.0),
     ValueError, r"beta_max must be positive and finite, got -2"),
    ("ve: upside down", lambda: schedules.VarianceExploding(50.0, 0.01),
     ValueError, "sigma_min must be below sigma_max, got sigma_min = 50.0"),
    ("from_betas: empty", lambda: schedules.from_betas(jnp.zeros(0)), ValueError, "number of betas"),
    ("perturb: a time for each row", lambda: process.perturb(schedules.Karras(), jnp.ones((3, 3)), jnp.ones((3, 3)), jnp.ones(3)),
     ValueError, r"t must have shape \(\), got \(3,\)"),
    ("ve: sigma 0", lambda: schedules.VarianceExploding(0.0), ValueError, "sigma_min must be positive"),
    ("ve: infinite", lambda: schedules.VarianceExploding(sigma_max=np.inf),
     ValueError, "sigma_max must be positive and finite, got inf"),
    ("cosine: shift", lambda: schedules.Cosine(-1.0), ValueError, "shift must be positive"),
    ("betas of 1", lambda: schedules.from_betas(jnp.asarray([0.1, 1.0, 0.1])),
     ValueError, "betas must lie strictly between 0 and 1, but for a last one of 1; got 0.1 to 1"),
    ("betas of 0", lambda: schedules.from_betas(jnp.zeros(3)), ValueError, "betas must lie strictly"),
    ("betas: table", lambda: schedules.from_betas(U[:, None]), ValueError, r"betas must have shape \(any,\)"),
    # laws, fits and metrics; more of each are in its own file
    ("gaussian: negative", lambda: Gaussian(np.zeros(2), -1.0), ValueError, "no negative eigenvalue"),
    ("mixture: negative", lambda: GaussianMixture([1.0], np.zeros((1, 2)), [[1.0, -1.0]]),
     ValueError, "no negative eigenvalue, got one of -1"),
    ("student: noise", lambda: StudentTMixture([1.0], np.zeros((1, 2)), [1.0], 3.0, -0.5),
     ValueError, "noise_variance must lie in"),
    ("empirical: NaN", lambda: Empirical(NAN), ValueError, r"points has 1 non-finite of 12 .* \(1, 2\)"),
    ("fit: covariance", lambda: fitting.fit_gaussian(X, covariance="diag"),
     ValueError, "covariance must be one of 'full', 'diagonal', 'isotropic'; got 'diag'"),
    ("fit: few points", lambda: fitting.fit_mixture(KEY, X, 5), ValueError, "got 4 rows for 5 components"),
    ("fit: rank", lambda: jd.fit_low_rank(np.eye(4)[:, :3], 3), ValueError, "rank must be less than the 3 entries of a row"),
    ("fit: rows", lambda: jd.fit_factor_mixture(KEY, X, 5, 1), ValueError, "got 4 rows for 5 components"),
    ("factors: variances", lambda: jd.FactorMixture([1.0], np.zeros((1, 2)), np.ones((1, 2, 1)), [0.0]),
     ValueError, "variances must be positive"),
    ("metric: other d", lambda: metrics.energy_distance(X, X[:, :2]),
     ValueError, r"one dimension, got shapes \(4, 3\) and \(4, 2\)"),
    # times
    ("stratified: none", lambda: times.stratified(KEY, 0), ValueError, "n must be an integer of at least 1"),
    ("uniform: u is a time", lambda: times.uniform(80 * U, t_min=0.1, t_max=1.0),
     ValueError, r"u must lie in \[0, 1\], got \[40"),
    ("uniform: order", lambda: times.uniform(U, t_min=1.0, t_max=0.5),
     ValueError, "t_min must be below t_max, got t_min = 1.0 and t_max = 0.5"),
    ("log_normal: std", lambda: times.log_normal(U, KARRAS, std=0.0), ValueError, "std must be positive"),
    ("log_normal: integers", lambda: times.log_normal(jnp.arange(2), KARRAS), TypeError, "u must be .* got int32"),
    ("log_snr_uniform: t = 1", lambda: times.log_snr_uniform(U, FLOW, t_min=0.1, t_max=1.0),
     ValueError, "the log-SNR at t_max = 1.0 is -inf, wanted a finite one"),
    ("log_snr_uniform: u", lambda: times.log_snr_uniform(-U, FLOW, t_min=0.1, t_max=0.9),
     ValueError, "u must lie in"),
    ("log_snr_grid: t = 0", lambda: times.log_snr_grid(FLOW, 8, t_max=0.9, t_min=0.0),
     ValueError, "the log-SNR at t_min = 0.0 is inf, wanted a finite one"),
    ("log_snr_grid: negative", lambda: times.log_snr_grid(VP, 8, t_min=-0.5),
     ValueError, "t_min = -0.5 is outside of the range of VariancePreserving.*, from 0 to 1"),
    ("log_snr_grid: equal ends", lambda: times.log_snr_grid(FLOW, 8, t_max=0.5, t_min=0.5),
     ValueError, "t_min must be below t_max"),
    ("log_snr_grid: steps", lambda: times.log_snr_grid(VP, 2.5, t_min=0.1),
     ValueError, "num_steps must be an integer of at least 1, got 2.5"),
    ("log_snr_grid: scale", lambda: times.log_snr_grid(VP, 8, scale=0.0),
     ValueError, "scale must be positive"),
    ("power_grid: rho", lambda: times.power_grid(8, t_min=0.1, t_max=1.0, rho=-7.0),
     ValueError, "rho must be positive"),
    ("power_grid: t_min", lambda: times.power_grid(8, t_min=-1.0, t_max=1.0), ValueError, "t_min must lie in"),
    ("power_grid: infinite", lambda: times.power_grid(8, t_min=0.1, t_max=np.inf),
     ValueError, "t_max has 1 non-finite"),
    # targets, losses and denoisers
    ("target: integers", lambda: targets.denoising_target(KEY, VP, INTEGERS, 0.5),
     TypeError, "data must be an array of floating-point numbers, got int32"),
    ("target: NaN", lambda: targets.denoising_target(KEY, VP, NAN, 0.5),
     ValueError, r"data has 1 non-finite of 12 values, the first at index \(1, 2\)"),
    ("target: t of other rows", lambda: targets.denoising_target(KEY, VP, X, U),
     ValueError, r"t must be a scalar or have shape \(4,\), one per row of data; got \(5,\)"),
    ("target: t out of range", lambda: targets.denoising_target(KEY, FLOW, X, jnp.asarray([0.1, 0.2, 1.2, 0.3])),
     ValueError, r"t\[2\] = 1.2 is outside of the range of RectifiedFlow\(\), from 0 to 1"),
    ("stable target: pool", lambda: targets.stable_target(KEY, VP, X, 0.5, pool=X[:, :2]),
     ValueError, r"pool must hold rows of shape \(3,\), got \(2,\)"),
    ("loss: target", lambda: regress(untouched, target=Denoised(X, X[:2])),
     ValueError, r"target.noise must have the shape of x, \(4, 3\), got \(2, 3\)"),
    ("loss: integers", lambda: regress(untouched, INTEGERS), TypeError, "x must be .* got int32; convert it"),
    ("loss: t of other rows", lambda: regress(untouched, t=U), ValueError, "t must be a scalar or have shape"),
    ("loss: reference", lambda: regress(untouched, reference=PLANE),
     ValueError, r"reference must be a law of points of shape \(3,\), got one of \(2,\); .* Shaped\(law, shape\)"),
    ("implicit loss: integers", lambda: losses.implicit_loss(known(untouched), INTEGERS, 0.5),
     TypeError, "x must be an array of floating-point"),
    ("conservativity: probes", lambda: jd.conservativity_loss(KEY, known(untouched), X, 0.5, num_probes=0),
     ValueError, "num_probes must be an integer of at least 1, got 0"),
    ("conservativity: another shape", lambda: jd.conservativity_loss(KEY, known(untouched), X[:, :2], 0.5),
     ValueError, "x must have shape"),
    ("conservativity: a time", lambda: jd.conservativity_loss(KEY, known(untouched), X, 7.0),
     ValueError, "t"),
    ("sliced loss: probes", lambda: losses.sliced_loss(KEY, known(untouched), X, 0.5, num_probes=0),
     ValueError, "num_probes must be an integer of at least 1, got 0"),
    ("denoiser: integers", lambda: made(untouched)(INTEGERS, 0.5), TypeError, "x must be .* got int32"),
    ("denoiser: scalar", lambda: made(untouched)(X[0, 0], 0.5), ValueError, r"x must have shape \(batch, ...\)"),
    ("denoiser: t of other rows", lambda: made(untouched)(X, U), ValueError, r"one per row of x; got \(5,\)"),
    ("denoiser: reference", lambda: made(untouched, reference=PLANE),
     ValueError, "reference must be a law of points"),
    ("denoiser: the network's answer", lambda: make_denoiser(answering(4, 1), None, VP, shape=(3,))(X, 0.5),
     ValueError, r"predict must answer in the shape of x, \(4, 3\), but answered \(4, 1\)"),
    # samplers
    ("sample: integers", lambda: sample(untouched, INTEGERS), TypeError, "x must be .* jnp.asarray"),
    ("sample: a list", lambda: sample(untouched, [[1.0]]), TypeError, "x must be an array .* got list"),
    ("sample: NaN", lambda: sample(untouched, NAN), ValueError, r"x has 1 non-finite .* \(1, 2\)"),
    ("sample: unordered", lambda: sample(untouched, grid=[0.9, 0.2, 0.5, 0.1]),
     ValueError, r"strictly decreasing, but times\[1\] = 0.2 is followed by 0.5"),
    ("sample: repeated", lambda: sample(untouched, grid=[0.9, 0.5, 0.5, 0.1]),
     ValueError, r"strictly decreasing, but times\[1\] = 0.5 is followed by 0.5"),
    ("sample: increasing", lambda: sample(untouched, grid=FALLING[::-1]),
     ValueError, r"from high to low noise, got 0.1 to 0.9; reverse them with times\[::-1\]"),
    ("sample: one time", lambda: sample(untouched, grid=[0.9]), ValueError, "at least 2 entries, got 1"),
    ("sample: scalar times", lambda: sample(untouched, grid=0.9), ValueError, r"times must have shape \(any,\)"),
    ("sample: NaN time", lambda: sample(untouched, grid=[0.9, np.nan]),
     ValueError, r"times\[1\] = nan is outside of the range"),
    ("sample: flow past 1", lambda: sample(untouched, grid=[1.2, 0.5], schedule=FLOW),
     ValueError, r"times\[0\] = 1.2 is outside of the range of RectifiedFlow\(\)"),
    ("sample: vp below 0", lambda: sample(untouched, grid=[0.5, -0.1]), ValueError, r"times\[1\] = -0.1 is outside"),
    ("sample: past the table", lambda: sample(untouched, grid=[11.0, 5.0, 1.0], schedule=TABLE),
     ValueError, r"times\[0\] = 11 is outside of the range of DiscreteVariancePreserving\(10 betas\), from 0 to 10"),
    ("ddim: eta", lambda: DDIM(eta=1.1), ValueError, r"eta must lie in \[0, 1\], got 1.1"),
    ("heun: churn", lambda: Heun(churn=-0.1), ValueError, r"churn must lie in \[0, inf\]"),
    ("heun: noise", lambda: Heun(churn_noise=-1), ValueError, "churn_noise must lie in"),
    ("heun: churn_range", lambda: Heun(churn=0.1, churn_range=(2.0, 1.0)),
     ValueError, r"churn_range must be \(low, high\) .* got \(2.0, 1.0\)"),
    ("adams: order", lambda: dpm_solver_pp(order=5), ValueError, "order must be one of 1, 2, 3, 4; got 5"),
    ("adams: estimate", lambda: jd.unipc(3, "score"),
     ValueError, "estimate must be one of 'data', 'noise'; got 'score'"),
    ("adams: corrector", lambda: jd.ExponentialAdams(corrector="UniC"),
     ValueError, "corrector must be one of"),
    ("adams: tau", lambda: jd.ExponentialAdams(stochasticity=-0.1),
     ValueError, r"stochasticity must lie in \[0, inf\], got -0.1"),
    ("adams: midpoint", lambda: jd.ExponentialAdams(3, midpoint=True),
     ValueError, "midpoint must go with order 2 and no corrector, got order 3, corrector False"),
    ("fitted: calls", lambda: jd.fitted_multistep(KNOWN, 7),
     ValueError, "num_calls must be one of 4, 5, 6, 8, 10, 12; got 7"),
    ("fitted: modes", lambda: jd.fitted_multistep(KNOWN, 8, modes="wide"),
     ValueError, "modes must be one of 'near', 'far'; got 'wide'"),
    ("fitted: late", lambda: jd.fitted_multistep(KNOWN, 8, t_max=0.9),
     ValueError, "the log-SNR at t_max = 0.9 of Karras"),
    ("fitted: order", lambda: jd.fitted_multistep(KNOWN, 8, t_max=1.0, t_min=2.0),
     ValueError, "t_min"),
    ("fitted: noise left", lambda: jd.fitted_multistep(PLANE.denoiser(KARRAS), 8, t_min=0.5),
     ValueError, "sigma / alpha at t_min over that at the last call must lie in"),
    ("runge: order", lambda: jd.ExponentialRungeKutta(order=5),
     ValueError, "order must be one of 1, 2, 3, 4; got 5"),
    ("runge: estimate", lambda: jd.ExponentialRungeKutta(3, "eps"),
     ValueError, "estimate must be one of"),
    ("linear: stochastic", lambda: jd.linear_multistep(jd.sde_dpm_solver_pp(), VP, FALLING),
     TypeError, "sampler must be deterministic, got noise of strength 1.0"),
    ("linear: two calls", lambda: jd.linear_multistep(Heun(), VP, FALLING),
     TypeError, "must be deterministic and of one call a step, an ExponentialAdams or DDIM, got Heun"),
    ("linear: rising", lambda: jd.linear_multistep(DDIM(), VP, FALLING[::-1]),
     ValueError, "from high to low noise"),
    ("linear: weights", lambda: jd.LinearMultistep(FALLING, FALLING[:-1], jnp.eye(3)),
     ValueError, r"weights must have shape \(2, 2\), got \(3, 3\)"),
    ("learn: classical", lambda: jd.learn_sampler(KEY, KNOWN, jd.unipc()),
     TypeError, "sampler must be a LinearMultistep, got ExponentialAdams"),
    ("learn: few", lambda: jd.learn_sampler(KEY, KNOWN, LINEAR, num_samples=4),
     ValueError, "num_samples must be an integer of at least 8, got 4"),
    ("learn: rate", lambda: jd.learn_sampler(KEY, KNOWN, LINEAR, learning_rate=0.0),
     ValueError, "learning_rate must be positive"),
    ("learn: late", lambda: jd.learn_sampler(KEY, KNOWN, LINEAR),
     ValueError, "the log-SNR at t_max = 0.9 of Karras"),
    ("learn: start", lambda: jd.learn_sampler(KEY, KNOWN, LINEAR, start=PLANE),
     ValueError, "start"),
    ("tune: calls", lambda: jd.tune_sampler(KEY, KNOWN, 2),
     ValueError, "num_calls must be an integer of at least 3, got 2"),
    ("tune: t_max", lambda: jd.tune_sampler(KEY, KNOWN, 4, t_max=90.0),
     ValueError, "t_max = 90 is outside of the times that this denoiser"),
    ("tune: order", lambda: jd.tune_sampler(KEY, KNOWN, 4, t_max=1.0, t_min=2.0),
     ValueError, "t_min"),
    ("adaptive: tolerance", lambda: jd.integrate_adaptively(KEY, KNOWN, X, tolerance=0.0),
     ValueError, "tolerance must be positive and finite, got 0"),
    ("adaptive: steps", lambda: jd.integrate_adaptively(KEY, KNOWN, X, max_steps=0),
     ValueError, "max_steps must be an integer of at least 1, got 0"),
    ("adaptive: stochastic", lambda: jd.integrate_adaptively(KEY, KNOWN, X, stochastic="yes"),
     ValueError, "stochastic must be one of False, True; got 'yes'"),
    ("adaptive: order", lambda: jd.integrate_adaptively(KEY, KNOWN, X, t_max=1.0, t_min=2.0),
     ValueError, "t_min"),
    ("adaptive: t_max", lambda: jd.integrate_adaptively(KEY, KNOWN, X, t_max=90.0),
     ValueError, "t_max = 90 is outside of the times that this denoiser"),
    ("adaptive: start", lambda: jd.integrate_adaptively(KEY, KNOWN, jnp.zeros((64, 3)), t_max=1.0),
     ValueError, "x has the root mean square 0 at t = 1"),
    ("switched: one", lambda: jd.switched([KNOWN], []),
     ValueError, "needs two denoisers or more and one time between each two, got 1 denoisers and 0 times"),
    ("switched: schedule", lambda: jd.switched([KNOWN, known(untouched)], [0.5]),
     ValueError, r"denoisers\[1\] must have the schedule of denoisers\[0\]"),
    ("switched: order", lambda: jd.switched([KNOWN] * 3, [2.0, 1.0]), ValueError, r"at\[0\]"),
    ("switched: time", lambda: jd.switched([KNOWN] * 2, [90.0]),
     ValueError, r"at\[0\] = 90 is outside of the times that this denoiser"),
    ("flops: traced", lambda: jax.jit(lambda t: jd.denoiser_flops(KNOWN, t))(FALLING),
     ValueError, "times must be known, not traced"),
    ("flops: rows", lambda: jd.denoiser_flops(KNOWN, FALLING, n=0), ValueError, "n must be an integer"),
    ("renoised: none", lambda: jd.Renoising(0), ValueError, "num_repeats must be an integer of at least 1, got 0"),
    ("corrector: none", lambda: PredictorCorrector(num_corrections=0),
     ValueError, "num_corrections must be an integer of at least 1, got 0"),
    ("corrector: step", lambda: PredictorCorrector(signal_to_noise=0.0),
     ValueError, "signal_to_noise must be positive"),
    ("initial_noise: a time per row", lambda: initial_noise(KEY, known(untouched), 4, U[:4]),
     ValueError, r"t must have shape \(\), got \(4,\)"),
    ("initial_noise: out of range", lambda: initial_noise(KEY, known(untouched, KARRAS), 4, 90.0),
     ValueError, r"t = 90 is outside of the times that this denoiser of Karras\(\) knows, from 0 to 80"),
    # likelihood
    ("likelihood: integers", lambda: flow_of(untouched, INTEGERS), TypeError, "x must be .* got int32"),
    ("likelihood: NaN", lambda: flow_of(untouched, NAN), ValueError, "x has 1 non-finite of 12"),
    ("likelihood: decreasing", lambda: flow_of(untouched, grid=FALLING),
     ValueError, "from low to high noise, got 0.9"),
    ("likelihood: unordered", lambda: flow_of(untouched, grid=[0.1, 0.5, 0.2]),
     ValueError, r"strictly increasing, but times\[1\] = 0.5 is followed by 0.2"),
    ("likelihood: t = 0", lambda: flow_of(untouched, grid=[0.0, 0.5, 1.0]),
     ValueError, r"the log-SNR at times\[0\] = 0 is inf, wanted a finite one"),
    ("likelihood: t = 1", lambda: flow_of(untouched, grid=[0.1, 0.5, 1.0], schedule=FLOW),
     ValueError, r"the log-SNR at times\[2\] = 1 is -inf, wanted a finite one"),
    ("rotations: probes", lambda: jd.rotation_curve(KEY, known(untouched), X, FALLING[::-1], num_probes=0),
     ValueError, "num_probes must be an integer of at least 1, got 0"),
    ("rotations: falling times", lambda: jd.rotation_curve(KEY, known(untouched), X, FALLING),
     ValueError, "times must run from low to high noise"),
    ("rotations: a covariance", lambda: jd.rotation_curve(KEY, known(untouched), X, FALLING[::-1], data_covariance=jnp.ones(2)),
     ValueError, "covariance must"),
    ("likelihood: probes", lambda: flow_of(untouched, num_probes=0), ValueError, "num_probes must be an integer"),
    ("likelihood: start law", lambda: flow_of(untouched, start=PLANE),
     ValueError, r"start must be a law of points of shape \(3,\), got one of \(2,\)"),
    # theory
    ("score_error: one sample", lambda: theory.score_error(KEY, known(untouched, shape=(2,)), PLANE, FALLING, num_samples=1),
     ValueError, "num_samples must be an integer of at least 2, got 1"),
    ("score_error: no noise", lambda: theory.score_error(KEY, known(untouched, shape=(2,)), PLANE, jnp.asarray([0.5, 0.0])),
     ValueError, "sigma at each of times must be positive"),
    ("score_error: scalar time", lambda: theory.score_error(KEY, known(untouched, shape=(2,)), PLANE, 0.5),
     ValueError, r"times must have shape \(any,\), got \(\)"),
    # data
    ("data: negative noise", lambda: jd.data.two_moons(KEY, 3, noise=-0.1), ValueError, "noise must lie in"),
    ("data: negative std", lambda: jd.data.eight_gaussians(KEY, 3, std=-0.1), ValueError, "std must lie in"),
    ("data: no rows", lambda: jd.data.checkerboard(KEY, 0), ValueError, "n must be an integer of at least 1"),
    # quantized data
    ("levels: log_prior of a vector", lambda: quantized.predictor(answering(4, 3, 4), LEVELS[0]),
     ValueError, r"log_prior must have shape \(..., levels\), as log_histogram gives it; got \(4,\)"),
    ("levels: impossible level", lambda: quantized.predictor(answering(4, 3, 4), LEVELS.at[1, 2].set(-jnp.inf)),
     ValueError, r"log_prior has 1 non-finite of 12 values, the first at index \(1, 2\)"),
    ("levels: x of another d", lambda: level_denoiser(answering(4, 3, 4), X[:, :1]),
     ValueError, r"x must have shape \(any, 3\), got \(4, 1\)"),
    ("levels: the network's answer", lambda: level_denoiser(answering(4, 3, 1)),
     ValueError, r"the network's answer must have shape \(4, 3, 4\), got \(4, 3, 1\)"),
    ("levels: potential", lambda: quantized.potential(answering(4, 3, 4), LEVELS[0]),
     ValueError, r"log_prior must have shape \(..., levels\), as log_histogram gives it; got \(4,\)"),
    ("potential: a network", lambda: jd.conservative(NETWORK),
     TypeError, r"potential must be a function of \(params, x, t\), got ResidualMLP"),
    ("potential: one for the batch", lambda: answered(jd.conservative(answering())),
     ValueError, r"the potential's answer must have shape \(4,\), got \(\)"),
    ("levels: float pixels", lambda: quantized_target(X), TypeError, "pixels must be an array of integers"),
    ("levels: pixel", lambda: quantized_target(5 * INTEGERS), ValueError, r"pixels must lie in \[0, 3\]"),
    ("levels: t of other rows", lambda: quantized_target(t=U), ValueError, r"t must have shape .* got \(5,\)"),
    ("levels: scalar t", lambda: quantized_target(t=0.5), ValueError, r"t must have shape .* got \(\)"),
    ("histogram: dequantized", lambda: quantized.log_histogram(X / 2, levels=4),
     TypeError, "pixels must be an array of integers, got float32"),
    ("histogram: pixel", lambda: quantized.log_histogram(INTEGERS - 2, levels=4),
     ValueError, r"pixels must lie in \[0, 3\]"),
    ("histogram: no rows", lambda: quantized.log_histogram(INTEGERS[:0], levels=4),
     ValueError, "pixels must hold at least one number"),
    ("histogram: smoothing", lambda: quantized.log_histogram(INTEGERS, levels=4, smoothing=0.0),
     ValueError, "smoothing must be positive"),
    # one thing in the place of another
    ("prediction: a string", lambda: made(untouched, prediction="v"),
     TypeError, r"prediction must be one of prediction.data, noise, score, v, flow or EDM\(std\), got 'v'"),
    ("prediction: uncalled", lambda: made(untouched, prediction=prediction.EDM),
     TypeError, "got the class EDM; call it"),
    ("prediction: a row", lambda: made(untouched, prediction=prediction.v.row),
     TypeError, "must be one of .* got the function _v"),
    ("schedule: a class", lambda: made(untouched, schedule=schedules.Karras),
     TypeError, "schedule must be a schedule .* got the class Karras; call it"),
    ("schedule: a string", lambda: made(untouched, schedule="vp"),
     TypeError, r"such as Karras\(\), got 'vp', which has no alpha"),
    ("schedule: no range", lambda: made(untouched, schedule=type("Mine", (), {"alpha": 1, "sigma": 1})()),
     TypeError, "got Mine, which has no t_min, t_max, working_range"),
    ("law: a class for a schedule", lambda: PLANE.denoiser(schedules.Karras),
     TypeError, "got the class Karras; call it"),
    ("network for predict", lambda: make_denoiser(NETWORK, {}, VP, shape=(3,)),
     TypeError, r"predict must be a function .* got ResidualMLP; .* make_denoiser\(network.apply, params"),
    ("state for params", lambda: make_denoiser(NETWORK.apply, STATE, VP, shape=(3,)),
     TypeError, r"got a TrainState; give averaged\(state\)"),
    ("network for a denoiser", lambda: sample_from_noise(KEY, NETWORK, 4),
     TypeError, r"denoise must be a Denoiser, got ResidualMLP; .* make_denoiser\(network.apply, params, schedule, shape"),
    ("network for a function", lambda: as_denoiser(NETWORK, VP, shape=(3,)),
     TypeError, "function must be a function .* got ResidualMLP"),
    ("function for a denoiser", lambda: sample_from_noise(KEY, untouched, 4),
     TypeError, r"denoise must be a Denoiser, got function; .* as_denoiser\(function, schedule"),
    ("denoiser answers an array", lambda: known(lambda x, t: x)(X, 0.5),
     TypeError, r"must answer a Denoised\(data, noise\), got .*; a network, which answers an array"),
    ("denoiser answers another shape", lambda: known(lambda x, t: Denoised(x, x[:1]))(X, 0.5),
     ValueError, r"the denoiser's noise must have shape \(4, 3\), got \(1, 3\)"),
    ("x of another shape", lambda: known(untouched)(X[:, :2], 0.5),
     ValueError, r"x must have shape \(batch, 3\), the data's of this denoiser; got \(4, 2\)"),
    ("a time it does not know", lambda: made(untouched, t_min=0.2)(X, 0.1),
     ValueError, "t = 0.1 is outside of the times that this denoiser of VariancePreserving.* knows, from 0.2 to 1"),
    ("a range that is not the schedule's", lambda: made(untouched, t_max=80.0),
     ValueError, "t_max = 80 is outside of the range of VariancePreserving"),
    ("a range upside down", lambda: made(untouched, t_min=0.5, t_max=0.1), ValueError, "t_min must be below t_max"),
    ("a scale of zero", lambda: made(untouched, scale=0.0), ValueError, "scale must be positive"),
    ("noise where there is no data", lambda: made(untouched, schedule=FLOW, prediction=prediction.noise),
     ValueError, r"prediction.noise says nothing of the data at t_max = 1 of RectifiedFlow.* predict v, flow or EDM"),
    ("a condition of other rows", lambda: make_denoiser(lambda p, x, t, c: x, None, VP, shape=(3,)).given(jnp.zeros(5))(X, 0.5),
     ValueError, "one row for each of the 4 of x, or one for all; got 5"),
    ("guided by nothing", lambda: guided(KNOWN, 2.0), ValueError, "make the denoiser with null_condition="),
    ("guided by another schedule", lambda: guided(KNOWN, 2.0, unconditional=known(untouched)),
     ValueError, r"unconditional must have the schedule of denoise, Karras\(\); got VariancePreserving"),
    ("guidance in an interval upside down", lambda: guided(KNOWN, 2.0, unconditional=KNOWN, interval=(1.0, 0.5)),
     ValueError, r"interval\[0\] must be below interval\[1\]"),
    ("rescaled twice", lambda: guided(KNOWN, 2.0, unconditional=KNOWN, rescale=2.0), ValueError, r"rescale must lie in \[0, 1\]"),
    ("tilted by a number", lambda: jd.tilted(KNOWN, 1.0), TypeError, r"h must be a function of \(x, t\)"),
    ("tilted by a row", lambda: jd.tilted(KNOWN, lambda x, t: x[0])(X, 1.0), ValueError, r"h\(x, t\) must have shape \(4, 3\)"),
    ("a reward of each entry", lambda: jd.rewarded(KNOWN, lambda data: data)(X, 1.0),
     ValueError, r"reward\(data\) must have shape \(4,\), got \(4, 3\)"),
    ("particles of a denoiser", lambda: jd.particles.run(KEY, KNOWN, 10), TypeError, "process must be one such as Composed"),
    ("one particle", lambda: jd.particles.run(KEY, jd.particles.Composed([KNOWN], [1.0]), 1),
     ValueError, "n must be an integer of at least 2"),
    ("a threshold of all and more", lambda: jd.particles.run(KEY, jd.particles.Composed([KNOWN], [1.0]), 4, threshold=2.0),
     ValueError, r"threshold must lie in \[0, 1\]"),
    ("a path of products", lambda: jd.particles.gibbs(KEY, jd.particles.Composed([KNOWN], [1.0]), X, FALLING), TypeError, r"process must be Twisted\(...\)"),
    ("a path of too few times", lambda: jd.particles.gibbs(KEY, jd.particles.Twisted(KNOWN, lambda x: x[:, 0]), X[None], FALLING), ValueError, "path must have shape"),
    ("a noised path of another shape", lambda: jd.particles.noised_path(KEY, KNOWN, X[:, :1], FALLING), ValueError, "data must have shape"),
    ("the best of products", lambda: jd.particles.best_of(KEY, jd.particles.Composed([KNOWN], [1.0]), 2, 2), TypeError, r"process must be Twisted\(...\)"),
    ("the best of none", lambda: jd.particles.best_of(KEY, jd.particles.Twisted(KNOWN, len), 2, 0), ValueError, "m must be an integer of at least 1"),
    ("powers of no law", lambda: jd.particles.Composed([KNOWN, KNOWN], [1.0, -1.0]), ValueError, "the sum of powers must be positive"),
    ("a reward of a number", lambda: jd.particles.Twisted(KNOWN, 1.0), TypeError, "reward must be a function of data"),
    ("a denoiser for a map", lambda: jd.sample_map(KEY, KNOWN, 3), TypeError, "flow_map must be a FlowMap, got Denoiser"),
    ("a map of a denoiser by its class", lambda: jd.FlowMap(KNOWN), TypeError, "take make_flow_map of a network"),
    ("a map of a mixture in closed form", lambda: jd.maps.gaussian_map(KNOWN, VP), TypeError, "law must be a Gaussian"),
    ("a map of a law", lambda: jd.maps.integrated_map(SPACE), TypeError, "denoise must be a Denoiser, got Gaussian"),
    ("a law as a step", lambda: jd.maps.one_step_map(SPACE), TypeError, "denoise must be a Denoiser, got Gaussian"),
    ("a map of no steps", lambda: jd.maps.integrated_map(KNOWN, num_steps=0), ValueError, "num_steps must be an integer of at"),
    ("a network for a map", lambda: jd.make_flow_map(models.ResidualMLP(8), None, VP, shape=(3,)),
     TypeError, "predict must be a function of"),
    ("a map to more noise", lambda: MAP(X, 0.3, 0.5), ValueError, r"s must not be above t, got t = 0.3 and s = 0.5"),
    ("a map from beyond", lambda: MAP(X, 1.3, 0.5), ValueError, "t = 1.3 is outside of the times that this denoiser"),
    ("a map to below no noise", lambda: MAP(X, 0.3, -0.5), ValueError, "s = -0.5 is outside of the range of"),
    ("a map to other rows", lambda: MAP(X, 0.3, jnp.zeros(3)), ValueError, r"s must be a scalar or have shape \(4,\)"),
    ("a map of other data", lambda: MAP(X[:, :2], 0.3, 0.1), ValueError, r"x must have shape \(batch, 3\)"),
    ("noise put back twice", lambda: jd.sample_map(KEY, MAP, 3, renoise=1.5), ValueError, r"renoise must lie in \[0, 1\]"),
    ("calls and times of a map", lambda: jd.sample_map(KEY, MAP, 3, num_calls=2, times=FALLING),
     ValueError, "num_calls and times were both given"),
    ("no calls of a map", lambda: jd.sample_map(KEY, MAP, 3, num_calls=0), ValueError, "num_calls must be an integer of at least 1"),
    ("rising times of a map", lambda: jd.sample_map(KEY, MAP, 3, times=FALLING[::-1]), ValueError, "times must run from high"),
    ("a map from where data are left", lambda: jd.sample_map(KEY, MAP, 3, times=FALLING[1:]), ValueError, "wanted less than -4"),
    ("a start of a map of another shape", lambda: jd.sample_map(KEY, MAP, 3, start=PLANE), ValueError, "start must be a law of points"),
    ("a tangent of a denoiser", lambda: jd.maps.tangent_target(KEY, KNOWN, X, 0.5, 0.1), TypeError, "flow_map must be a FlowMap"),
    ("a map taught by a map", lambda: jd.maps.tangent_target(KEY, MAP, X, 0.5, 0.1, teacher=MAP), TypeError, "teacher must be a Denoiser"),
    ("a map taught on another schedule", lambda: jd.maps.mean_flow_loss(KEY, MAP, X, teacher=KNOWN), ValueError, "teacher must have the schedule"),
    ("a warm-up beyond", lambda: jd.maps.continuous_consistency_loss(KEY, MAP, X, warm_up=1.1), ValueError, r"warm_up must lie in \[0, 1\]"),
    ("residuals of no size", lambda: jd.maps.continuous_consistency_loss(KEY, MAP, X, offset=0.0), ValueError, "offset must be positive"),
    ("a map of NaN", lambda: jd.maps.mean_flow_loss(KEY, MAP, NAN), ValueError, "data has 1 non-finite of 12"),
    ("a map of integers", lambda: jd.maps.shortcut_loss(KEY, MAP, INTEGERS), TypeError, "data must be an array of floating-point"),
    ("a map of pixels", lambda: jd.maps.shortcut_loss(KEY, MAP, 99 * jnp.ones((30, 3))), ValueError, "data have the root mean square 99"),
    ("consistency beyond", lambda: jd.maps.consistency_loss(KEY, MAP, X, ratio=1.5), ValueError, r"ratio must lie in \[0, 1\]"),
    ("an average that is none", lambda: jd.maps.shortcut_loss(KEY, MAP, X, average=KNOWN), TypeError, "average must be a FlowMap"),
    ("a grid that rises for halves", lambda: jd.maps.progressive_loss(KEY, MAP, MAP, X, times=FALLING[::-1]), ValueError, "times must run from high"),
    ("moments of a row", lambda: jd.maps.moment_matching_loss(KEY, MAP, X, group=1), ValueError, "group must be an integer of at least 2"),
    ("moments of a part", lambda: jd.maps.moment_matching_loss(KEY, MAP, X, group=3), ValueError, "group must divide the 4 rows of data"),
    ("a share of pairs", lambda: jd.maps.drawn_pairs(KEY, MAP, 3, ends=2.0), ValueError, r"ends must lie in \[0, 1\]"),
    ("halves of no steps", lambda: jd.maps.halving(1, 0), ValueError, "every must be an integer of at least 1"),
    ("a target of a map by an array", lambda: jd.maps.map_regression_loss(MAP, X, X, 0.5, 0.1), TypeError, "target must be a Denoised"),
    ("a target of other rows", lambda: jd.maps.map_regression_loss(MAP, X, Denoised(X[:2], X), 0.5, 0.1), ValueError, "target.data must have shape"),
    ("a way by beyond", lambda: jd.maps.composition_target(KEY, MAP, X, 0.5, 1.2, 0.1), ValueError, "r = 1.2 is outside of the times"),
    ("consistency at no time", lambda: jd.maps.consistency_target(KEY, MAP, X, 0.5, U, 0.1), ValueError, "r must be a scalar or have shape"),
    ("pairs of arrays", lambda: jd.maps.reflow_loss(KEY, KNOWN, (X, X)), TypeError, "pairs must be a Denoised"),
    ("pairs of a law", lambda: jd.maps.reflow_pairs(KEY, SPACE, 4), TypeError, "denoise must be a Denoiser, got Gaussian"),
    ("distilled from a law", lambda: jd.maps.score_distillation_loss(KEY, X, SPACE, KNOWN), TypeError, "teacher must be a Denoiser, got Gaussian"),
    ("a map as a fake", lambda: jd.maps.score_distillation_loss(KEY, X, KNOWN, MAP), TypeError, "fake must be a Denoiser, got FlowMap"),
    ("a fake of another schedule", lambda: jd.maps.score_distillation_loss(KEY, X, KNOWN, MAP.denoiser), ValueError, "fake must have the schedule of teacher"),
    ("a fake of a part of the times", lambda: jd.maps.score_distillation_loss(KEY, X, KNOWN, dataclasses.replace(KNOWN, t_max=2.0)),
     ValueError, "the teacher's times = 80 is outside of"),
    ("samples of another shape", lambda: jd.maps.score_distillation_loss(KEY, X[:, :2], KNOWN, KNOWN), ValueError, r"samples must have shape \(batch, 3\)"),
    ("samples of other rows", lambda: jd.maps.score_difference_loss(X, X[:2], KNOWN, KNOWN, 0.5), ValueError, r"x must have shape \(4, 3\)"),
    ("scores at no noise", lambda: jd.maps.score_difference_loss(X, X, KNOWN, KNOWN, 0.0), ValueError, "t = 0 is outside of the times"),
    ("tokens of one kind", lambda: jd.jumps.Masking(1), ValueError, "vocabulary must be an integer of at least 2"),
    ("jumps by a Gaussian schedule", lambda: jd.jumps.Uniform(3, VP), ValueError, r"schedule must have alpha \+ sigma = 1"),
    ("rates that do not sum to zero", lambda: jd.jumps.Rates(jnp.eye(3)), ValueError, "matrix must hold rates"),
    ("rates of two ways", lambda: jd.jumps.Rates(jnp.zeros((3, 4))), ValueError, r"matrix must have shape \(vocabulary, vocabulary\)"),
    ("rates that forget nothing", lambda: jd.jumps.Rates(jnp.kron(jnp.eye(2), jnp.asarray([[-1.0, 1.0], [1.0, -1.0]]))),
     ValueError, "has two laws that do not change"),
    ("births of no rate", lambda: jd.jumps.birth_death(np.zeros(2), np.ones(2)), ValueError, "up must be positive"),
    ("one level", lambda: jd.jumps.ordinal(1), ValueError, "levels must be an integer of at least 2"),
    ("jumps of floats", lambda: jd.jumps.perturb(KEY, TOKENS.process, X, 0.5), TypeError, "data must be an array of integers"),
    ("tokens that are none", lambda: jd.jumps.perturb(KEY, TOKENS.process, 9 * INTEGERS, 0.5),
     ValueError, r"data must be tokens in 0, ..., 3, got values from 9 to 9"),
    ("jumps after the end", lambda: jd.jumps.perturb(KEY, TOKENS.process, INTEGERS, 1.5), ValueError, "t = 1.5 is outside of the range"),
    ("jumps at times of other rows", lambda: jd.jumps.perturb(KEY, TOKENS.process, INTEGERS, U),
     ValueError, r"t must be a scalar or have shape \(4,\)"),
    ("jumps of a schedule", lambda: jd.jumps.perturb(KEY, VP, INTEGERS, 0.5), TypeError, "process must be a process such as jumps.Masking"),
    ("draws of integers", lambda: jd.jumps.categorical(KEY, INTEGERS), TypeError, "probs must be an array of floating-point numbers"),
    ("tokens of another length", lambda: TOKENS(INTEGERS[:, :2], 0.5), ValueError, r"x must have shape \(batch, 3\)"),
    ("a token that no process knows", lambda: TOKENS(INTEGERS + 4, 0.5), ValueError, "x must be tokens in 0, ..., 4"),
    ("tokens at a time of no schedule", lambda: TOKENS(INTEGERS, 2.0), ValueError, "t = 2 is outside of the times that this denoiser"),
    ("an answer of too few tokens", lambda: jd.jumps.make_denoiser(unbound, None, TOKENS.process, shape=(3,))(INTEGERS, 0.5),
     ValueError, r"the denoiser's answer must have shape \(4, 3, 4\), got \(4, 3\)"),
    ("a network of tokens", lambda: jd.jumps.make_denoiser(NETWORK, None, TOKENS.process, shape=(3,)),
     TypeError, "give a Flax network's apply: jumps.make_denoiser"),
    ("the state of a network of tokens", lambda: jd.jumps.make_denoiser(unbound, STATE, TOKENS.process, shape=(3,)),
     TypeError, r"got a TrainState; give averaged\(state\)"),
    ("chances that are none", lambda: jd.jumps.Enumerated(jnp.ones((2, 2))), ValueError, "probs must hold chances that sum to one"),
    ("sequences of two vocabularies", lambda: jd.jumps.Enumerated(jnp.full((2, 3), 1 / 6)), ValueError, "one axis of the vocabulary a token"),
    ("moves that are none", lambda: jd.jumps.markov_chain(np.full(2, 0.5), np.ones((2, 2)), 3), ValueError, "transition must hold chances"),
    ("a law of other tokens", lambda: jd.jumps.Enumerated(jnp.full((2, 2), 0.25)).denoiser(TOKENS.process),
     ValueError, "process must be one of the law's 2 tokens, got one of 4"),
    ("a loss of a Gaussian denoiser's tokens", lambda: jd.jumps.denoising_loss(KEY, KNOWN, INTEGERS), TypeError, "denoise must be a denoiser of tokens"),
    ("a target of other tokens", lambda: jd.jumps.cross_entropy(TOKENS, INTEGERS[:, :2], INTEGERS, 0.5), ValueError, r"target must have shape \(4, 3\)"),
    ("a teacher that comes after", lambda: jd.jumps.bootstrapped_target(KEY, TOKENS, INTEGERS, 0.6, 0.5), ValueError, "s must not be after t"),
    ("a bound by three calls", lambda: jd.jumps.log_bound(KEY, TOKENS, INTEGERS, num_times=3), ValueError, "num_times must be even, got 3"),
    ("shares beyond one", lambda: jd.jumps.share_uniform(3 * U, jd.jumps.Linear(), t_min=0.0, t_max=1.0), ValueError, r"u must lie in \[0, 1\]"),
    ("tokens by a class", lambda: jd.jumps.sample(KEY, TOKENS, 2, sampler=jd.jumps.Euler), TypeError, "got the class Euler; call it"),
    ("tokens on two grids", lambda: jd.jumps.sample(KEY, TOKENS, 2, num_steps=3, times=FALLING), ValueError, "num_steps and times were both given"),
    ("tokens on a rising grid", lambda: jd.jumps.integrate(KEY, TOKENS, INTEGERS, FALLING[::-1]), ValueError, "times must run from high to low noise"),
    ("remasking without a mask", lambda: jd.jumps.sample(KEY, UNMASKED, 2, sampler=jd.jumps.Remasking()), ValueError, "Remasking is for processes of masking"),
    ("hits without a mask", lambda: jd.jumps.first_hitting(KEY, UNMASKED, 2), ValueError, "first_hitting is for processes of masking"),
    ("an order of no name", lambda: jd.jumps.Confident("first"), ValueError, "order must be one of 'probability', 'margin', 'entropy', 'random'"),
    ("remasking twice", lambda: jd.jumps.Remasking(2.0), ValueError, r"eta must lie in \[0, 1\]"),
    ("no corrections", lambda: jd.jumps.Corrected(num_steps=0), ValueError, "num_steps must be an integer of at least 1"),
    ("tokens guided by nothing", lambda: jd.jumps.guided(TOKENS, 2.0), ValueError, "guided needs what stands for no condition"),
    ("tokens for a number", lambda: jd.jumps.rewarded(TOKENS, 1.0), TypeError, "reward must be a function of chances"),
    ("a reward of each token", lambda: jd.jumps.rewarded(TOKENS, lambda chances: chances)(INTEGERS, 0.5),
     ValueError, r"reward\(chances\) must have shape \(4,\)"),
    ("steering by a number", lambda: jd.jumps.steered(KEY, TOKENS, 1.0, 4), TypeError, "reward must be a function of data"),
    ("steering to no end", lambda: jd.jumps.steered(KEY, dataclasses.replace(TOKENS, t_min=0.1), len, 4),
     ValueError, "steered ends in data, got a denoiser of t_min = 0.1"),
    ("steering by each token", lambda: jd.jumps.steered(KEY, TOKENS, lambda data: data, 4), ValueError, r"reward\(data\) must have shape \(32,\)"),
    ("no candidates", lambda: jd.jumps.Resampled(len, 0), ValueError, "num_candidates must be an integer of at least 1"),
    ("Gibbs with one particle", lambda: jd.jumps.particle_gibbs(KEY, TOKENS, len, INTEGERS[:, None], num_particles=1),
     ValueError, "num_particles must be an integer of at least 2"),
    ("Gibbs without paths", lambda: jd.jumps.particle_gibbs(KEY, TOKENS, len, INTEGERS), ValueError, r"paths must have shape \(any, any, 3\)"),
    ("no operator", lambda: jd.inverse.mmps(KNOWN, X, jnp.ones(3), 0.1), TypeError, r"operator must be linear\(function, shape\)"),
    ("an operator of other data", lambda: jd.inverse.tmpd(KNOWN, jd.inverse.mask(np.ones(2, bool)), jnp.ones(2), 0.1),
     ValueError, r"operator must be of data of shape \(3,\), got one of \(2,\)"),
    ("an observation of all rows", lambda: jd.inverse.pigdm(KNOWN, jd.inverse.mask(np.ones(3, bool)), X, 0.1),
     ValueError, r"y must have shape \(3,\), got \(4, 3\)"),
    ("an observation without noise", lambda: jd.inverse.mmps(KNOWN, jd.inverse.mask(np.ones(3, bool)), X[0], 0.0),
     ValueError, "std must be positive"),
    ("a step backwards", lambda: jd.inverse.dps(KNOWN, jd.inverse.mask(np.ones(3, bool)), X[0], step=-1.0),
     ValueError, "step must be positive"),
    ("a noised point of another shape", lambda: jd.inverse.denoising_posterior(KNOWN, PLANE.sample(KEY, 4), 0.5), ValueError, "x must have shape"),
    ("a noised point of no time", lambda: jd.inverse.denoising_posterior(KNOWN, X, -1.0), ValueError, "is outside of the times"),
    ("a chain of no noise", lambda: jd.inverse.split_gibbs(KEY, KNOWN, jd.inverse.mask(np.ones(3, bool)), X[0], 0.1, 2, noises=[0.5, 0.0]),
     ValueError, "noises must be positive"),
    ("a chain of too much noise", lambda: jd.inverse.split_gibbs(KEY, KNOWN, jd.inverse.mask(np.ones(3, bool)), X[0], 0.1, 2, noises=[1e9]),
     ValueError, "is outside of sigma / alpha over"),
    ("a chain by a denoiser", lambda: jd.inverse.split_gibbs(KEY, KNOWN, jd.inverse.mask(np.ones(3, bool)), X[0], 0.1, 2, noises=[0.5], generator=KNOWN),
     TypeError, "generator must be a PosteriorGenerator, got Denoiser"),
    ("a chain by a generator of less noise", lambda: jd.inverse.split_gibbs(
        KEY, KNOWN, jd.inverse.mask(np.ones(3, bool)), X[0], 0.1, 2, noises=[5.0], generator=jd.inverse.PosteriorGenerator(dataclasses.replace(KNOWN, t_max=2.0))
    ), ValueError, "is outside of sigma / alpha over"),
    ("a variance of nothing", lambda: jd.inverse.diffpir(KNOWN, jd.inverse.mask(np.ones(3, bool)), X[0], 0.1, data_std=0.0), ValueError, "data_std must be positive"),
    ("levels that rise", lambda: jd.inverse.daps(KEY, KNOWN, jd.inverse.langevin(len), 2, noises=[0.5, 1.0]), ValueError, "noises must fall, got"),
    ("levels of too much noise", lambda: jd.inverse.daps(KEY, KNOWN, jd.inverse.langevin(len), 2, noises=[1e9, 0.5]), ValueError, "is outside of"),
    ("levels by a denoiser", lambda: jd.inverse.daps(KEY, KNOWN, KNOWN, 2, noises=[0.5]), TypeError, r"correction must be one such as inverse.linear_gaussian\("),
    ("a correction by no operator", lambda: jd.inverse.linear_gaussian(X, X[0], 0.1), TypeError, r"operator must be linear\(function, shape\)"),
    ("a correction by no likelihood", lambda: jd.inverse.langevin(1.0), TypeError, "log_likelihood must be a function of data"),
    ("a correction by no projection", lambda: jd.inverse.projection(1.0), TypeError, "project must be a function of data"),
    ("a correction of no moves", lambda: jd.inverse.langevin(len, num_moves=0), ValueError, "num_moves must be an integer of at least 1"),
    ("an ensemble that sees nothing", lambda: jd.inverse.ensemble_kalman(None, X[0], 0.1), TypeError, "seen must be a function of data"),
    ("an ensemble of many observations", lambda: jd.inverse.ensemble_kalman(len, X, 0.1), ValueError, "y must have shape"),
    ("a prior of no observation", lambda: jd.inverse.draw_each(KEY, KNOWN, (), jd.inverse.mmps), ValueError, "with one leading axis of at least one row; got shapes none"),
    ("a prior by a denoiser", lambda: jd.inverse.draw_each(KEY, KNOWN, X, KNOWN), TypeError, "posterior must be a function of a prior and one observation, got"),
    ("a prior fitted by nothing", lambda: jd.inverse.learn_prior(KEY, KNOWN, X, jd.inverse.mmps, None, num_rounds=1), TypeError, "fit must be a function of a key and data"),
    ("a prior of no rounds", lambda: jd.inverse.learn_prior(KEY, KNOWN, X, jd.inverse.mmps, len, num_rounds=0), ValueError, "num_rounds must be an integer of at least 1"),
    ("a generator of a law", lambda: jd.inverse.PosteriorGenerator(SPACE), TypeError, "denoiser must be a Denoiser, got Gaussian"),
    ("samples by a denoiser as a generator", lambda: jd.inverse.sample_generator(KEY, KNOWN, 3), TypeError, "generator must be a PosteriorGenerator"),
    ("calls and times of a generator", lambda: jd.inverse.sample_generator(KEY, GENERATOR, 3, num_calls=2, times=FALLING), ValueError, "num_calls and times were both"),
    ("a draw at no time", lambda: GENERATOR(KEY, X, U), ValueError, r"t must be a scalar or have shape \(4,\)"),
    ("a posterior's teacher of another schedule", lambda: jd.inverse.posterior_distillation_losses(KEY, GENERATOR, MAP.denoiser, KNOWN, X, 0.5),
     ValueError, "teacher must have the schedule of generator"),
    ("a posterior's fake of a law", lambda: jd.inverse.posterior_distillation_losses(KEY, GENERATOR, KNOWN, SPACE, X, 0.5), TypeError, "fake must be a Denoiser"),
    ("a posterior of NaN", lambda: jd.inverse.posterior_distillation_losses(KEY, GENERATOR, KNOWN, KNOWN, NAN, 0.5), ValueError, "data has 1 non-finite of 12"),
    ("a posterior of no noise", lambda: jd.inverse.posterior_distillation_losses(KEY, GENERATOR, KNOWN, KNOWN, X, 0.0), ValueError, "t = 0 is outside of the times"),
    ("a projection that is none", lambda: jd.projected(KNOWN, 1.0), TypeError, "project must be a function of data"),
    ("a projection that drops an axis", lambda: jd.projected(KNOWN, lambda x: x[..., 0])(X, 0.5), ValueError, r"project\(data\) must have shape"),
    ("a box upside down", lambda: jd.projections.box(1.0, -1.0), ValueError, "low must not be above high"),
    ("a threshold upside down", lambda: jd.projections.dynamic_threshold(1.0, -1.0), ValueError, "low must be below high"),
    ("a threshold of percents", lambda: jd.projections.dynamic_threshold(-1.0, 1.0, 99.5), ValueError, r"quantile must lie in \[0, 1\]"),
    ("a witness of other data", lambda: jd.witness(X, X[:, :1]), ValueError, "generated must have shape"),
    ("a witness of one point", lambda: jd.witness(X[:1], X[:1]), ValueError, "The default bandwidth, the median"),
    ("a witness of no numbers", lambda: jd.witness(X * jnp.nan, X), ValueError, "reference"),
    ("a witness of no width", lambda: jd.witness(X, X, bandwidth=0.0), ValueError, "bandwidth must be positive"),
    ("a witness of other rows", lambda: jd.witness(X, X, bandwidth=1.0)(X[:, :1]), ValueError, "data must have shape"),
    ("amplitudes upside down", lambda: jd.projections.spectral(1.0, 0.5), ValueError, "0 <= low <= high must hold"),
    ("amplitudes of no real data", lambda: jd.projections.spectral(0.0, [1.0, 2.0, 3.0]), ValueError, "the same at k and -k"),
    ("amplitudes of no axis", lambda: jd.projections.spectral(0.0, 1.0, axes=(-1,)), ValueError, "axes must be an integer of at least 0"),
    ("amplitudes of another axis", lambda: jd.projections.spectral(0.0, 1.0, axes=(2,))(X), ValueError, r"axes must be of one datum, of shape \(3,\)"),
    ("a half-space of no normal", lambda: jd.projections.half_space([0.0, 0.0], 1.0), ValueError, "the length of normal"),
    ("a simplex of images", lambda: jd.projections.simplex(jnp.ones((2, 3, 3))), ValueError, "on a simplex must have shape"),
    ("CFG++ of no null condition", lambda: jd.sample(KEY, KNOWN, 2, sampler=jd.CFGPlusPlus(0.5)), ValueError, "what stands for no condition"),
    ("APG of no radius", lambda: jd.APG(2.0, radius=0.0), ValueError, "radius must be positive"),
    ("a function that is not linear", lambda: jd.inverse.linear(lambda x: x**2, (3,)), ValueError, "function must be linear"),
    ("a mask of numbers", lambda: jd.inverse.mask(np.ones(3)), TypeError, "kept must be an array of known booleans"),
    ("a mask of nothing", lambda: jd.inverse.mask(np.zeros(3, bool)), ValueError, "kept must be True somewhere"),
    ("joint of nothing", lambda: jd.joint([]), ValueError, "denoisers must hold at least one denoiser"),
    ("joint of two shapes", lambda: jd.joint([KNOWN, known(untouched, KNOWN.schedule, (2,))]), ValueError, r"denoisers\[1\] must have the shape of denoisers\[0\]"),
    ("an equality of other values", lambda: jd.projections.equality(X, X[0]), ValueError, r"value must have shape \(4,\)"),
    ("composed of nothing", lambda: jd.composed([], []), ValueError, "denoisers must hold at least one denoiser"),
    ("composed with a power too few", lambda: jd.composed([KNOWN, KNOWN], [1.0]), ValueError, r"powers must have shape \(2,\)"),
    ("composed of two schedules", lambda: jd.composed([KNOWN, known(untouched)], [1.0, 1.0]),
     ValueError, r"denoisers\[1\] must have the schedule of denoisers\[0\]"),
    ("no key", lambda: sample_from_noise(0, KNOWN, 4), TypeError, r"such as jax.random.key\(0\), got int"),
    ("an old key", lambda: sample_from_noise(jax.random.PRNGKey(0), KNOWN, 4),
     TypeError, r"such as jax.random.key\(0\), got uint32"),
    ("a forgotten key", lambda: integrate(KNOWN, X, FALLING, FALLING),
     TypeError, "got Denoiser: the key is the first argument"),
    ("keys", lambda: sample_from_noise(jax.random.split(KEY), KNOWN, 4), ValueError, r"key must have shape \(\)"),
    ("no samples", lambda: sample_from_noise(KEY, KNOWN, 0), ValueError, "n must be an integer of at least 1"),
    ("sampler: a class", lambda: sample_from_noise(KEY, KNOWN, 4, sampler=Heun),
     TypeError, "got the class Heun; call it"),
    ("sampler: a string", lambda: sample_from_noise(KEY, KNOWN, 4, sampler="heun"), TypeError, "got 'heun'"),
    ("order of 2.0", lambda: dpm_solver_pp(order=2.0), ValueError, "order must be an integer of at least 1"),
    ("two grids", lambda: sample_from_noise(KEY, KNOWN, 4, times=FALLING, num_steps=3),
     ValueError, "num_steps and times were both given"),
    ("a start of another shape", lambda: sample_from_noise(KEY, KNOWN, 4, start=PLANE),
     ValueError, r"start must be a law of points of shape \(3,\), got one of \(2,\)"),
    ("a start of the wrong scale", lambda: integrate(KEY, KNOWN, jax.random.normal(KEY, (64, 3)), jnp.asarray([80.0, 1.0, 0.1])),
     ValueError, r"x has the root mean square .* at t = 80 of Karras\(\), where noise alone has 80"),
    ("float images of 0 to 255", lambda: losses.denoising_loss(KEY, KNOWN, jnp.linspace(0, 255, 192).reshape(64, 3)),
     ValueError, r"data have the root mean square 147.* the denoiser's scale, 1; .*divide"),
    ("Euler-Maruyama from no signal", lambda: sample_from_noise(KEY, PLANE.denoiser(FLOW), 4, sampler=EulerMaruyama()),
     ValueError, r"EulerMaruyama cannot start at times\[0\] = 1 of RectifiedFlow\(\), where alpha = 0"),
    # nothing in it
    ("a loss of no rows", lambda: jd.denoising_loss(KEY, made(untouched), EMPTY),
     ValueError, r"data must have at least one row, got shape \(0, 3\)"),
    ("a regression of no rows", lambda: regress(untouched, EMPTY), ValueError, "x must have at least one row"),
    ("rewards of columns", lambda: jd.rewards.reward_weights(X), ValueError, r"rewards must have shape \(any,\), got \(4, 3\)"),
    ("an infinite reward", lambda: jd.rewards.reward_weights(jnp.array([0.0, math.inf])), ValueError, "rewards has 1 non-finite of 2"),
    ("a value of other rows", lambda: jd.rewards.log_mean_loss(X[:, 0], X[0]), ValueError, r"value must have shape \(3,\)"),
    ("adjoints of a number", lambda: jd.rewards.adjoint_matching_target(KEY, KNOWN, KNOWN, 1.0, 4, times=jnp.array([0.9, 0.1])), TypeError, "reward must be a function of data"),
    ("adjoints of another base", lambda: jd.rewards.adjoint_matching_target(KEY, KNOWN, PLANE.denoiser(KARRAS), len, 4, times=jnp.array([80.0, 0.1])),
     ValueError, "base must have the s"),
    ("adjoints from little noise", lambda: jd.rewards.adjoint_matching_target(KEY, KNOWN, KNOWN, len, 4, times=jnp.array([0.2, 0.1])), ValueError, "the log-SNR at t_max = 0.2"),
    ("rewards at a later time", lambda: jd.rewards.renoised_reward_target(KEY, KNOWN, KNOWN, len, X, 0.1, at=0.2), ValueError, "t must be later than the time 0.2 where scores are compared"),
    ("rewards at a rate of 2", lambda: jd.rewards.renoised_reward_target(KEY, KNOWN, KNOWN, len, X, 0.5, rate=2.0), ValueError, r"rate must lie in \[0, 1\], got 2"),
    ("rewards of other samples", lambda: jd.rewards.renoised_reward_target(KEY, KNOWN, KNOWN, len, PLANE.sample(KEY, 4), 0.5), ValueError, "data must have shape"),
    ("noisy data at their own noise", lambda: jd.noisy_data_target(KEY, KARRAS, X, 0.5, 0.5), ValueError, "t must be noisier than the data are"),
    ("noisy data of less than no noise", lambda: jd.noisy_data_target(KEY, KARRAS, X, 0.5, -0.1), ValueError, r"std must lie in \[0, inf\], got -0.1"),
    ("Stein of no noise", lambda: jd.sure_loss(known(untouched), X, 0.0), ValueError, "std must be positive and finite"),
    ("Stein of more noise than is known", lambda: jd.sure_loss(known(untouched), X, 1e9), ValueError, "std = 1e\\+09 is outside of"),
    ("an implicit loss of no rows", lambda: jd.implicit_loss(known(untouched), EMPTY, 0.5),
     ValueError, "x must have at least one row"),
    ("a target of no rows", lambda: jd.denoising_target(KEY, VP, EMPTY, 0.5),
     ValueError, "data must have at least one row"),
    ("a pool of no rows", lambda: jd.stable_target(KEY, VP, X, 0.5, pool=EMPTY),
     ValueError, "pool must have at least one row"),
    ("a density of no rows", lambda: jd.log_density(KEY, known(untouched), EMPTY),
     ValueError, "x must have at least one row"),
    ("a bound of no rows", lambda: jd.elbo(KEY, known(untouched), EMPTY, FALLING[::-1], num_paths=2),
     ValueError, "x must have at least one row"),
    ("logits of no rows", lambda: jd.class_logits(KEY, known(untouched), EMPTY, num_classes=2, evaluations=jd.Evaluations(40)),
     ValueError, "x must have at least one row"),
    ("a sample from no rows", lambda: sample(untouched, EMPTY), ValueError, "x must have at least one row"),
    ("a denoiser asked of no rows", lambda: known(untouched)(EMPTY, 0.5), ValueError, "x must have at least one row"),
    ("a fit of no rows", lambda: jd.fit_gaussian(EMPTY), ValueError, "data must hold at least one row"),
    ("pixels of no rows", lambda: jd.data.dequantize(KEY, INTEGERS[:0], levels=4),
     ValueError, "pixels must have at least one row"),
    ("a batch of no rows", lambda: jd.data.batch(KEY, EMPTY, 2), ValueError, "one leading axis of at least one row"),
    ("a distance of no points", lambda: metrics.energy_distance(EMPTY, X),
     ValueError, "x must hold at least 2 points, got 0"),
    # laws of one point, and what is no law
    ("the density of a point", lambda: POINT.log_prob(X),
     ValueError, r"every variance of a law with a density \(noise a singular law first\)"),
    ("samples of a point", lambda: jd.sample(KEY, POINT.denoiser(KARRAS), 4),
     ValueError, r"the denoiser's scale, the standard deviation of its data, must be positive and finite, got 0"),
    ("log_density of a point", lambda: jd.log_density(KEY, POINT.denoiser(VP), X),
     ValueError, "the denoiser's scale, .* must be positive"),
    ("samples of equal points", lambda: jd.sample(KEY, jd.Empirical(X).denoiser(KARRAS), 4),
     ValueError, "the denoiser's scale, .* must be positive"),
    ("a mixture of points", lambda: jd.GaussianMixture([0.5, 0.5], np.eye(2), [0.0, 0.0]).log_prob(np.eye(2)),
     ValueError, "noise a singular law first"),
    ("a start of one point", lambda: flow_of(untouched, start=POINT), ValueError, "noise a singular law first"),
    ("a reference of one point", lambda: jd.density_formula(KEY, known(untouched), X, evaluations=jd.Evaluations(40, reference=POINT)),
     ValueError, "noise a singular law first"),
    ("a Student law of no freedom", lambda: jd.StudentTMixture([1.0], np.zeros((1, 2)), [1.0], 0.0),
     ValueError, "degrees_of_freedom must be positive"),
    ("a labelled reference", lambda: made(untouched, reference=LABELLED),
     TypeError, "reference must be a law .* got Labelled, which has no sample, log_prob, perturbed"),
    ("a labelled reference of a density", lambda: jd.density_formula(KEY, known(untouched), X, evaluations=jd.Evaluations(40, reference=LABELLED)),
     TypeError, "got Labelled, which has no sample"),
    ("a class for a reference", lambda: made(untouched, reference=jd.Gaussian),
     TypeError, "reference must be a law .* got the class Gaussian; call it"),
    ("data for a reference", lambda: made(untouched, reference=X),
     TypeError, "reference must be a law .* got ArrayImpl, which has no sample"),
    ("data for a start", lambda: jd.sample(KEY, KNOWN, 4, start=X),
     TypeError, "start must be a law .* got ArrayImpl, which has no sample, log_prob"),
    ("a family for a start", lambda: jd.sample(KEY, KNOWN, 4, start=jd.starts.gaussian()),
     TypeError, "start must be a law .* got Family"),
    ("a function for a start", lambda: jd.sample(KEY, KNOWN, 4, start=untouched),
     TypeError, "start must be a law .* got the function untouched"),
    ("a denoiser for a law", lambda: theory.score_error(KEY, KNOWN, KNOWN, FALLING),
     TypeError, "distribution must be a law .* got Denoiser, which has no sample"),
    ("no list of laws", lambda: jd.Labelled(PLANE), TypeError, "laws must be a list of laws, got Gaussian"),
    ("arrays for laws", lambda: jd.Labelled([X, X]), TypeError, "law 0 must be a law .* got ArrayImpl"),
    ("laws of several families", lambda: jd.Labelled([PLANE, SPACE]), ValueError, "law 1, .* is not like law 0"),
    ("no labels", lambda: LABELLED.denoiser(VP)(X, 0.5),
     ValueError, r"needs labels: bind it by denoise.given\(labels\)"),
    ("a label of no law", lambda: LABELLED.denoiser(VP).given(2)(X, 0.5),
     ValueError, r"a label must be one of 0, ..., 1, .* got 2"),
    ("labels by one-hot", lambda: LABELLED.denoiser(VP).given(jnp.eye(2)[jnp.zeros(4, int)])(X, 0.5),
     TypeError, "label must be an array of integers, got float32"),
    ("images for a mean", lambda: jd.Gaussian(jnp.zeros((8, 8)), 1.0),
     ValueError, r"mean must have shape \(any,\), got \(8, 8\)"),
    ("a covariance of another d", lambda: jd.Gaussian(jnp.zeros(3), jnp.ones(2)),
     ValueError, r"covariance must have the shape \(\) \(isotropic\), \(3,\)"),
    ("a covariance askew", lambda: jd.Gaussian(jnp.zeros(2), jnp.array([[1.0, 0.5], [0.0, 1.0]])),
     ValueError, "must be symmetric, .* by up to 0.5"),
    ("weights of 1.1", lambda: jd.GaussianMixture([0.5, 0.6], np.zeros((2, 3)), [1.0, 1.0]),
     ValueError, "weights must sum to 1, got 1.1"),
    ("one variance for two means", lambda: jd.GaussianMixture([0.5, 0.5], np.zeros((2, 3)), 1.0),
     ValueError, r"covariances must have the shape \(2,\)"),
    ("a law scaled by NaN", lambda: SPACE.affine(math.nan, 1.0), ValueError, "scale has 1 non-finite"),
    ("a law at no time of its schedule", lambda: SPACE.perturbed(VP, 2.0), ValueError, "t = 2 is outside"),
    ("a law under a number", lambda: SPACE.perturbed(3, 0.2), TypeError, "schedule must be a schedule"),
    ("a number of points in an array", lambda: SPACE.sample(KEY, np.asarray([3])), ValueError,
     "n must be an integer of at least 1"),
    ("a scale for each coordinate", lambda: SPACE.affine(jnp.ones(3), 1.0),
     ValueError, r"scale must have shape \(\), got \(3,\)"),
    ("a wrong shape for a law", lambda: jd.Shaped(SPACE, (2, 2)),
     ValueError, "law must be one of vectors of 4 numbers"),
    ("a number for a shape of a law", lambda: jd.Shaped(SPACE, 3),
     TypeError, "shape must be a tuple of integers .* got 3"),
    ("the density of finitely many points", lambda: jd.Empirical(X).log_prob(X),
     ValueError, "has no density; noise it first"),
    # settings: one number each
    ("a scale of one axis", lambda: made(untouched, scale=jnp.ones(1)),
     ValueError, r"scale must have shape \(\), got \(1,\)"),
    ("a scale in a string", lambda: made(untouched, scale="1"),
     TypeError, "scale must be a number or an array of numbers, got '1'"),
    ("no scale", lambda: made(untouched, scale=None),
     TypeError, "scale must be a number or an array of numbers, got None"),
    ("EDM for each coordinate", lambda: answered(prediction=prediction.EDM(jnp.ones(3))),
     ValueError, r"data_std must have shape \(\), got \(3,\)"),
    ("guidance for each row", lambda: jd.guided(made(untouched, null_condition=jnp.zeros(1)), jnp.ones(4)),
     ValueError, r"scale must have shape \(\), got \(4,\)"),
    ("a rate in a string", lambda: jd.VariancePreserving("0.1"),
     TypeError, "beta_min must be a number or an array of numbers, got '0.1'"),
    ("rates for each coordinate", lambda: jd.VariancePreserving(jnp.ones(2)).alpha(0.5),
     ValueError, r"beta_min must have shape \(\), got \(2,\)"),
    ("a churn in a string", lambda: jd.Heun(churn="1"),
     TypeError, "churn must be a number or an array of numbers, got '1'"),
    ("a churn_range of one end", lambda: jd.Heun(churn_range=1.0),
     ValueError, r"churn_range must be \(low, high\) .* got 1.0"),
    ("an eta of NaN", lambda: jd.DDIM(eta=float("nan")), ValueError, r"eta must lie in \[0, 1\], got nan"),
    ("rhos", lambda: times.power_grid(8, t_min=0.1, t_max=1.0, rho=jnp.ones(2)),
     ValueError, r"rho must have shape \(\), got \(2,\)"),
    ("a grid's scale of one axis", lambda: times.noise_grid(VP, 8, scale=jnp.ones(1)),
     ValueError, r"scale must have shape \(\), got \(1,\)"),
    ("a grid's variances", lambda: times.gaussian_grid(VP, 8, variance=jnp.ones(2)),
     ValueError, r"variance must have shape \(\), got \(2,\)"),
    ("a grid to infinity", lambda: times.noise_grid(KARRAS, 8, t_max=np.inf), ValueError, "t_max has 1 non-finite"),
    ("means of times", lambda: times.log_normal(U, VP, mean=jnp.ones(2)),
     ValueError, r"mean must have shape \(\), got \(2,\)"),
    ("a cut for each row", lambda: times.truncate(FALLING, U), ValueError, r"t_max must have shape \(\), got \(5,\)"),
    ("bandwidths", lambda: metrics.mmd(X, X, bandwidth=jnp.ones(2)),
     ValueError, r"bandwidth must have shape \(\), got \(2,\)"),
    ("a tolerance for each row", lambda: jd.adaptive_probability_flow(KEY, known(untouched), X, tolerance=U),
     ValueError, r"tolerance must have shape \(\), got \(5,\)"),
    ("a first time for each row", lambda: jd.adaptive_probability_flow(KEY, known(untouched), X, t_min=U),
     ValueError, r"t_min must have shape \(\), got \(5,\)"),
    ("masses for a time density", lambda: jd.density_formula(KEY, known(untouched), X, evaluations=jd.Evaluations(40, time_density=U)),
     TypeError, "time_density must be a TimeDensity, got ArrayImpl"),
    ("a step of steps", lambda: jd.data.epoch_batch(KEY, X, 2, jnp.arange(2)),
     ValueError, r"step must have shape \(\), got \(2,\)"),
    ("half a step", lambda: jd.data.epoch_batch(KEY, X, 2, 1.5),
     TypeError, "step must be an array of integers, got float32"),
    ("an order of W in a string", lambda: metrics.wasserstein_1d(U, U, p="2"),
     ValueError, "p must be a finite number of at least 1"),
    # shapes of one datum
    ("a number for a shape", lambda: made(untouched, shape=3),
     TypeError, r"shape must be a tuple of integers of at least 1, .* such as \(32, 32, 3\); got 3"),
    ("no shape", lambda: made(untouched, shape=None), TypeError, "shape must be a tuple of integers .* got None"),
    ("half a pixel", lambda: made(untouched, shape=(3.5,)),
     TypeError, r"shape must be a tuple of integers .* got \(3.5,\)"),
    ("an axis of none", lambda: made(untouched, shape=(0,)),
     TypeError, r"shape must be a tuple of integers .* got \(0,\)"),
    ("an axis left open", lambda: made(untouched, shape=(-1,)),
     TypeError, r"shape must be a tuple of integers .* got \(-1,\)"),
    ("data for a shape", lambda: made(untouched, shape=X),
     TypeError, "shape must be a tuple of integers .* got ArrayImpl"),
    ("channels first", lambda: jd.denoising_loss(KEY, made(untouched, shape=(8, 8, 3)), jnp.ones((4, 3, 8, 8))),
     ValueError, r"data must have shape \(batch, 8, 8, 3\), .* got \(4, 3, 8, 8\)"),
    ("a shape with its batch", lambda: made(untouched, shape=(4, 3))(X, 0.5),
     ValueError, r"x must have shape \(batch, 4, 3\)"),
    # what somebody wrote
    ("a sampler that is no pytree", lambda: jd.sample(KEY, KNOWN, 4, sampler=PlainSampler()),
     TypeError, "sampler must be a pytree, .* make PlainSampler a frozen dataclass under @jaxdiff.pytree"),
    ("a sampler without a state", lambda: jd.sample(KEY, KNOWN, 4, sampler=BareSampler()),
     TypeError, "BareSampler must keep one kind of state, a NamedTuple whose x is the sample"),
    ("a schedule that is no pytree", lambda: made(untouched, schedule=PlainSchedule()),
     TypeError, "schedule must be a pytree, .* make PlainSchedule a frozen dataclass under @jaxdiff.pytree"),
    ("a schedule of math.cos", lambda: made(untouched, schedule=ScheduleOfMath()),
     TypeError, r"alpha and sigma of ScheduleOfMath must be written with jax.numpy, .* \(jnp.cos, not math.cos or np.cos\)"),
    ("a schedule for each coordinate", lambda: made(untouched, schedule=ScheduleOfVectors()),
     ValueError, r"alpha\(t\) of ScheduleOfVectors must have shape \(\), got \(2,\)"),
    ("a network of two answers", lambda: answered(lambda p, x, t: (x, t)),
     ValueError, "predict must answer in the shape of x, .* but answered tuple"),
    ("a network of no answer", lambda: answered(lambda p, x, t: None),
     ValueError, "predict must answer in the shape of x, .* but answered None"),
    ("a denoiser of a tuple", lambda: known(lambda x, t: (x, x))(X, 0.5),
     TypeError, r"must answer a Denoised\(data, noise\), got tuple"),
    ("data where there is no noise", lambda: made(untouched, prediction=prediction.data, t_min=0.0),
     ValueError, "prediction.data says nothing of the noise at t_min = 0 of Var.* predict noise, v or EDM"),
    ("a score where there is no noise", lambda: made(untouched, prediction=prediction.score, t_min=0.0),
     ValueError, "prediction.score says nothing of the noise at t_min = 0"),
    ("a velocity of infinite slope", lambda: made(untouched, prediction=prediction.flow, t_min=0.0),
     ValueError, "prediction.flow says nothing of the noise at t_min = 0"),
    ("types in strings", lambda: jd.convert(VP, X, X, 0.5, source="v", target="data"),
     TypeError, "source must be one of prediction.data, .* got 'v'"),
    ("a conversion at times", lambda: jd.convert(VP, X, X, U[:4], source=prediction.v, target=prediction.data),
     ValueError, r"t must have shape \(\), got \(4,\)"),
    # the wrong thing in a place
    ("a time in a string", lambda: known(untouched)(X, "0.5"),
     TypeError, "t must be a number or an array of numbers, got '0.5'"),
    ("no time", lambda: known(untouched)(X, None), TypeError, "t must be a number or an array of numbers, got None"),
    ("one datum", lambda: known(untouched)(X[0], 0.5), ValueError, r"x must have shape \(batch, 3\), .* got \(3,\)"),
    ("a law for a denoiser", lambda: jd.log_density(KEY, SPACE, X),
     TypeError, "denoise must be a Denoiser, got Gaussian"),
    ("data for a denoiser", lambda: jd.denoising_loss(KEY, X, X),
     TypeError, "denoise must be a Denoiser, got ArrayImpl"),
    ("pixels of bytes", lambda: jd.denoising_loss(KEY, made(untouched), jnp.zeros((4, 3), jnp.uint8)),
     TypeError, "data must be an array of floating-point numbers, got uint8"),
    ("pixels to be noised", lambda: jd.perturb(VP, INTEGERS, X, 0.5),
     TypeError, "data must be an array of floating-point numbers, got int32"),
    ("a batch of images and labels", lambda: jd.denoising_loss(KEY, made(untouched), (X, U)),
     TypeError, "data must be an array of floating-point numbers, got tuple"),
    ("a split", lambda: jd.fit_gaussian(jd.data.Split(np.ones((4, 3)), np.ones((2, 3)), np.ones(4), np.ones(2))),
     TypeError, "data must be a number or an array of numbers, got Split"),
    ("an array for a target", lambda: jd.regression_loss(made(untouched), X, X, 0.5),
     TypeError, r"target must be a Denoised\(data, noise\), got ArrayImpl"),
    ("a tuple for a target", lambda: jd.regression_loss(made(untouched), X, (X, X), 0.5),
     TypeError, r"target must be a Denoised\(data, noise\), got tuple"),
    ("a weight in a string", lambda: weighted("likelihood"),
     TypeError, r"weight must be a function \(schedule, t\) -> \(a, b\), got str"),
    ("a prediction type for a weight", lambda: weighted(prediction.v), TypeError, "give its row, prediction.v.row"),
    ("a weight uncalled", lambda: weighted(weights.min_snr),
     TypeError, "weight must be a row, got the function min_snr; call it"),
    ("a class for a schedule of noise", lambda: jd.perturb(jd.Karras, X, X, 0.5),
     TypeError, "schedule must be a schedule .* got the class Karras; call it"),
    ("noise of another shape on a bridge", lambda: jd.bridge(VP, X, X[:, :2], 0.2, 0.5),
     ValueError, r"x_t must have shape \(4, 3\), got \(4, 2\)"),
    ("a family uncalled", lambda: jd.fit_start(KEY, jd.starts.gaussian, X, KARRAS, 1.0),
     TypeError, r"family must be a Family such as starts.gaussian\(\), got 'gaussian'"),
    ("a label of one row", lambda: jd.fit_labelled_start(
        KEY, jd.starts.plain(), X, [0, 0, 0, 1], KARRAS, 1.0),
     ValueError, r"labels must be 0, ..., K - 1 with at least 2 rows each, got numbers of rows \[3, 1\]"),
    ("labels of other rows", lambda: jd.fit_labelled_start(
        KEY, jd.starts.plain(), X, [0, 0, 1], KARRAS, 1.0),
     ValueError, r"labels must have shape \(4,\)"),
    ("labels that are no integers", lambda: jd.fit_labelled_start(
        KEY, jd.starts.plain(), X, X[:, 0], KARRAS, 1.0),
     TypeError, "labels must be an array of integers"),
    ("a start without noise", lambda: jd.fit_start(KEY, jd.starts.gaussian(), X, KARRAS, 0.0),
     ValueError, "sigma at t_max, .* must be positive"),
    ("times for a curvature", lambda: jd.optimal_grid(FALLING, 3, t_max=1.0, t_min=0.1),
     TypeError, r"curvature must be that of a pilot, score_curvature\(...\), got ArrayImpl"),
    ("times for a curvature of an error", lambda: jd.discretization_error(FALLING, FALLING),
     TypeError, "curvature must be that of a pilot"),
    ("an optimizer uncalled", lambda: jd.init_state(X, optax.adam, ema_decay=None),
     TypeError, r"optimizer must be one of Optax such as optax.adam\(1e-3\), got the function adam"),
    ("parameters for a state", lambda: jd.averaged(X), TypeError, "state must be a TrainState, got ArrayImpl"),
    ("a decay of 1", lambda: jd.make_train_step(untouched, optax.sgd(0.1), ema_decay=1.0),
     ValueError, r"ema_decay must lie in \[0, 1\), got 1.0"),
    ("a mesh for a layout", lambda: jd.data_parallel(untouched, jd.data_mesh()),
     TypeError, r"layout must be a Layout\(data_mesh\(\)\), got Mesh"),
    ("a mesh for a layout of rows", lambda: jd.row_parallel(untouched, jd.data_mesh()),
     TypeError, r"layout must be a Layout\(data_mesh\(\)\), got Mesh"),
    ("a string for a mesh", lambda: jd.Layout("data"), TypeError, r"mesh must be a mesh.* got 'data'"),
    ("a number for devices", lambda: jd.data_mesh(8),
     TypeError, r"devices must be a list such as jax.devices\(\)\[:8\], got int"),
    ("another structure of conditions", lambda: jd.drop_condition(KEY, {"label": INTEGERS[:, 0]}, 3, 0.5),
     ValueError, "null_condition must be of the structure of condition"),
    ("a null condition of another shape", lambda: jd.drop_condition(KEY, X, jnp.zeros((1, 2)), 0.5),
     ValueError, r"null_condition must be one row of the condition, \(3,\), got \(1, 2\)"),
    ("a rate of dropping above 1", lambda: jd.drop_condition(KEY, INTEGERS[:, 0], 3, 1.5),
     ValueError, r"rate must lie in \[0, 1\]"),
    # numbers and keys
    ("samples in two steps", lambda: jd.sample(KEY, KNOWN, 4, num_steps=2),
     ValueError, "num_steps must be an integer of at least 3, got 2"),
    ("samples in ten steps and a half", lambda: jd.sample(KEY, KNOWN, 4, num_steps=10.5),
     ValueError, "num_steps must be an integer of at least 3, got 10.5"),
    ("a shape for a number of samples", lambda: jd.sample(KEY, KNOWN, (4, 3)),
     ValueError, r"n must be an integer of at least 1, got \(4, 3\)"),
    ("an order in a string", lambda: jd.dpm_solver_pp("2"),
     ValueError, "order must be an integer of at least 1, got '2'"),
    ("few evaluations", lambda: jd.log_density(KEY, known(untouched), X, num_evaluations=19),
     ValueError, "num_evaluations must be an integer of at least 20, got 19"),
    ("a density of a short range", lambda: jd.density_formula(KEY, made(untouched, t_max=0.3), X, evaluations=jd.Evaluations(40)),
     ValueError, "the log-SNR at t_max = 0.3 .* wanted less than -4"),
    ("one class", lambda: jd.class_logits(KEY, known(untouched), X, num_classes=1, evaluations=jd.Evaluations(40)),
     ValueError, "num_classes must be an integer of at least 2, got 1"),
    ("no key for a fit", lambda: jd.fit_mixture(0, X, 2),
     TypeError, r"key must be a key such as jax.random.key\(0\), got int"),
    ("no key for a batch", lambda: jd.data.batch(0, X, 2), TypeError, "key must be a key"),
    ("no key for a law", lambda: PLANE.sample(0, 4), TypeError, "key must be a key"),
    ("no key for times", lambda: times.stratified(0, 4), TypeError, "key must be a key"),
    ("no key for projections", lambda: metrics.sliced_wasserstein(0, X, X, num_projections=3),
     TypeError, "key must be a key"),
    ("an old key for pixels", lambda: jd.data.dequantize(jax.random.PRNGKey(0), INTEGERS, levels=4),
     TypeError, "key must be a key .* got uint32"),
    ("no key for conditions", lambda: jd.drop_condition(0, INTEGERS[:, 0], 3, 0.5), TypeError, "key must be a key"),
    ("samples of NaN quantized", lambda: jd.data.quantize(NAN, levels=4), ValueError, "x has 1 non-finite of 12"),
    ("samples of NaN judged", lambda: metrics.frechet_distance(NAN, X),
     ValueError, "x_features has 1 non-finite of 12"),
    ("a distance of words", lambda: metrics.energy_distance("a", "b"),
     TypeError, "x must be a number or an array of numbers, got 'a'"),
    ("a mean of data in one point", lambda: jd.fit_mixture(KEY, X, 2),
     ValueError, "the variance of data must be positive"),]
# fmt: on


@pytest.mark.parametrize(
    ("call", "error", "words"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
def test_bad_input_is_refused_before_the_denoiser_is_called(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_schedule_may_answer_python_numbers():
    """One of a constant alpha is `Karras`, whatever it is asked for."""
    own, x = ScheduleOfNumbers(), 0.5 * X[:2]
    for ask in (
        lambda schedule: jd.log_density(KEY, SPACE.denoiser(schedule), x).value,
        lambda schedule: jd.sample(KEY, SPACE.denoiser(schedule), 2, num_steps=4),
        lambda schedule: weights.likelihood(schedule, 0.5)[1],
        lambda schedule: answer_of(schedule, prediction.flow),
        lambda schedule: answer_of(schedule, prediction.data),
    ):
        np.testing.assert_allclose(ask(own), ask(KARRAS), rtol=1e-5, atol=1e-6)


def answer_of(schedule, kind):
    return make_denoiser(unbound, None, schedule, shape=(3,), prediction=kind)(X, 0.5).noise


@pytest.mark.parametrize(
    "fit",
    [
        lambda x: jd.fit_gaussian(x),
        lambda x: jd.fit_mixture(KEY, x, 2, num_iterations=3),
        lambda x: jd.fit_student_mixture(KEY, x, 2, num_iterations=3),
        lambda x: jd.fit_start(KEY, jd.starts.gaussian(), x, KARRAS, 1.0),
        lambda x: jd.random_features.ridge(x, x[:, :1], penalty=0.1),
    ],
    ids=["gaussian", "mixture", "student", "start", "ridge"],
)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_data_of_half_precision_are_fitted_in_single_precision(fit, dtype):
    x = jax.random.normal(KEY, (50, 3)).astype(dtype)
    wanted = fit(x.astype(jnp.float32))
    jax.tree.map(lambda got, want: np.testing.assert_array_equal(got, want, strict=True), fit(x), wanted)


@pytest.mark.parametrize(
    "run",
    [
        lambda x, t: integrate(KEY, PLANE.denoiser(VP), x, t[::-1]),
        lambda x, t: flow.probability_flow(KEY, PLANE.denoiser(VP), x, t, num_probes=2, start=PLANE).value,
        lambda x, t: targets.stable_target(KEY, VP, x, t[0], pool=x)[0],
        lambda x, t: (
            made(PLANE.denoiser(VP), shape=(2,), reference=PLANE, prediction=prediction.v)(x, t[0]).data
        ),
        lambda x, t: theory.score_error(KEY, PLANE.denoiser(VP), PLANE, t, num_samples=2).value,
        lambda x, t: initial_noise(KEY, PLANE.denoiser(VP), 3, t[0]),
        lambda x, t: times.log_snr_uniform(t, VP, t_min=t[0], t_max=t[1]).t,
        lambda x, t: quantized.quantized_target(KEY, VP, x.astype(int), t, levels=4)[0],
    ],
    ids=["sample", "likelihood", "target", "denoiser", "theory", "noise", "times", "quantized"],
)
def test_values_are_not_looked_at_under_jit(run):
    """A traced call has no values to check: good input gives numbers and NaN gives NaN, without a word."""
    x, t = jnp.ones((3, 2)), jnp.asarray([0.1, 0.5, 0.9])
    traced = jax.jit(run)
    assert np.isfinite(traced(x, t)).all()
    assert np.isnan(traced(x, jnp.full(3, jnp.nan))).any()


def test_shapes_are_looked_at_under_jit():
    with pytest.raises(ValueError, match=r"times must have shape \(any,\), got \(3, 1\)"):
        jax.jit(lambda t: integrate(KEY, SPACE.denoiser(VP), X, t))(FALLING[:, None])
    with pytest.raises(TypeError, match="x must be an array of floating-point numbers, got int32"):
        jax.jit(lambda x: integrate(KEY, SPACE.denoiser(VP), x, FALLING))(INTEGERS)


def test_a_range_is_not_looked_at_where_the_schedule_is_traced():
    """vmap over a schedule's own parameters, with times that are known."""

    def run(beta_max):
        denoise = PLANE.denoiser(schedules.VariancePreserving(0.1, beta_max))
        return integrate(KEY, denoise, X[:, :2], FALLING)

    assert jax.vmap(run)(jnp.asarray([5.0, 20.0])).shape == (2, 4, 2)


@pytest.mark.parametrize(
    ("schedule", "ends"),
    [
        (VP, (0.0, 1.0)),
        (schedules.SubVariancePreserving(), (0.0, 1.0)),
        (schedules.VarianceExploding(), (0.0, 1.0)),
        (KARRAS, (0.0, 80.0)),
        (schedules.Cosine(0.5), (0.0, 1.0)),
        (FLOW, (0.0, 1.0)),
        (schedules.OrnsteinUhlenbeck(), (0.0, 8.0)),
        (schedules.LinearVariance(), (0.0, 1.0)),
        (TABLE, (0.0, 10.0)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_whole_range_of_a_schedule_is_accepted(schedule, ends):
    """Both ends, where slopes are infinite or an alpha or sigma is zero, and the points between."""
    law = Gaussian(jnp.zeros(3), 1.0)
    grid = jnp.linspace(*ends[::-1], 12)
    assert np.isfinite(integrate(KEY, law.denoiser(schedule), X, grid)).all()
