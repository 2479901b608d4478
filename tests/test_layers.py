"""Imports run one way: a module imports only from layers below its own."""

import ast
import pathlib

import pytest

import jaxdiff

LAYERS = [
    {"typing"},
    {"checks", "pytrees", "shards", "chunks"},
    {"randomness", "ema", "feeds", "serving"},
    {"schedules", "models", "low_discrepancy"},
    {"process", "divergence", "data", "metrics", "training"},
    {
        "parameterizations",
        "times",
        "distributions",
        "samplers",
        "likelihood",
        "theory",
        "budget",
        "checkpoints",
        "image_sets",
        "parallel",
        "progress",
    },
    {"fitting", "denoisers", "quantized", "density", "variational"},
    {"targets", "losses", "random_features", "classifier", "discrete", "flows"},
    {"bootstrap", "initialization"},
    {"horizon"},
]
PACKAGE = pathlib.Path(jaxdiff.__file__).parent
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
ALLOWED = {"jax", "flax", "optax", "orbax", "chex", "numpy"}


def layer(name):
    return next(i for i, names in enumerate(LAYERS) if name in names)


def imports(path):
    """(top package, jaxdiff module or None) of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                yield parts[0], parts[1] if parts[0] == "jaxdiff" and len(parts) > 1 else None
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            parts = (node.module or "").split(".")
            if parts == ["jaxdiff"]:
                for alias in node.names:
                    yield "jaxdiff", alias.name
            else:
                yield parts[0], parts[1] if parts[0] == "jaxdiff" else None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for _, module in imports(path):
        if module is not None and module != own:
            assert layer(module) < layer(own), f"{own} imports {module}"


@pytest.mark.parametrize("path", [*MODULES, PACKAGE / "__init__.py"], ids=lambda p: p.name)
def test_the_library_imports_only_what_it_declares(path):
    import sys

    for package, _ in imports(path):
        # scikit-learn is the experiments' extra: data.py asks for it when a data set is asked for
        extra = {"sklearn"} if path.name == "data.py" else set()
        assert package in ALLOWED | extra | {"jaxdiff"} or package in sys.stdlib_module_names, package


def test_no_library_module_imports_the_models():
    for path in MODULES:
        if path.parent == PACKAGE:
            assert all(module != "models" for _, module in imports(path)), path.name
