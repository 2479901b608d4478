"""Bad input is refused before any work on the batch, by an error that says what was got and what was wanted.

Here are the process, schedules, times, targets, losses, denoisers, samplers, likelihood, theory and quantized
data. The bad inputs of other modules are in test_checkpoints.py, test_data.py, test_distributions.py,
test_fitting.py, test_metrics.py, test_models.py, test_randomness.py and test_training.py, next to what they
need to be made.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import models, theory
from jaxdiff.denoising import prediction, quantized
from jaxdiff.denoising.denoiser import as_denoiser
from jaxdiff.denoising.guidance import guided
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.densities import flow
from jaxdiff.laws import fitting, metrics
from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.learning import losses, targets, training, weights
from jaxdiff.noising import process, schedules, times
from jaxdiff.sampling.ddim import DDIM
from jaxdiff.sampling.dpm_solver import DPMSolverPP
from jaxdiff.sampling.driver import initial_noise, integrate
from jaxdiff.sampling.driver import sample as sample_from_noise
from jaxdiff.sampling.euler_maruyama import EulerMaruyama
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


# Each takes the denoiser that must not be called.
CASES = [
    # process and parameterizations
    (
        "perturb: noise of another shape",
        lambda _: process.perturb(VP, X, X[:, :2], 0.5),
        ValueError,
        r"data and noise must have one shape, got \(4, 3\) and \(4, 2\)",
    ),
    (
        "convert: prediction of another shape",
        lambda _: prediction.convert(VP, X[:2], X, 0.5, source=prediction.v, target=prediction.data),
        ValueError,
        r"prediction and x must have one shape, got \(2, 3\) and \(4, 3\)",
    ),
    ("edm: no spread", lambda _: prediction.EDM(0.0), ValueError, "data_std must be positive"),
    ("edm: negative", lambda _: prediction.EDM(data_std=-0.5), ValueError, "got -0.5"),
    ("min_snr: gamma 0", lambda _: weights.min_snr(0.0), ValueError, "gamma must be positive"),
    # schedules
    ("vp: rate 0", lambda _: schedules.VariancePreserving(0.0), ValueError, "beta_min must be positive"),
    (
        "sub-vp: negative rate",
        lambda _: schedules.SubVariancePreserving(0.1, -2.0),
        ValueError,
        r"beta_max must be positive and finite, got -2",
    ),
    (
        "ve: upside down",
        lambda _: schedules.VarianceExploding(50.0, 0.01),
        ValueError,
        "sigma_min must be below sigma_max, got sigma_min = 50.0",
    ),
    ("from_betas: empty", lambda _: schedules.from_betas(jnp.zeros(0)), ValueError, "number of betas"),
    (
        "perturb: a time for each row",
        lambda _: process.perturb(schedules.Karras(), jnp.ones((3, 3)), jnp.ones((3, 3)), jnp.ones(3)),
        ValueError,
        r"t must have shape \(\), got \(3,\)",
    ),
    ("ve: sigma 0", lambda _: schedules.VarianceExploding(0.0), ValueError, "sigma_min must be positive"),
    (
        "ve: infinite",
        lambda _: schedules.VarianceExploding(sigma_max=np.inf),
        ValueError,
        "sigma_max must be positive and finite, got inf",
    ),
    ("cosine: shift", lambda _: schedules.Cosine(-1.0), ValueError, "shift must be positive"),
    (
        "betas of 1",
        lambda _: schedules.from_betas(jnp.asarray([0.1, 1.0, 0.1])),
        ValueError,
        "betas must lie strictly between 0 and 1, but for a last one of 1; got 0.1 to 1",
    ),
    ("betas of 0", lambda _: schedules.from_betas(jnp.zeros(3)), ValueError, "betas must lie strictly"),
    (
        "betas: table",
        lambda _: schedules.from_betas(U[:, None]),
        ValueError,
        r"betas must have shape \(any,\)",
    ),
    # distributions, fitting and metrics, one each; the rest are in their own files
    ("gaussian: negative", lambda _: Gaussian(np.zeros(2), -1.0), ValueError, "no negative eigenvalue"),
    (
        "mixture: negative",
        lambda _: GaussianMixture([1.0], np.zeros((1, 2)), [[1.0, -1.0]]),
        ValueError,
        "no negative eigenvalue, got one of -1",
    ),
    (
        "student: noise",
        lambda _: StudentTMixture([1.0], np.zeros((1, 2)), [1.0], 3.0, -0.5),
        ValueError,
        "noise_variance must lie in",
    ),
    ("empirical: NaN", lambda _: Empirical(NAN), ValueError, r"points has 1 non-finite of 12 .* \(1, 2\)"),
    (
        "fit: covariance",
        lambda _: fitting.fit_gaussian(X, covariance="diag"),
        ValueError,
        "covariance must be one of 'full', 'diagonal', 'isotropic'; got 'diag'",
    ),
    (
        "fit: few points",
        lambda _: fitting.fit_mixture(KEY, X, 5),
        ValueError,
        "got 4 rows for 5 components",
    ),
    (
        "metric: other d",
        lambda _: metrics.energy_distance(X, X[:, :2]),
        ValueError,
        r"one dimension, got shapes \(4, 3\) and \(4, 2\)",
    ),
    # times
    (
        "stratified: none",
        lambda _: times.stratified(KEY, 0),
        ValueError,
        "n must be an integer of at least 1",
    ),
    (
        "uniform: u is a time",
        lambda _: times.uniform(80 * U, t_min=0.1, t_max=1.0),
        ValueError,
        r"u must lie in \[0, 1\], got \[40",
    ),
    (
        "uniform: order",
        lambda _: times.uniform(U, t_min=1.0, t_max=0.5),
        ValueError,
        "t_min must be below t_max, got t_min = 1.0 and t_max = 0.5",
    ),
    ("log_normal: std", lambda _: times.log_normal(U, KARRAS, std=0.0), ValueError, "std must be positive"),
    (
        "log_normal: integers",
        lambda _: times.log_normal(jnp.arange(2), KARRAS),
        TypeError,
        "u must be .* got int32",
    ),
    (
        "log_snr_uniform: t = 1",
        lambda _: times.log_snr_uniform(U, FLOW, t_min=0.1, t_max=1.0),
        ValueError,
        "the log-SNR at t_max = 1.0 is -inf, wanted a finite one",
    ),
    (
        "log_snr_uniform: u",
        lambda _: times.log_snr_uniform(-U, FLOW, t_min=0.1, t_max=0.9),
        ValueError,
        "u must lie in",
    ),
    (
        "log_snr_grid: t = 0",
        lambda _: times.log_snr_grid(FLOW, 8, t_max=0.9, t_min=0.0),
        ValueError,
        "the log-SNR at t_min = 0.0 is inf, wanted a finite one",
    ),
    (
        "log_snr_grid: negative",
        lambda _: times.log_snr_grid(VP, 8, t_min=-0.5),
        ValueError,
        "t_min = -0.5 is outside of the range of VariancePreserving.*, from 0 to 1",
    ),
    (
        "log_snr_grid: equal ends",
        lambda _: times.log_snr_grid(FLOW, 8, t_max=0.5, t_min=0.5),
        ValueError,
        "t_min must be below t_max",
    ),
    (
        "log_snr_grid: steps",
        lambda _: times.log_snr_grid(VP, 2.5, t_min=0.1),
        ValueError,
        "num_steps must be an integer of at least 1, got 2.5",
    ),
    (
        "power_grid: rho",
        lambda _: times.power_grid(8, t_min=0.1, t_max=1.0, rho=-7.0),
        ValueError,
        "rho must be positive",
    ),
    (
        "power_grid: t_min",
        lambda _: times.power_grid(8, t_min=-1.0, t_max=1.0),
        ValueError,
        "t_min must lie in",
    ),
    (
        "power_grid: infinite",
        lambda _: times.power_grid(8, t_min=0.1, t_max=np.inf),
        ValueError,
        "t_max has 1 non-finite",
    ),
    # targets, losses and denoisers
    (
        "target: integers",
        lambda _: targets.denoising_target(KEY, VP, INTEGERS, 0.5),
        TypeError,
        "data must be an array of floating-point numbers, got int32",
    ),
    (
        "target: NaN",
        lambda _: targets.denoising_target(KEY, VP, NAN, 0.5),
        ValueError,
        r"data has 1 non-finite of 12 values, the first at index \(1, 2\)",
    ),
    (
        "target: t of other rows",
        lambda _: targets.denoising_target(KEY, VP, X, U),
        ValueError,
        r"t must be a scalar or have shape \(4,\), one per row of data; got \(5,\)",
    ),
    (
        "target: t out of range",
        lambda _: targets.denoising_target(KEY, FLOW, X, jnp.asarray([0.1, 0.2, 1.2, 0.3])),
        ValueError,
        r"t\[2\] = 1.2 is outside of the range of RectifiedFlow\(\), from 0 to 1",
    ),
    (
        "stable target: pool",
        lambda _: targets.stable_target(KEY, VP, X, 0.5, pool=X[:, :2]),
        ValueError,
        r"pool must hold rows of shape \(3,\), got \(2,\)",
    ),
    (
        "loss: target",
        lambda d: regress(d, target=Denoised(X, X[:2])),
        ValueError,
        r"target.noise must have the shape of x, \(4, 3\), got \(2, 3\)",
    ),
    ("loss: integers", lambda d: regress(d, INTEGERS), TypeError, "x must be .* got int32; convert it"),
    ("loss: t of other rows", lambda d: regress(d, t=U), ValueError, "t must be a scalar or have shape"),
    (
        "loss: reference",
        lambda d: regress(d, reference=PLANE),
        ValueError,
        r"reference must be a law of points of shape \(3,\), got one of \(2,\); .* Shaped\(law, shape\)",
    ),
    (
        "implicit loss: integers",
        lambda d: losses.implicit_loss(known(d), INTEGERS, 0.5),
        TypeError,
        "x must be an array of floating-point",
    ),
    (
        "sliced loss: probes",
        lambda d: losses.sliced_loss(KEY, known(d), X, 0.5, num_probes=0),
        ValueError,
        "num_probes must be an integer of at least 1, got 0",
    ),
    ("denoiser: integers", lambda d: made(d)(INTEGERS, 0.5), TypeError, "x must be .* got int32"),
    ("denoiser: scalar", lambda d: made(d)(X[0, 0], 0.5), ValueError, r"x must have shape \(batch, ...\)"),
    ("denoiser: t of other rows", lambda d: made(d)(X, U), ValueError, r"one per row of x; got \(5,\)"),
    (
        "denoiser: reference",
        lambda d: made(d, reference=PLANE),
        ValueError,
        "reference must be a law of points",
    ),
    (
        "denoiser: the network's answer",
        lambda _: make_denoiser(answering(4, 1), None, VP, shape=(3,))(X, 0.5),
        ValueError,
        r"predict must answer in the shape of x, \(4, 3\), but answered \(4, 1\)",
    ),
    # samplers
    ("sample: integers", lambda d: sample(d, INTEGERS), TypeError, "x must be .* jnp.asarray"),
    ("sample: a list", lambda d: sample(d, [[1.0]]), TypeError, "x must be an array .* got list"),
    ("sample: NaN", lambda d: sample(d, NAN), ValueError, r"x has 1 non-finite .* \(1, 2\)"),
    (
        "sample: unordered",
        lambda d: sample(d, grid=[0.9, 0.2, 0.5, 0.1]),
        ValueError,
        r"strictly decreasing, but times\[1\] = 0.2 is followed by 0.5",
    ),
    (
        "sample: repeated",
        lambda d: sample(d, grid=[0.9, 0.5, 0.5, 0.1]),
        ValueError,
        r"strictly decreasing, but times\[1\] = 0.5 is followed by 0.5",
    ),
    (
        "sample: increasing",
        lambda d: sample(d, grid=FALLING[::-1]),
        ValueError,
        r"from high to low noise, got 0.1 to 0.9; reverse them with times\[::-1\]",
    ),
    ("sample: one time", lambda d: sample(d, grid=[0.9]), ValueError, "at least 2 entries, got 1"),
    ("sample: scalar times", lambda d: sample(d, grid=0.9), ValueError, r"times must have shape \(any,\)"),
    (
        "sample: NaN time",
        lambda d: sample(d, grid=[0.9, np.nan]),
        ValueError,
        r"times\[1\] = nan is outside of the range",
    ),
    (
        "sample: flow past 1",
        lambda d: sample(d, grid=[1.2, 0.5], schedule=FLOW),
        ValueError,
        r"times\[0\] = 1.2 is outside of the range of RectifiedFlow\(\)",
    ),
    (
        "sample: vp below 0",
        lambda d: sample(d, grid=[0.5, -0.1]),
        ValueError,
        r"times\[1\] = -0.1 is outside",
    ),
    (
        "sample: past the table",
        lambda d: sample(d, grid=[11.0, 5.0, 1.0], schedule=TABLE),
        ValueError,
        r"times\[0\] = 11 is outside of the range of DiscreteVariancePreserving\(10 betas\), from 0 to 10",
    ),
    ("ddim: eta", lambda _: DDIM(eta=1.1), ValueError, r"eta must lie in \[0, 1\], got 1.1"),
    ("heun: churn", lambda _: Heun(churn=-0.1), ValueError, r"churn must lie in \[0, inf\]"),
    ("heun: noise", lambda _: Heun(churn_noise=-1), ValueError, "churn_noise must lie in"),
    (
        "heun: churn_range",
        lambda _: Heun(churn=0.1, churn_range=(2.0, 1.0)),
        ValueError,
        r"churn_range must be \(low, high\) .* got \(2.0, 1.0\)",
    ),
    (
        "dpm: order",
        lambda _: DPMSolverPP(order=4),
        ValueError,
        "order must be one of 1, 2, 3; got 4",
    ),
    (
        "corrector: none",
        lambda _: PredictorCorrector(num_corrections=0),
        ValueError,
        "num_corrections must be an integer of at least 1, got 0",
    ),
    (
        "corrector: step",
        lambda _: PredictorCorrector(signal_to_noise=0.0),
        ValueError,
        "signal_to_noise must be positive",
    ),
    (
        "initial_noise: a time per row",
        lambda d: initial_noise(KEY, known(d), 4, U[:4]),
        ValueError,
        r"t must have shape \(\), got \(4,\)",
    ),
    (
        "initial_noise: out of range",
        lambda d: initial_noise(KEY, known(d, KARRAS), 4, 90.0),
        ValueError,
        r"t = 90 is outside of the times that this denoiser of Karras\(\) knows, from 0 to 80",
    ),
    # likelihood
    ("likelihood: integers", lambda d: flow_of(d, INTEGERS), TypeError, "x must be .* got int32"),
    ("likelihood: NaN", lambda d: flow_of(d, NAN), ValueError, "x has 1 non-finite of 12"),
    (
        "likelihood: decreasing",
        lambda d: flow_of(d, grid=FALLING),
        ValueError,
        "from low to high noise, got 0.9",
    ),
    (
        "likelihood: unordered",
        lambda d: flow_of(d, grid=[0.1, 0.5, 0.2]),
        ValueError,
        r"strictly increasing, but times\[1\] = 0.5 is followed by 0.2",
    ),
    (
        "likelihood: t = 0",
        lambda d: flow_of(d, grid=[0.0, 0.5, 1.0]),
        ValueError,
        r"the log-SNR at times\[0\] = 0 is inf, wanted a finite one",
    ),
    (
        "likelihood: t = 1",
        lambda d: flow_of(d, grid=[0.1, 0.5, 1.0], schedule=FLOW),
        ValueError,
        r"the log-SNR at times\[2\] = 1 is -inf, wanted a finite one",
    ),
    ("likelihood: probes", lambda d: flow_of(d, num_probes=0), ValueError, "num_probes must be an integer"),
    (
        "likelihood: start law",
        lambda d: flow_of(d, start=PLANE),
        ValueError,
        r"start must be a law of points of shape \(3,\), got one of \(2,\)",
    ),
    # theory
    (
        "score_error: one sample",
        lambda d: theory.score_error(KEY, known(d, shape=(2,)), PLANE, FALLING, num_samples=1),
        ValueError,
        "num_samples must be an integer of at least 2, got 1",
    ),
    (
        "score_error: no noise",
        lambda d: theory.score_error(KEY, known(d, shape=(2,)), PLANE, jnp.asarray([0.5, 0.0])),
        ValueError,
        "sigma at each of times must be positive",
    ),
    (
        "score_error: scalar time",
        lambda d: theory.score_error(KEY, known(d, shape=(2,)), PLANE, 0.5),
        ValueError,
        r"times must have shape \(any,\), got \(\)",
    ),
    # quantized data
    (
        "levels: log_prior of a vector",
        lambda _: quantized.predictor(answering(4, 3, 4), LEVELS[0]),
        ValueError,
        r"log_prior must have shape \(..., levels\), as log_histogram gives it; got \(4,\)",
    ),
    (
        "levels: impossible level",
        lambda _: quantized.predictor(answering(4, 3, 4), LEVELS.at[1, 2].set(-jnp.inf)),
        ValueError,
        r"log_prior has 1 non-finite of 12 values, the first at index \(1, 2\)",
    ),
    (
        "levels: x of another d",
        lambda _: level_denoiser(answering(4, 3, 4), X[:, :1]),
        ValueError,
        r"x must have shape \(any, 3\), got \(4, 1\)",
    ),
    (
        "levels: the network's answer",
        lambda _: level_denoiser(answering(4, 3, 1)),
        ValueError,
        r"the network's answer must have shape \(4, 3, 4\), got \(4, 3, 1\)",
    ),
    ("levels: float pixels", lambda _: quantized_target(X), TypeError, "pixels must be an array of integers"),
    ("levels: pixel", lambda _: quantized_target(5 * INTEGERS), ValueError, r"pixels must lie in \[0, 3\]"),
    (
        "levels: t of other rows",
        lambda _: quantized_target(t=U),
        ValueError,
        r"t must have shape .* got \(5,\)",
    ),
    ("levels: scalar t", lambda _: quantized_target(t=0.5), ValueError, r"t must have shape .* got \(\)"),
    (
        "histogram: dequantized",
        lambda _: quantized.log_histogram(X / 2, levels=4),
        TypeError,
        "pixels must be an array of integers, got float32",
    ),
    (
        "histogram: pixel",
        lambda _: quantized.log_histogram(INTEGERS - 2, levels=4),
        ValueError,
        r"pixels must lie in \[0, 3\]",
    ),
    (
        "histogram: no rows",
        lambda _: quantized.log_histogram(INTEGERS[:0], levels=4),
        ValueError,
        "pixels must hold at least one number",
    ),
    (
        "histogram: smoothing",
        lambda _: quantized.log_histogram(INTEGERS, levels=4, smoothing=0.0),
        ValueError,
        "smoothing must be positive",
    ),
]


def unbound(params, x, t):
    return 0 * x


NETWORK = models.ResidualMLP(width=8, num_blocks=0)
STATE = training.TrainState(jnp.zeros((), int), {}, None, ())
KNOWN = make_denoiser(unbound, None, KARRAS, shape=(3,))

# What people write in the place of what is wanted.
CASES += [
    (
        "prediction: a string",
        lambda d: made(d, prediction="v"),
        TypeError,
        r"prediction must be one of prediction.data, noise, score, v, flow or EDM\(std\), got 'v'",
    ),
    (
        "prediction: uncalled",
        lambda d: made(d, prediction=prediction.EDM),
        TypeError,
        "got the class EDM; call it",
    ),
    (
        "prediction: a row",
        lambda d: made(d, prediction=prediction.v.row),
        TypeError,
        "must be one of .* got <fun",
    ),
    (
        "schedule: a class",
        lambda d: made(d, schedule=schedules.Karras),
        TypeError,
        "schedule must be a schedule, got the class Karras; call it",
    ),
    (
        "schedule: a string",
        lambda d: made(d, schedule="vp"),
        TypeError,
        r"such as Karras\(\), got str, which has no",
    ),
    (
        "schedule: no range",
        lambda d: made(d, schedule=type("Mine", (), {"alpha": 1, "sigma": 1})()),
        TypeError,
        "got Mine, which has no t_min, t_max, working_range",
    ),
    (
        "law: a class for a schedule",
        lambda _: PLANE.denoiser(schedules.Karras),
        TypeError,
        "got the class Karras; call it",
    ),
    (
        "network for predict",
        lambda _: make_denoiser(NETWORK, {}, VP, shape=(3,)),
        TypeError,
        r"predict must be a function .* got ResidualMLP; .* make_denoiser\(network.apply, params",
    ),
    (
        "state for params",
        lambda _: make_denoiser(NETWORK.apply, STATE, VP, shape=(3,)),
        TypeError,
        r"got a TrainState; give averaged\(state\)",
    ),
    (
        "network for a denoiser",
        lambda _: sample_from_noise(KEY, NETWORK, 4),
        TypeError,
        r"denoise must be a Denoiser, got ResidualMLP; .* make_denoiser\(network.apply, params, schedule, shape",
    ),
    (
        "network for a function",
        lambda _: as_denoiser(NETWORK, VP, shape=(3,)),
        TypeError,
        "function must be a function .* got ResidualMLP",
    ),
    (
        "function for a denoiser",
        lambda d: sample_from_noise(KEY, d, 4),
        TypeError,
        r"denoise must be a Denoiser, got function; .* as_denoiser\(function, schedule",
    ),
    (
        "denoiser answers an array",
        lambda _: known(lambda x, t: x)(X, 0.5),
        TypeError,
        r"must answer a Denoised\(data, noise\), got .*; a network, which answers an array",
    ),
    (
        "denoiser answers another shape",
        lambda _: known(lambda x, t: Denoised(x, x[:1]))(X, 0.5),
        ValueError,
        r"the denoiser's noise must have shape \(4, 3\), got \(1, 3\)",
    ),
    (
        "x of another shape",
        lambda d: known(d)(X[:, :2], 0.5),
        ValueError,
        r"x must have shape \(batch, 3\), the data's of this denoiser; got \(4, 2\)",
    ),
    (
        "a time it does not know",
        lambda d: made(d, t_min=0.2)(X, 0.1),
        ValueError,
        "t = 0.1 is outside of the times that this denoiser of VariancePreserving.* knows, from 0.2 to 1",
    ),
    (
        "a range that is not the schedule's",
        lambda d: made(d, t_max=80.0),
        ValueError,
        "t_max = 80 is outside of the range of VariancePreserving",
    ),
    ("a range upside down", lambda d: made(d, t_min=0.5, t_max=0.1), ValueError, "t_min must be below t_max"),
    ("a scale of zero", lambda d: made(d, scale=0.0), ValueError, "scale must be positive"),
    (
        "noise where there is no data",
        lambda d: made(d, schedule=FLOW, prediction=prediction.noise),
        ValueError,
        r"prediction.noise says nothing of the data at t_max = 1 of RectifiedFlow.* predict v, flow or EDM",
    ),
    (
        "a condition of other rows",
        lambda _: make_denoiser(lambda p, x, t, c: x, None, VP, shape=(3,)).given(jnp.zeros(5))(X, 0.5),
        ValueError,
        "one row for each of the 4 of x, or one for all; got 5",
    ),
    ("guided by nothing", lambda _: guided(KNOWN, 2.0), ValueError, "make the denoiser with null_condition="),
    (
        "guided by another schedule",
        lambda d: guided(KNOWN, 2.0, unconditional=known(d)),
        ValueError,
        r"unconditional must have the schedule of denoise, Karras\(\); got VariancePreserving",
    ),
    ("no key", lambda _: sample_from_noise(0, KNOWN, 4), TypeError, r"such as jax.random.key\(0\), got int"),
    (
        "an old key",
        lambda _: sample_from_noise(jax.random.PRNGKey(0), KNOWN, 4),
        TypeError,
        r"such as jax.random.key\(0\), got uint32",
    ),
    (
        "a forgotten key",
        lambda _: integrate(KNOWN, X, FALLING, FALLING),
        TypeError,
        "got Denoiser: the key is the first argument",
    ),
    (
        "keys",
        lambda _: sample_from_noise(jax.random.split(KEY), KNOWN, 4),
        ValueError,
        r"key must have shape \(\)",
    ),
    (
        "no samples",
        lambda _: sample_from_noise(KEY, KNOWN, 0),
        ValueError,
        "n must be an integer of at least 1",
    ),
    (
        "sampler: a class",
        lambda _: sample_from_noise(KEY, KNOWN, 4, sampler=Heun),
        TypeError,
        "got the class Heun; call it",
    ),
    ("sampler: a string", lambda _: sample_from_noise(KEY, KNOWN, 4, sampler="heun"), TypeError, "got str"),
    ("order of 2.0", lambda _: DPMSolverPP(order=2.0), ValueError, "order must be an integer of at least 1"),
    (
        "two grids",
        lambda _: sample_from_noise(KEY, KNOWN, 4, times=FALLING, num_steps=3),
        ValueError,
        "num_steps and times were both given",
    ),
    (
        "a start of another shape",
        lambda _: sample_from_noise(KEY, KNOWN, 4, start=PLANE),
        ValueError,
        r"start must be a law of points of shape \(3,\), got one of \(2,\)",
    ),
    (
        "a start of the wrong scale",
        lambda _: integrate(KEY, KNOWN, jax.random.normal(KEY, (64, 3)), jnp.asarray([80.0, 1.0, 0.1])),
        ValueError,
        r"x has the root mean square .* at t = 80 of Karras\(\), where noise alone has 80",
    ),
    (
        "float images of 0 to 255",
        lambda _: losses.denoising_loss(KEY, KNOWN, jnp.linspace(0, 255, 192).reshape(64, 3)),
        ValueError,
        r"data have the root mean square 147.* the denoiser's scale, 1; .*divide",
    ),
    (
        "Euler-Maruyama from no signal",
        lambda _: sample_from_noise(KEY, PLANE.denoiser(FLOW), 4, sampler=EulerMaruyama()),
        ValueError,
        r"EulerMaruyama cannot start at times\[0\] = 1 of RectifiedFlow\(\), where alpha = 0",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_bad_input_is_refused_before_the_denoiser_is_called(call, error, words):
    def denoise(x, t):
        pytest.fail("the denoiser was called, or traced, on bad input")

    with pytest.raises(error, match=words):
        call(denoise)


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
