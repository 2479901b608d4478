"""The comparison with azula: it says where that is missing, and where it is not, both have one denoiser."""

import importlib.util

import pytest

from benchmarks import posteriors
from experiments.conditional.mixtures import Exact


def test_without_azula_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    posteriors.main([])
    assert "azula is not installed" in capsys.readouterr().out


@pytest.mark.slow
def test_both_have_one_denoiser():
    pytest.importorskip("azula")
    assert posteriors.agreement(Exact(8, 2, posteriors.STD)) < 1e-4
