"""jaxdiff: score-based diffusion in JAX, as pure functions.

A schedule says how data are noised, a denoiser undoes it, and everything else takes these two: samplers,
likelihoods, losses and diagnostics. Networks to start from are in `jaxdiff.models`.
"""

from jaxdiff import data, models, theory
from jaxdiff.data import feeds, image_sets
from jaxdiff.denoising import parameterizations, quantized
from jaxdiff.denoising.denoiser import Denoiser, Distribution, guided, make_denoiser
from jaxdiff.denoising.prediction import convert
from jaxdiff.densities import discretized
from jaxdiff.densities.classifier import ClassLogits, class_logits
from jaxdiff.densities.discretized import discretized_formula
from jaxdiff.densities.elbo import elbo
from jaxdiff.densities.flow import LogDensity, adaptive_probability_flow, probability_flow
from jaxdiff.densities.formula import (
    TimeDensity,
    density_formula,
    log_density_increment,
    noise_level_curve,
    pilot_time_density,
)
from jaxdiff.laws import metrics
from jaxdiff.laws.distributions import Empirical, Gaussian, GaussianMixture, StudentTMixture
from jaxdiff.laws.fitting import fit_gaussian, fit_mixture, fit_student_mixture
from jaxdiff.learning import bootstrap, ema, random_features
from jaxdiff.learning.bootstrap import bootstrapped_target
from jaxdiff.learning.losses import implicit_loss, regression_loss, score_regularizer, sliced_loss
from jaxdiff.learning.targets import denoising_target, stable_target
from jaxdiff.learning.training import TrainState, averaged, init_state, make_train_step, train
from jaxdiff.noising import times
from jaxdiff.noising.process import bridge, inverse_log_snr, log_snr, perturb, sde, transition
from jaxdiff.noising.schedules import (
    Cosine,
    Karras,
    LinearVariance,
    OrnsteinUhlenbeck,
    RectifiedFlow,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    from_betas,
)
from jaxdiff.running.checkpoints import Checkpoints, restore, save
from jaxdiff.running.parallel import Layout, data_mesh, data_parallel
from jaxdiff.sampling import starts
from jaxdiff.sampling.budget import (
    KLBudget,
    ScoreCurvature,
    discretization_error,
    initialization_error,
    kl_budget,
    optimal_grid,
    score_curvature,
)
from jaxdiff.sampling.flows import Flow, fit_flow
from jaxdiff.sampling.horizon import Horizon, choose_horizon, dip_score
from jaxdiff.sampling.samplers import (
    Sampler,
    ancestral,
    ddim,
    dpm_solver_pp,
    euler_maruyama,
    heun,
    initial_noise,
    predictor_corrector,
    sample,
    sample_path,
)
from jaxdiff.sampling.serving import export_sampler, load_sampler
from jaxdiff.sampling.starts import Family, fit_start
from jaxdiff.theory import LevelError, score_error
from jaxdiff.typing import Denoised, Predictor, Schedule, StartLaw

__all__ = [
    "Checkpoints",
    "ClassLogits",
    "Cosine",
    "Denoised",
    "Denoiser",
    "Distribution",
    "Empirical",
    "Family",
    "Flow",
    "Gaussian",
    "GaussianMixture",
    "Horizon",
    "KLBudget",
    "Karras",
    "Layout",
    "LevelError",
    "LinearVariance",
    "LogDensity",
    "OrnsteinUhlenbeck",
    "Predictor",
    "RectifiedFlow",
    "Sampler",
    "Schedule",
    "ScoreCurvature",
    "StartLaw",
    "StudentTMixture",
    "SubVariancePreserving",
    "TimeDensity",
    "TrainState",
    "VarianceExploding",
    "VariancePreserving",
    "adaptive_probability_flow",
    "ancestral",
    "averaged",
    "bootstrap",
    "bootstrapped_target",
    "bridge",
    "choose_horizon",
    "class_logits",
    "convert",
    "data",
    "data_mesh",
    "data_parallel",
    "ddim",
    "denoising_target",
    "density_formula",
    "dip_score",
    "discretization_error",
    "discretized",
    "discretized_formula",
    "dpm_solver_pp",
    "elbo",
    "ema",
    "euler_maruyama",
    "export_sampler",
    "feeds",
    "fit_flow",
    "fit_gaussian",
    "fit_mixture",
    "fit_start",
    "fit_student_mixture",
    "from_betas",
    "guided",
    "heun",
    "image_sets",
    "implicit_loss",
    "init_state",
    "initial_noise",
    "initialization_error",
    "inverse_log_snr",
    "kl_budget",
    "load_sampler",
    "log_density_increment",
    "log_snr",
    "make_denoiser",
    "make_train_step",
    "metrics",
    "models",
    "noise_level_curve",
    "optimal_grid",
    "parameterizations",
    "perturb",
    "pilot_time_density",
    "predictor_corrector",
    "probability_flow",
    "quantized",
    "random_features",
    "regression_loss",
    "restore",
    "sample",
    "sample_path",
    "save",
    "score_curvature",
    "score_error",
    "score_regularizer",
    "sde",
    "sliced_loss",
    "stable_target",
    "starts",
    "theory",
    "times",
    "train",
    "transition",
]
