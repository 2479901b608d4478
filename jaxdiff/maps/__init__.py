"""Samples in one to four calls: flow maps, every way to train them, and how they are sampled.

The object is `flow_map`, its training `losses`; `tangents`, `compositions`, `matching` and `reflow` are the
ways to a target, with their mathematics. `distillation` is of laws, and of any generator.
"""

from jaxdiff.maps.compositions import composition_target, consistency_target
from jaxdiff.maps.distillation import score_difference_loss, score_distillation_loss
from jaxdiff.maps.exact import gaussian_map, integrated_map, one_step_map
from jaxdiff.maps.flow_map import FlowMap, make_flow_map
from jaxdiff.maps.losses import (
    consistency_loss,
    continuous_consistency_loss,
    halving,
    map_regression_loss,
    mean_flow_loss,
    progressive_loss,
    shortcut_loss,
)
from jaxdiff.maps.matching import moment_matching_loss
from jaxdiff.maps.pairs import drawn_pairs
from jaxdiff.maps.reflow import reflow_loss, reflow_pairs
from jaxdiff.maps.sampling import sample_map
from jaxdiff.maps.tangents import tangent_target

__all__ = [
    "FlowMap",
    "composition_target",
    "consistency_loss",
    "consistency_target",
    "continuous_consistency_loss",
    "drawn_pairs",
    "gaussian_map",
    "halving",
    "integrated_map",
    "make_flow_map",
    "map_regression_loss",
    "mean_flow_loss",
    "moment_matching_loss",
    "one_step_map",
    "progressive_loss",
    "reflow_loss",
    "reflow_pairs",
    "sample_map",
    "score_difference_loss",
    "score_distillation_loss",
    "shortcut_loss",
    "tangent_target",
]
