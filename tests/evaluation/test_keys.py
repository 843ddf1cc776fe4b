"""A key changes with every edit that can change a prediction, wherever the code lies, and with no other edit."""

import json
import re
import shutil
import sys
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.checkpoints import save_checkpoint, save_question_file
from helpers.forks import start_fork

from tokensel import METHODS
from tokensel.data import DATASETS, Question, load_questions
from tokensel.evaluation.digests import questions_digest
from tokensel.evaluation.keys import PACKAGE, ROOT, code_digest, library_sources
from tokensel.evaluation.source_graph import imported_modules, imports_of, in_package
from tokensel.evaluation.sweep.groups import DataSettings, ModelSettings
from tokensel.evaluation.sweep.plan import Group
from tokensel.evaluation.sweep.work import _shared_settings
from tokensel.methods.user import load_method

REPOSITORY = PACKAGE.parent
PLUGINS = frozenset(method.__module__ for method in METHODS.values() if method.__module__.startswith("tokensel."))
ROOTS = (ROOT, "tokensel.methods.fps", "tokensel.data.diagrams", "tokensel.data.question_file")
COUNTED = sorted(imported_modules(ROOTS, in_package(PACKAGE), PLUGINS))
# What few methods import beside the evaluation counts for these only.
OF_METHODS = {
    "tokensel.models.clip": {"cdpruner"},
    "tokensel.data.keywords": {"mmtok", "semantic"},
    "tokensel.data.topics": {"semantic"},
}
ALL = sorted(
    ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
)
DOCSTRING = '"""'
# An evaluation from questions to predictions, into a store of its own.
EVALUATION = """
import json, sys
from tokensel.data import diagrams, load_questions
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.grid_point import GridPoint
from tokensel.models import load_model

class Store:
    rows = []
    def stored_ids(self): return set()
    def append(self, rows): self.rows += rows

questions = load_questions("question_file", path=sys.argv[2], image_folder=sys.argv[3])
point, loaded = GridPoint("fps", kept=4, agg_layer=2), load_model(sys.argv[1])
print(type(loaded.processor.image_processor).__name__)
for scoring in ("letter", "generate"):
    assert not evaluate(loaded, questions, [point], [Store()], scoring=scoring)
assert len(Store.rows) == 2
print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] in ("tokensel", "runners", "analysis"))))
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the library that a test may edit."""
    return Path(
        shutil.copytree(PACKAGE, tmp_path / "tokensel", ignore=shutil.ignore_patterns("*.safetensors", "__py*"))
    )


def file_of(module, package):
    return in_package(package)(module)


@pytest.fixture(scope="module")
def new_process(tmp_path_factory):
    """An evaluation in a process that has imported nothing of ours before; its tests share what it printed.

    A fork that forgets our modules: a new interpreter imports torch and transformers for seconds.
    """
    folder = tmp_path_factory.mktemp("files")
    files = [save_checkpoint(folder / "model"), save_question_file(folder, 1), folder / "images"]
    process = start_fork(_evaluate_anew, folder, list(map(str, files)))
    process.join(120)
    return Printed(process.exitcode, *((folder / name).read_text() for name in ("out", "err")))


@dataclass
class Printed:
    returncode: int | None
    stdout: str
    stderr: str


def _evaluate_anew(folder, files):
    for name in [name for name in sys.modules if name.split(".")[0] in ("tokensel", "runners", "analysis")]:
        del sys.modules[name]
    sys.argv[1:] = files
    with (
        (folder / "out").open("w") as out,
        (folder / "err").open("w") as err,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        warnings.resetwarnings()
        warnings.simplefilter("error", UserWarning)
        try:
            exec(EVALUATION, {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            raise


def test_every_module_that_an_evaluation_loads_counts(new_process):
    assert new_process.returncode == 0, new_process.stderr
    loaded = set(json.loads(new_process.stdout.splitlines()[-1]))
    assert loaded - PLUGINS - set(OF_METHODS) <= set(COUNTED)
    assert {"tokensel.methods.fps", "tokensel.data.diagrams", "tokensel.data.drawing", ROOT} <= loaded
    assert not {name for name in loaded if name.startswith(("runners", "analysis"))}


def test_pictures_are_prepared_with_pil_and_nothing_is_printed(new_process):
    processor, _ = new_process.stdout.splitlines()
    assert "Pil" in processor
    assert (new_process.returncode, new_process.stderr) == (0, "")


@pytest.mark.parametrize("module", OF_METHODS)
def test_what_few_methods_import_counts_for_them_alone(module):
    counting = {
        name
        for name, method in METHODS.items()
        if method.__module__ in PLUGINS
        and module in imported_modules((ROOT, method.__module__), in_package(PACKAGE), PLUGINS)
    }
    assert counting == OF_METHODS[module]


def test_an_edit_counts_exactly_where_it_can_change_a_prediction(copy):
    """Each counted module has a place of its own in what is hashed, so an edit of any one of them changes the key."""
    before = library_sources(ROOTS, copy, PLUGINS)
    assert len(before) == len(COUNTED)
    edit = '\n# A comment.\ndef _edited() -> None:\n    """A docstring."""\n'
    for module in set(ALL) - set(COUNTED):
        file = file_of(module, copy)
        file.write_text(file.read_text() + edit)
    assert library_sources(ROOTS, copy, PLUGINS) == before
    for module in COUNTED:
        file = file_of(module, copy)
        file.write_text(file.read_text() + edit)
    edited = library_sources(ROOTS, copy, PLUGINS)
    assert all(one != other for one, other in zip(edited, before, strict=True))
    one = file_of("tokensel.engine.stages", copy)
    one.write_text(one.read_text() + "\nEDITED = 1\n")
    assert library_sources(ROOTS, copy, PLUGINS) != edited


def test_comments_and_docstrings_do_not_count(copy):
    before = library_sources(ROOTS, copy, PLUGINS)
    for module in ALL:
        file = file_of(module, copy)
        file.write_text(f"{re.sub(DOCSTRING, DOCSTRING + 'Words. ', file.read_text(), count=1)}\n# A comment.\n")
    assert library_sources(ROOTS, copy, PLUGINS) == before


def test_what_was_moved_still_counts(copy):
    """A package that nobody thought of: the engine's layouts in a folder of their own, under another name."""
    (copy / "engine/deep").mkdir()
    (copy / "engine/deep/__init__.py").write_text("")
    (copy / "engine/layouts.py").rename(copy / "engine/deep/sequences.py")
    for file in copy.rglob("*.py"):
        file.write_text(file.read_text().replace("tokensel.engine.layouts", "tokensel.engine.deep.sequences"))
    before = library_sources(ROOTS, copy, PLUGINS)
    file = copy / "engine/deep/sequences.py"
    file.write_text(file.read_text() + "\nEDITED = 1\n")
    assert library_sources(ROOTS, copy, PLUGINS) != before


def test_a_methods_key_follows_its_own_module_and_its_parents():
    for method, kind in METHODS.items():
        if not kind.__module__.startswith("tokensel."):
            continue
        counted = set(imported_modules((ROOT, kind.__module__), in_package(PACKAGE), PLUGINS))
        assert kind.__module__ in counted
        assert {parent.__module__ for parent in kind.__mro__ if parent.__module__.startswith("tokensel.")} <= counted
        others = counted & PLUGINS - {kind.__module__} - {"tokensel.methods.no_image"}
        assert others <= {parent.__module__ for parent in kind.__mro__}, method
    assert len({code_digest(method) for method in METHODS}) == len(METHODS)


def test_a_data_sets_code_counts_for_its_own_points_only():
    digests = {data: code_digest("fps", data) for data in DATASETS}
    files = {place.split(":")[0] for place in DATASETS.values()}  # MMBench's two languages share one
    assert len(set(digests.values())) == len(files) == len(DATASETS) - 1


def test_what_a_users_file_imports_from_its_folder_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_scores_beside.py").write_text("POWER = 2\n")
    (tmp_path / "unrelated_beside.py").write_text("")
    path = tmp_path / "beside.py"
    path.write_text(
        "import torch\nfrom my_scores_beside import POWER\nfrom tokensel import Method, Selection\n\n"
        "class Beside(Method):\n    def select(self, context):\n        return Selection(context.count * POWER)\n"
    )
    try:
        load_method(f"{path}:Beside")
        before = code_digest("beside")
        (tmp_path / "my_scores_beside.py").write_text("POWER = 2  # a comment\n")
        assert code_digest("beside") == before
        (tmp_path / "my_scores_beside.py").write_text("POWER = 3\n")
        assert code_digest("beside") != before
    finally:
        METHODS.pop("beside", None)
        sys.modules.pop("my_scores_beside", None)


def test_imports_are_read_as_python_reads_them(tmp_path):
    package = tmp_path / "pack"
    (package / "below").mkdir(parents=True)
    for name, source in {
        "__init__": "",
        "one": "",
        "two": "",
        "typed": "",
        "below/__init__": "from .leaf import name\n",
        "below/leaf": "name = 1\n",
        "main": "from typing import TYPE_CHECKING\nfrom . import one\nfrom .below import name\nimport json\n"
        "if TYPE_CHECKING:\n    from pack import typed\n\ndef late():\n    import pack.two\n",
    }.items():
        (package / f"{name}.py").write_text(source)
    find = in_package(package)
    found = set(imports_of((package / "main.py").read_text(), "pack.main", False, find))
    assert {"pack", "pack.one", "pack.below", "pack.below.leaf", "pack.two"} <= found
    assert set(imported_modules(["pack.main"], find)) == {
        "pack",
        "pack.main",
        *found & {"pack.one", "pack.below", "pack.below.leaf", "pack.two"},
    }


def test_another_word_or_answer_changes_the_questions_digest():
    def digest(**changes):
        base = {"id": "1", "text": "what?", "choices": ("a", "b"), "answer": 0, "image": None}
        return questions_digest([Question(**base | changes)])

    variants = [{}, {"text": "who?"}, {"choices": ("a", "c")}, {"answer": 1}, {"image_id": "p"}, {"hint": "h"}]
    assert len({digest(**change) for change in variants}) == len(variants)


def test_frames_of_videos_are_part_of_the_key_only_where_there_are_videos(tmp_path):
    def options(entry, frames):
        (tmp_path / "questions.jsonl").write_text(json.dumps({"id": "1", "question": "?", "answer": "yes"} | entry))
        data = DataSettings(name="question_file", path=str(path), image_folder=str(tmp_path), frames=frames)
        questions = load_questions(data.name, **data.options)
        shared = _shared_settings(Group(ModelSettings(), data, "letter"), "revision", questions)
        return shared["data"]["options"].get("frames"), shared["data"]["digest"]

    path = tmp_path / "questions.jsonl"
    assert options({"image": "a.png"}, 4) == options({"image": "a.png"}, 8)
    assert options({"video": "a"}, 4)[0] == 4
    assert options({"video": "a"}, 4)[1] != options({"video": "a"}, 8)[1]
