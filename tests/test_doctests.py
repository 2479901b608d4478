"""The examples in docstrings are so, and every public name says what it is and what it takes."""

import dataclasses
import doctest
import inspect
import math
import re
import types

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxdiff as jd

GLOBALS = {"dataclasses": dataclasses, "jax": jax, "jnp": jnp, "math": math, "optax": optax, "jd": jd}
PACKAGES = [
    jd,
    *(getattr(jd, name) for name in jd.__all__ if isinstance(getattr(jd, name), types.ModuleType)),
]
# What compiles for more than two seconds: choices among many programs, and races.
SLOW = {
    "choose_horizon",
    "class_logits",
    "density_formula",
    "discretized_formula",
    "export_sampler",
    "fit_factor_mixture",
    "fit_flow",
    "fit_mixture",
    "fit_student_mixture",
    "learn_sampler",
    "optimal_grid",
    "pilot_time_density",
    "telescoped_log_density",
    "tune_sampler",
} | {
    "densities.discretized.discretized_formula",
    "inverse.daps",
    "inverse.learn_prior",
    "jumps.Resampled",
    "jumps.particle_gibbs",
    "jumps.steered",
    "laws.metrics.classifier_two_sample_test",
    "maps.composition_target",
    "maps.consistency_loss",
    "maps.continuous_consistency_loss",
    "maps.drawn_pairs",
    "maps.integrated_map",
    "maps.mean_flow_loss",
    "maps.moment_matching_loss",
    "maps.progressive_loss",
    "maps.reflow_loss",
    "maps.reflow_pairs",
    "particles.run",
}
# Constants, aliases and unions, whose docstrings are not theirs.
PLAIN = {"EXIT_INTERRUPTED", "Predictor", "__version__"}


def documented():
    """Public functions and classes by name; a package's own as `package.name`."""
    for package in PACKAGES:
        prefix = "" if package is jd else package.__name__.removeprefix("jaxdiff.") + "."
        for name in getattr(package, "__all__", vars(package)):
            item = getattr(package, name)
            own = hasattr(package, "__all__") or getattr(item, "__module__", None) == package.__name__
            if own and callable(item) and not name.startswith("_") and name not in PLAIN:
                yield prefix + name, item


PUBLIC = dict(documented())
EXAMPLES = {
    name: example
    for name, item in PUBLIC.items()
    if (
        example := doctest.DocTestParser().get_doctest(item.__doc__ or "", GLOBALS, name, None, None)
    ).examples
}


def case(name):
    marks = [pytest.mark.slow] if name in SLOW else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [case(name) for name in sorted(EXAMPLES)])
def test_an_example(name):
    # rank promotion is the tests' own rule, not one that users live under
    said = []
    with jax.numpy_rank_promotion("allow"):
        failed, tried = doctest.DocTestRunner().run(EXAMPLES[name], out=said.append)
    assert tried
    assert not failed, "".join(said)


# Methods of samplers, protocols and tuples of answers take nothing that is theirs to explain.
UNITS = re.compile(
    r"shape|\(\w*,|\(\d|scalar|array|rows|nats|number|integer|times?\b|noise|steps?\b|bits|variance|directory|file|rates|tree|tokens|parameters",
    re.IGNORECASE,
)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_public_names_say_what_they_are_and_take(package):
    """A summary of one sentence; of what takes arguments, a word on their shapes or units."""
    own = {name: item for name, item in PUBLIC.items() if getattr(package, name.split(".")[-1], None) is item}
    for name, item in own.items():
        text = inspect.getdoc(item)
        assert text, name
        summary = text.split("\n\n")[0].replace("\n", " ")
        assert summary.rstrip(")`").endswith((".", ":")), (name, summary)
        assert len(summary.split()) >= 3, (name, summary)
        assert not summary.startswith(f"{name}("), (name, summary)  # a signature, which NamedTuple writes
        if hasattr(package, "__all__") and inspect.isfunction(item) and inspect.signature(item).parameters:
            assert UNITS.search(text), (name, text)


# Families of starts, whose options are said at the head of their module, and what stands behind `fit_start`.
SAID_ELSEWHERE = {
    f"sampling.starts.{name}"
    for name in [
        "check_fit",
        "gaussian_mixture",
        "low_rank",
        "factor_mixture",
        "student_t_mixture",
    ]
}
LOOKED_AT = re.compile(
    r"^\s+raise (?:Value|Type|FloatingPoint|Runtime)Error|checks\.(?!known|described|numbers)\w+\(", re.M
)


@pytest.mark.parametrize("name", [name for name, item in PUBLIC.items() if inspect.isfunction(item)])
def test_functions_that_refuse_inputs_say_so(name):
    function = inspect.unwrap(PUBLIC[name])
    body = inspect.getsource(function).replace(function.__doc__, "")
    if LOOKED_AT.search(body) and name not in SAID_ELSEWHERE:
        assert re.search("raise|error", function.__doc__, re.IGNORECASE), f"{name}: say what it raises"


def test_newcomers_find_examples():
    """Each flat name that is a function has an example, and of the packages' nearly each."""
    functions = {name for name, item in PUBLIC.items() if not inspect.isclass(item)}
    assert {name for name in functions if "." not in name} <= EXAMPLES.keys()
    assert len(functions & EXAMPLES.keys()) > 0.95 * len(functions)
