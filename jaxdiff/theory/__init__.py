"""Why: diagnostics that need the truth."""

from jaxdiff.theory.level_error import LevelError, score_error
from jaxdiff.theory.martingale import (
    MartingaleTerms,
    cluster_constants,
    increment_constants,
    increment_covariance,
    martingale_constant,
    martingale_terms,
    posterior_covariance,
)
from jaxdiff.theory.paths import forward_path
from jaxdiff.theory.risk import empirical_risk, minimize_risk
from jaxdiff.theory.risk_bound import RiskBound, martingale_bound, risk_bound

__all__ = [
    "LevelError",
    "MartingaleTerms",
    "RiskBound",
    "cluster_constants",
    "empirical_risk",
    "forward_path",
    "increment_constants",
    "increment_covariance",
    "martingale_bound",
    "martingale_constant",
    "martingale_terms",
    "minimize_risk",
    "posterior_covariance",
    "risk_bound",
    "score_error",
]
