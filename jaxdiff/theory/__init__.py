"""Why: diagnostics that need the truth."""

from jaxdiff.theory.level_error import LevelError, score_error
from jaxdiff.theory.martingale import (
    MartingaleTerms,
    increment_constants,
    increment_covariance,
    martingale_constant,
    martingale_terms,
    posterior_covariance,
)
from jaxdiff.theory.paths import forward_path
from jaxdiff.theory.risk import empirical_risk, minimize_risk

__all__ = [
    "LevelError",
    "MartingaleTerms",
    "empirical_risk",
    "forward_path",
    "increment_constants",
    "increment_covariance",
    "martingale_constant",
    "martingale_terms",
    "minimize_risk",
    "posterior_covariance",
    "score_error",
]
