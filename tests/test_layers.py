"""Imports run one way: a folder imports only from folders before its own."""

import ast
import doctest
import pathlib

import pytest

import jaxdiff

FOLDERS = [
    "typing",
    "_numerics",
    "data",
    "models",
    "noising",
    "denoising",
    "guidance",
    "laws",
    "densities",
    "theory",
    "learning",
    "sampling",
    "maps",
    "particles",
    "jumps",
    "inverse",
    "running",
]
PACKAGE = pathlib.Path(jaxdiff.__file__).parent
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
ALLOWED = {"jax", "flax", "optax", "orbax", "chex", "numpy"}


def folder(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """(top package, folder of jaxdiff or None) of every import in a file, inside functions too."""
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


def test_every_folder_has_its_place():
    assert {folder(path) for path in MODULES} == set(FOLDERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = folder(path)
    for _, module in imports(path):
        if module is not None and module != own:
            assert FOLDERS.index(module) < FOLDERS.index(own), f"{own} imports {module}"


@pytest.mark.parametrize(
    "path", [*MODULES, PACKAGE / "__init__.py"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_the_library_imports_only_what_it_declares(path):
    import sys

    for package, _ in imports(path):
        # scikit-learn is the experiments' extra: the data sets ask for it when one of them is asked for
        extra = {"sklearn"} if path.name == "batches.py" else set()
        assert package in ALLOWED | extra | {"jaxdiff"} or package in sys.stdlib_module_names, package


def test_no_library_module_imports_the_models():
    for path in MODULES:
        if folder(path) != "models":
            assert all(module != "models" for _, module in imports(path)), path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_long(path):
    text = path.read_text()
    # Examples are not counted, nor the two lines that set them apart: no file need be split for them.
    documented = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    shown = 0
    for node in documented:
        if examples := doctest.DocTestParser().get_examples(ast.get_docstring(node) or ""):
            shown += 2 + sum(
                part.count("\n") for example in examples for part in (example.source, example.want)
            )
    assert len(text.splitlines()) - shown <= 400, "split it: one subject a file"


def test_every_flat_name_is_documented():
    import inspect

    for name in jaxdiff.__all__:
        value = getattr(jaxdiff, name)
        if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
            assert inspect.getdoc(value), name
