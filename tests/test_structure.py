"""Rules for the tests themselves: what several test files need lies in `helpers`; no test reads a caller's frame."""

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))


def imported_names(tree):
    """Every dotted name that a file imports: `from a.b import c` gives a.b.c."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def broken_rules(source):
    tests = {path.stem for path in FILES if path.stem.startswith("test_") or path.stem == "conftest"}
    tree = ast.parse(source)
    for name in imported_names(tree):
        if tests & set(name.split(".")):
            yield f"imports {name}: move what both need to tests/helpers"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("_getframe", "f_locals", "currentframe"):
            yield f"line {node.lineno}: reads a caller's frame"
        if isinstance(node, ast.Attribute) and node.attr == "__setattr__" and ast.unparse(node.value) == "object":
            yield f"line {node.lineno}: sets an attribute of a frozen object; use dataclasses.replace"


def test_a_test_file_imports_no_other_and_reads_no_callers_frame():
    found = {path.relative_to(FOLDER).as_posix(): list(broken_rules(path.read_text("utf-8"))) for path in FILES}
    assert {path: rules for path, rules in found.items() if rules} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from engine.test_compiled import Recording",
        "from engine import test_compiled",
        "import models.test_families as families",
        "import sys; sys._getframe(1)",
        "object.__setattr__(question, 'image', None)",
    ],
)
def test_a_broken_rule_is_found(line):
    assert list(broken_rules(line))
