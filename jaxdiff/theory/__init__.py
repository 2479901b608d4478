"""Why: diagnostics that need the truth."""

from jaxdiff.theory.joint_learning import (
    LevelError,
    MartingaleTerms,
    empirical_risk,
    forward_path,
    increment_constants,
    increment_covariance,
    martingale_constant,
    martingale_terms,
    minimize_risk,
    posterior_covariance,
    regularized_generator,
    score_error,
)

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
    "regularized_generator",
    "score_error",
]
