"""There is one forward: one call of a decoder, one of a decoder layer (for compiled graphs), and one mask builder."""

import ast
import re
from functools import cache
from pathlib import Path

import tokensel

FOLDER = Path(tokensel.__file__).parent


@cache
def calls():
    """Every call in the library: (file, call)."""
    return [
        (path.relative_to(FOLDER).as_posix(), node)
        for path in sorted(FOLDER.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def test_a_decoder_layer_is_called_in_one_place():
    found = [file for file, call in calls() if "position_embeddings" in {each.arg for each in call.keywords}]
    assert found == ["engine/compiled.py"]


def test_a_decoder_is_called_in_one_place():
    found = [
        file
        for file, call in calls()
        if not file.startswith("training/")
        and not ast.unparse(call.func).endswith("create_masks_for_generate")  # a model's own masks
        and {"inputs_embeds", "attention_mask", "position_ids"} <= {each.arg for each in call.keywords}
    ]
    assert found == ["engine/spans.py"]


def test_one_function_builds_masks_of_queries_and_keys():
    engine = [(file, call.func.attr) for file, call in calls() if isinstance(call.func, ast.Attribute)]
    engine = [(file, name) for file, name in engine if file.startswith("engine/")]
    # calls.py checks a mask that it is given; attention.py has the rows that methods rank by.
    assert [file for file, name in engine if name in ("tril", "triu")] == ["engine/calls.py"]
    hiding = [
        path.name for path in (FOLDER / "engine").glob("*.py") if re.search(r"finfo\(.*\)\.min", path.read_text())
    ]
    assert sorted(hiding) == ["attention.py", "layouts.py"]


def test_no_version_number_is_asked_for():
    for path in sorted((FOLDER / "engine").glob("*.py")):
        assert "__version__" not in path.read_text()


def test_files_of_the_engine_fit_in_a_head():
    assert all(len(path.read_text().splitlines()) <= 300 for path in (FOLDER / "engine").glob("*.py"))
