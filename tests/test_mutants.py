"""The list of mutants (``python -m tests.mutants``) is of this library: every patch still applies."""

import collections

from mutants import StaleError, read


def stale(mutant):
    try:
        mutant.check()
    except StaleError as error:
        return f"{mutant.name}: {error}"
    return None


def test_every_patch_applies():
    mutants = read()
    assert not [said for said in map(stale, mutants) if said]
    assert max(collections.Counter(mutant.name for mutant in mutants).values()) == 1
    assert len(mutants) >= 100
