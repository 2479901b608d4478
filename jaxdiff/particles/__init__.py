"""Samples with weights: laws that no flow reaches, by many particles that compete."""

from jaxdiff.particles.best_of import best_of
from jaxdiff.particles.composed import Composed
from jaxdiff.particles.driver import Particles, Process, run
from jaxdiff.particles.gibbs import Swept, gibbs, noised_path
from jaxdiff.particles.twisted import Twisted

__all__ = ["Composed", "Particles", "Process", "Swept", "Twisted", "best_of", "gibbs", "noised_path", "run"]
