"""The documentation names files, functions and pages that exist."""

import ast
import re
from pathlib import Path

import pytest
import torch
from helpers.methods import methods_forgotten
from helpers.models import llava_inputs, tiny_llava

from tokensel import METHODS, make_method, reduce_tokens
from tokensel.testing import make_context

ROOT = Path(__file__).parent.parent
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FOLDERS = ("tokensel", "runners", "analysis", "conf", "tests", "docs")
# `tokensel/engine/split.py` or `tokensel/engine/split.py: SplitModel.run`
FILE = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./]*)(?:: ([\w.]+))?`")
LINK = re.compile(r"\]\(([^)#:]*)(#[^)]*)?\)")
HISTORY = ("CHANGELOG.md",)


def defines(file, name):
    """Whether a Python file defines a name: a function, a class, a constant, or Class.method."""
    body = ast.parse(file.read_text()).body
    for part in name.split("."):
        for node in body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)]
            if part in names:
                body = getattr(node, "body", [])
                break
        else:
            return False
    return True


def anchors(page):
    """The anchors of a page's headings, as code hosts and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_a_page_names_files_and_functions_that_exist(page):
    for path, name in FILE.findall((ROOT / page).read_text()):
        if "NAME" in path:
            continue
        assert (ROOT / path).exists(), path
        assert not name or defines(ROOT / path, name), f"{path}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_links_to_pages_and_headings_that_exist(page):
    for path, anchor in LINK.findall((ROOT / page).read_text()):
        if path.startswith("http"):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        assert not anchor or anchor[1:] in anchors(target), path + anchor


def test_the_picture_of_a_questions_way_names_functions_that_exist():
    texts = re.findall(r"<text [^>]*monospace[^>]*>([^<]+)</text>", (ROOT / "docs/images/flow.svg").read_text())
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    assert len(pairs) == 12
    for name, path in pairs:
        file = ROOT / path if path.startswith("runners/") else ROOT / "tokensel" / path
        assert file.exists(), path
        assert defines(file, name), f"{path}: {name}"


def test_the_readme_is_short_and_has_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    assert (
        "    pip install -c constraints.txt -e . && "
        "python -m runners.sweep kept=8,16,32,64 method=fps,tome --multirun\n" in readme
    )
    assert '    pip install -c constraints.txt -e ".[test]" && pytest\n' in readme


@pytest.fixture
def forgetful():
    """Methods of one test are unknown to the next."""
    with methods_forgotten():
        yield


BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/methods.md").read_text(), re.MULTILINE | re.DOTALL)
CLASSES = {
    f"{index}_{name}": (block, name)
    for index, block in enumerate(BLOCKS)
    for name in re.findall(r"^class (\w+)", block, re.MULTILINE)
}


@pytest.mark.parametrize("example", CLASSES)
def test_the_methods_that_the_docs_show_run(tmp_path, forgetful, example):
    block, name = CLASSES[example]
    path = tmp_path / "mine.py"
    path.write_text(block)
    model = tiny_llava()
    inputs = llava_inputs(model, (5, 9))
    for options in ({}, {"layout": "zero_fill"}):
        with torch.no_grad(), reduce_tokens(model, f"{path}:{name}", kept=7, agg_layer=2, **options) as record:
            output = model(**inputs)
        assert record.positions.shape == (2, 7)
        assert output.logits.isfinite().all()


def test_what_the_docs_methods_choose(tmp_path, forgetful):
    made = {}
    for block, name in CLASSES.values():
        (tmp_path / f"{len(made)}.py").write_text(block)
        made[name] = make_method(f"{tmp_path / f'{len(made)}.py'}:{name}")
        METHODS.pop(made[name].name)  # two examples have one name
    assert {"LargestNorm", "AskedFor", "MergeRuns"} == set(made)
    tokens, attention = torch.randn(2, 36, 8), torch.rand(2, 4, 36)
    context = make_context(5, tokens=tokens, attention={"text": attention})
    expected = attention.mean(1).topk(5).indices.sort().values
    assert torch.equal(made["AskedFor"].select(context).indices, expected)
    merged = made["MergeRuns"].select(context)
    assert merged.indices.tolist() == [[0, 8, 15, 22, 29]] * 2
    assert torch.allclose(merged.values[:, 1], tokens[:, 8:15].mean(1), atol=1e-6)
    assert merged.sizes.sum(1).tolist() == [36, 36]


@pytest.mark.parametrize(("file", "name"), [("largest_norm.py", "LargestNorm"), ("merge_runs.py", "MergeRuns")])
def test_the_tests_that_the_docs_show_pass(tmp_path, forgetful, monkeypatch, file, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_text(next(block for block, made in CLASSES.values() if made == name))
    (block,) = (block for block in BLOCKS if "make_context" in block and file in block)
    exec(compile(block, "docs/methods.md", "exec"), {})
