"""jaxdiff: score-based diffusion in JAX, as pure functions.

A schedule says how data are noised, a denoiser undoes it and carries what it knows of both, and everything
else takes the denoiser: samplers, likelihoods, losses and diagnostics. Networks to start from are in
`jaxdiff.models`. Examples in docstrings begin with

    import dataclasses, math, jax, jax.numpy as jnp, optax, jaxdiff as jd
"""

import importlib.metadata

from jaxdiff import data, inverse, jumps, maps, models, particles, theory
from jaxdiff._numerics.pytrees import pytree
from jaxdiff.data import feeds, image_sets
from jaxdiff.denoising import prediction, quantized
from jaxdiff.denoising.conditions import drop_condition
from jaxdiff.denoising.denoiser import Denoiser, Distribution, as_denoiser
from jaxdiff.denoising.discrete_time import ddpm_denoiser
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.denoising.potential import conservative
from jaxdiff.denoising.prediction import PredictionType, convert
from jaxdiff.densities import discretized
from jaxdiff.densities.adaptive_flow import adaptive_probability_flow
from jaxdiff.densities.classifier import ClassLogits, class_logits
from jaxdiff.densities.conservativity import RotationCurve, rotation_curve
from jaxdiff.densities.difference import log_density_difference, telescoped_log_density
from jaxdiff.densities.discretized import discretized_formula
from jaxdiff.densities.elbo import elbo
from jaxdiff.densities.evaluations import Evaluations
from jaxdiff.densities.flow import probability_flow
from jaxdiff.densities.formula import (
    TimeDensity,
    density_formula,
    log_density_increment,
    noise_level_curve,
    pilot_time_density,
)
from jaxdiff.densities.inputs import LogDensity
from jaxdiff.densities.log_density import log_density
from jaxdiff.guidance import projections
from jaxdiff.guidance.classifier_free import guided
from jaxdiff.guidance.composed import composed
from jaxdiff.guidance.joint import joint
from jaxdiff.guidance.projected import projected
from jaxdiff.guidance.tilted import rewarded, tilted
from jaxdiff.laws import metrics
from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.empirical import Empirical
from jaxdiff.laws.factor_fitting import fit_factor_mixture, fit_low_rank
from jaxdiff.laws.factors import FactorMixture
from jaxdiff.laws.fitting import fit_gaussian, fit_mixture, fit_student_mixture
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.labelled import Labelled
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.laws.shaped import Shaped
from jaxdiff.laws.student import StudentTMixture
from jaxdiff.laws.witness import witness
from jaxdiff.learning import bootstrap, ema, random_features, rewards, weights
from jaxdiff.learning.bootstrap import bootstrapped_target
from jaxdiff.learning.conservativity_loss import conservativity_loss
from jaxdiff.learning.losses import (
    denoising_loss,
    implicit_loss,
    regression_loss,
    sliced_loss,
)
from jaxdiff.learning.noisy_data import noisy_data_target, sure_loss
from jaxdiff.learning.score_regularizer import regularized_generator, score_regularizer
from jaxdiff.learning.targets import denoising_target, stable_target
from jaxdiff.learning.training import (
    EXIT_INTERRUPTED,
    TrainState,
    averaged,
    init_state,
    interruption,
    make_train_step,
    train,
)
from jaxdiff.maps.flow_map import FlowMap, make_flow_map
from jaxdiff.maps.sampling import sample_map
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
from jaxdiff.noising.tables import cosine_betas, linear_betas, logarithmic_betas
from jaxdiff.running.checkpoints import Checkpoints, restore, save
from jaxdiff.running.parallel import Layout, data_mesh, data_parallel, row_parallel
from jaxdiff.running.progress import Progress
from jaxdiff.running.safetensors import load_safetensors, save_safetensors
from jaxdiff.sampling import starts
from jaxdiff.sampling.accelerated import AcceleratedDDIM, AcceleratedDDPM
from jaxdiff.sampling.adaptive import AdaptiveSample, integrate_adaptively
from jaxdiff.sampling.budget import (
    KLBudget,
    ScoreCurvature,
    discretization_error,
    initialization_error,
    kl_budget,
    optimal_grid,
    score_curvature,
)
from jaxdiff.sampling.classifier_free import APG, CFGPlusPlus
from jaxdiff.sampling.ddim import DDIM, ancestral
from jaxdiff.sampling.dip import dip_score, dip_scores
from jaxdiff.sampling.driver import initial_noise, integrate, integrate_path, sample
from jaxdiff.sampling.euler_maruyama import EulerMaruyama
from jaxdiff.sampling.exponential_adams import (
    ExponentialAdams,
    deis,
    dpm_solver_pp,
    sde_dpm_solver_pp,
    unipc,
)
from jaxdiff.sampling.exponential_runge_kutta import ExponentialRungeKutta
from jaxdiff.sampling.fitted import fitted_multistep
from jaxdiff.sampling.flow_fitting import fit_flow
from jaxdiff.sampling.flows import Flow
from jaxdiff.sampling.heun import Heun
from jaxdiff.sampling.horizon import Candidates, Horizon, choose_horizon
from jaxdiff.sampling.learned import Learned, learn_sampler
from jaxdiff.sampling.linear import LinearMultistep, linear_multistep
from jaxdiff.sampling.predictor_corrector import PredictorCorrector
from jaxdiff.sampling.renoising import Renoising
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.serving import export_sampler, load_sampler
from jaxdiff.sampling.starts import Family, fit_labelled_start, fit_start
from jaxdiff.sampling.switching import denoiser_flops, switched
from jaxdiff.sampling.tuning import Tuned, tune_sampler
from jaxdiff.theory import LevelError, score_error
from jaxdiff.typing import Denoised, Predictor, Schedule, StartLaw

try:
    __version__ = importlib.metadata.version("jaxdiff")
except importlib.metadata.PackageNotFoundError:  # run from its source
    __version__ = "unknown"

__all__ = [
    "APG",
    "DDIM",
    "EXIT_INTERRUPTED",
    "AcceleratedDDIM",
    "AcceleratedDDPM",
    "AdaptiveSample",
    "CFGPlusPlus",
    "Candidates",
    "Checkpoints",
    "ClassLogits",
    "Cosine",
    "Denoised",
    "Denoiser",
    "Distribution",
    "Empirical",
    "EulerMaruyama",
    "Evaluations",
    "ExponentialAdams",
    "ExponentialRungeKutta",
    "FactorMixture",
    "Family",
    "Flow",
    "FlowMap",
    "Gaussian",
    "GaussianMixture",
    "Heun",
    "Horizon",
    "KLBudget",
    "Karras",
    "Labelled",
    "Layout",
    "Learned",
    "LevelError",
    "LinearMultistep",
    "LinearVariance",
    "LogDensity",
    "OrnsteinUhlenbeck",
    "PredictionType",
    "Predictor",
    "PredictorCorrector",
    "Progress",
    "RectifiedFlow",
    "Renoising",
    "RotationCurve",
    "Sampler",
    "Schedule",
    "ScoreCurvature",
    "Shaped",
    "Spectrum",
    "StartLaw",
    "StudentTMixture",
    "SubVariancePreserving",
    "TimeDensity",
    "TrainState",
    "Tuned",
    "VarianceExploding",
    "VariancePreserving",
    "__version__",
    "adaptive_probability_flow",
    "ancestral",
    "as_denoiser",
    "averaged",
    "bootstrap",
    "bootstrapped_target",
    "bridge",
    "choose_horizon",
    "class_logits",
    "composed",
    "conservative",
    "conservativity_loss",
    "convert",
    "cosine_betas",
    "data",
    "data_mesh",
    "data_parallel",
    "ddpm_denoiser",
    "deis",
    "denoiser_flops",
    "denoising_loss",
    "denoising_target",
    "density_formula",
    "dip_score",
    "dip_scores",
    "discretization_error",
    "discretized",
    "discretized_formula",
    "dpm_solver_pp",
    "drop_condition",
    "elbo",
    "ema",
    "export_sampler",
    "feeds",
    "fit_factor_mixture",
    "fit_flow",
    "fit_gaussian",
    "fit_labelled_start",
    "fit_low_rank",
    "fit_mixture",
    "fit_start",
    "fit_student_mixture",
    "fitted_multistep",
    "from_betas",
    "guided",
    "image_sets",
    "implicit_loss",
    "init_state",
    "initial_noise",
    "initialization_error",
    "integrate",
    "integrate_adaptively",
    "integrate_path",
    "interruption",
    "inverse",
    "inverse_log_snr",
    "joint",
    "jumps",
    "kl_budget",
    "learn_sampler",
    "linear_betas",
    "linear_multistep",
    "load_safetensors",
    "load_sampler",
    "log_density",
    "log_density_difference",
    "log_density_increment",
    "log_snr",
    "logarithmic_betas",
    "make_denoiser",
    "make_flow_map",
    "make_train_step",
    "maps",
    "metrics",
    "models",
    "noise_level_curve",
    "noisy_data_target",
    "optimal_grid",
    "particles",
    "perturb",
    "pilot_time_density",
    "prediction",
    "probability_flow",
    "projected",
    "projections",
    "pytree",
    "quantized",
    "random_features",
    "regression_loss",
    "regularized_generator",
    "restore",
    "rewarded",
    "rewards",
    "rotation_curve",
    "row_parallel",
    "sample",
    "sample_map",
    "save",
    "save_safetensors",
    "score_curvature",
    "score_error",
    "score_regularizer",
    "sde",
    "sde_dpm_solver_pp",
    "sliced_loss",
    "stable_target",
    "starts",
    "sure_loss",
    "switched",
    "telescoped_log_density",
    "theory",
    "tilted",
    "times",
    "train",
    "transition",
    "tune_sampler",
    "unipc",
    "weights",
    "witness",
]
