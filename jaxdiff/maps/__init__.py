"""Samples in one to four calls: flow maps, every way to train them, and how they are sampled."""

from jaxdiff.maps.exact import gaussian_map, integrated_map, one_step_map
from jaxdiff.maps.flow_map import FlowMap, make_flow_map
from jaxdiff.maps.sampling import sample_map

__all__ = ["FlowMap", "gaussian_map", "integrated_map", "make_flow_map", "one_step_map", "sample_map"]
