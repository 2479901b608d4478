"""jaxdiff: score-based diffusion in JAX, as pure functions.

A schedule says how data are noised, a denoiser undoes it, and everything else takes these two: samplers,
likelihoods, losses and diagnostics. Networks to start from are in `jaxdiff.models`.
"""

from jaxdiff import (
    bootstrap,
    data,
    metrics,
    models,
    parameterizations,
    quantized,
    random_features,
    theory,
    times,
)
from jaxdiff.bootstrap import bootstrapped_target
from jaxdiff.checkpoints import Checkpoints, restore, save
from jaxdiff.denoisers import guided, make_denoiser
from jaxdiff.distributions import Empirical, Gaussian, GaussianMixture, StudentTMixture
from jaxdiff.fitting import fit_gaussian, fit_mixture
from jaxdiff.likelihood import LogDensity, probability_flow
from jaxdiff.losses import implicit_loss, regression_loss, sliced_loss
from jaxdiff.parameterizations import convert
from jaxdiff.process import bridge, inverse_log_snr, log_snr, perturb, sde, transition
from jaxdiff.samplers import (
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
from jaxdiff.schedules import (
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
from jaxdiff.targets import denoising_target, stable_target
from jaxdiff.theory import LevelError, score_error
from jaxdiff.training import TrainState, averaged, init_state, make_train_step, train, warm_up_ema
from jaxdiff.typing import Denoised, Denoiser, Distribution, Predictor, Schedule

__all__ = [
    "Checkpoints",
    "Cosine",
    "Denoised",
    "Denoiser",
    "Distribution",
    "Empirical",
    "Gaussian",
    "GaussianMixture",
    "Karras",
    "LevelError",
    "LinearVariance",
    "LogDensity",
    "OrnsteinUhlenbeck",
    "Predictor",
    "RectifiedFlow",
    "Sampler",
    "Schedule",
    "StudentTMixture",
    "SubVariancePreserving",
    "TrainState",
    "VarianceExploding",
    "VariancePreserving",
    "ancestral",
    "averaged",
    "bootstrap",
    "bootstrapped_target",
    "bridge",
    "convert",
    "data",
    "ddim",
    "denoising_target",
    "dpm_solver_pp",
    "euler_maruyama",
    "fit_gaussian",
    "fit_mixture",
    "from_betas",
    "guided",
    "heun",
    "implicit_loss",
    "init_state",
    "initial_noise",
    "inverse_log_snr",
    "log_snr",
    "make_denoiser",
    "make_train_step",
    "metrics",
    "models",
    "parameterizations",
    "perturb",
    "predictor_corrector",
    "probability_flow",
    "quantized",
    "random_features",
    "regression_loss",
    "restore",
    "sample",
    "sample_path",
    "save",
    "score_error",
    "sde",
    "sliced_loss",
    "stable_target",
    "theory",
    "times",
    "train",
    "transition",
    "warm_up_ema",
]
