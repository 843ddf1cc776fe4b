"""What `import tokensel` gives, and that it costs nothing before it is used."""

import ast
import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import tokensel
import tokensel.compat

PACKAGES = (tokensel, tokensel.compat)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_is_what_type_checkers_read(package):
    tree = ast.parse(Path(package.__file__).read_text())
    found = {
        alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    for name in package.__all__:
        assert getattr(package, name) is getattr(importlib.import_module(found[name]), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_dir_shows_the_public_names_and_the_version():
    assert dir(tokensel) == sorted([*tokensel.__all__, "__version__"])
    assert tokensel.__version__ == version("tokensel")
    assert (Path(tokensel.__file__).parent / "py.typed").exists()


def test_importing_the_packages_loads_no_torch_and_submodules_are_there_when_asked_for():
    source = """
import sys, tokensel, tokensel.compat, tokensel.evaluation.sweep.settings
assert not {"torch", "transformers"} & set(sys.modules)
assert tokensel.errors.TokenselError is tokensel.TokenselError
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", source], check=True, timeout=60, cwd=Path(__file__).parents[1])
