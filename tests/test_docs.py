"""The documentation names files, functions and pages that exist."""

import ast
import re
from pathlib import Path

import pytest

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
