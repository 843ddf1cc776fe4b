"""docs/verified.md: every family and checkpoint is there, and every test that it names exists."""

import ast
import re
from pathlib import Path

import pytest

from tokensel.models.families import FAMILIES
from tokensel.models.published import NAMES, published

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/verified.md").read_text()
CLAIMS = re.findall(r"`(tests/[\w/]+\.py): (\w+)`", PAGE)
TABLES = [line for line in PAGE.splitlines() if line.startswith("|") and "tests/" in line]


@pytest.mark.parametrize(("file", "test"), sorted(set(CLAIMS)))
def test_a_test_that_the_page_names_exists(file, test):
    functions = [node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert test in functions
    assert test.startswith("test_")


def test_every_claim_of_the_tables_names_one_test():
    assert len(TABLES) > 20
    assert all(len(re.findall(r"`tests/", line)) == 1 for line in TABLES)
    assert len(CLAIMS) == len(TABLES)


def test_every_family_and_checkpoint_is_on_the_page():
    families = PAGE.partition("## Family by family")[2].partition("## What only")[0]
    assert all(re.search(rf"\b{family}\b", families) for family in FAMILIES)
    models = {file.stem for file in (ROOT / "conf/model").glob("*.yaml") if not file.stem.endswith("_random")}
    assert all(f"`{name}`" in families for name in models - {"tiny", "local"})


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_the_sources_of_published_settings(name):
    sources = "; ".join(f"{what}: {source}" for what, source in published(name)["sources"].items())
    assert f"| `{name}` | {published(name)['checkpoint']} | {sources} |" in PAGE
