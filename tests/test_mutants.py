"""The lists of mutants (``python -m tests.mutants``) are of this library: every patch still applies."""

import collections
import dataclasses
import subprocess
import sys

import pytest
from mutants import ROOT, Mutant, StaleError, read

GOOD = Mutant(
    name="bits",
    breaks="nothing",
    file="data/batches.py",
    old="math.log2(levels)",
    new="math.log(levels)",
    test="data/test_batches.py::test_bits_per_dimension",
)


def why_stale(mutant):
    try:
        mutant.check()
    except StaleError as error:
        return f"{mutant.name}: {error}"
    return None


def test_every_patch_applies():
    mutants = read()
    assert [said for said in map(why_stale, mutants) if said] == []
    assert [name for name, times in collections.Counter(m.name for m in mutants).items() if times > 1] == []
    assert len(mutants) >= 100


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, None),
        ({"file": "data/bundles.py"}, "bits: jaxdiff/data/bundles.py is gone"),
        ({"old": "log3("}, "bits: its old text occurs 0 times in jaxdiff/data/batches.py, wanted once"),
        ({"old": "return"}, "bits: its old text occurs"),
        ({"new": "math.log(levels"}, "bits: jaxdiff/data/batches.py does not parse"),
        (
            {"test": "data/test_batches.py::test_bytes"},
            "bits: there is no test tests/data/test_batches.py::test_bytes",
        ),
    ],
)
def test_a_patch_that_does_not_apply_says_why(changed, says):
    said = why_stale(dataclasses.replace(GOOD, **changed))
    assert said == says or (says and said.startswith(says))


@pytest.mark.slow
def test_the_command_tells_what_is_killed():
    """In a copy: this library is as it was."""
    before = (ROOT / "jaxdiff" / GOOD.file).read_text()
    command = [sys.executable, "-m", "tests.mutants", "--only", "bits-in-nats"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("killed")
    assert "100.0% of 1 killed; 0 survived, 0 stale" in run.stdout
    assert (ROOT / "jaxdiff" / GOOD.file).read_text() == before
