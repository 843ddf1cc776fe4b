"""A user's own method, in a file of theirs or from a package of theirs: swept by the main command as it is."""

import inspect
import itertools
import json
import sys

import pytest
from helpers.checkpoints import save_checkpoint, save_question_file
from helpers.methods import methods_forgotten
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from runners.configuration.methods import offer_methods
from runners.sweep import CONF, main
from tokensel import METHODS, TokenselError, make_method
from tokensel.evaluation.keys import code_digest
from tokensel.evaluation.sweep import here
from tokensel.methods.user import find_user_method, load_method

pytestmark = pytest.mark.usefixtures("undrawn")

# Word for word the file in docs/methods.md, "Your own method".
LARGEST_NORM = '''\
from dataclasses import dataclass

from tokensel import Context, Method, Selection


@dataclass
class LargestNorm(Method):
    """Keep the visual tokens with the largest norm."""

    power: float = 2.0

    def select(self, context: Context) -> Selection:
        order = context.tokens.float().norm(p=self.power, dim=-1).argsort(dim=1, descending=True, stable=True)
        return Selection(order[:, : context.kept].sort(dim=1).values)  # [B, kept]
'''
LAST = """\
import torch
from tokensel import Method, Selection

SHIFT = 0

class LastOnes(Method):
    step: int = 1

    def select(self, context):
        chosen = torch.arange(-context.kept, 0) * self.step + context.count - SHIFT
        return Selection(chosen.expand(len(context.tokens), -1))
"""
COUNT, TOKENS = 4, 36


@pytest.fixture(autouse=True)
def forgetful():
    """Methods and choices of one test are unknown to the next."""
    with methods_forgotten():
        yield
    ConfigStore.instance().repo.pop("method", None)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    save_checkpoint(folder / "model")
    save_question_file(folder, COUNT)
    return folder


@pytest.fixture
def sweep(world, tmp_path, capsys):
    """Runs the sweep on a random model, each time into a folder of its own: exit status, the JSON of its last line,
    standard output, standard error."""
    number = itertools.count()

    def start(*overrides):
        fixed = ["model=local", f"model.path={world / 'model'}", "model.device=cpu", "data=question_file"]
        fixed += [f"path={world / 'questions.json'}", f"image_folder={world / 'images'}", "logger=none"]
        fixed += [f"output_dir={tmp_path / 'out'}", f"name=sweep{next(number)}", "latency.repeats=0", "kept=4"]
        status = main([*fixed, *overrides])
        out, err = capsys.readouterr()
        lines = out.splitlines()
        line = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None
        return status, line, out, err

    return start


@pytest.fixture
def written(tmp_path):
    """Writes a file and returns its path."""

    def write(content, name="my_method.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    return write


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package of one module with entry points, {name: value}, as pip leaves it."""

    def install(name, content, points):
        site = tmp_path / "site"
        folder = site / f"{name}-1.0.dist-info"
        folder.mkdir(parents=True)
        (site / f"{name}.py").write_text(content)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        listed = "".join(f"{point} = {value}\n" for point, value in points.items())
        (folder / "entry_points.txt").write_text(f"[tokensel.methods]\n{listed}")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, name, raising=False)

    return install


def positions(tmp_path, line, method):
    """What a method kept of every question: the set of its different choices."""
    (point,) = (point for point in line["points"] if point["method"] == method)
    (file, *_) = tmp_path.glob(f"out/*/{point['key']}/predictions.jsonl")
    return {tuple(json.loads(row)["positions"]) for row in file.read_text().splitlines()}


def test_the_readmes_file_is_swept_on_the_embedded_model(written, tmp_path, capsys):
    assert len(LARGEST_NORM.splitlines()) < 15
    path = written(LARGEST_NORM, "largest_norm.py")
    asked = [f"method={path}:LargestNorm,fps", "kept=8,16", "limit=2", "logger=none", "latency.repeats=0"]
    status = main([*asked, f"output_dir={tmp_path / 'out'}", "--multirun"])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    assert sum(line.split()[:1] == ["largest_norm"] for line in out.splitlines()) == 2
    points = json.loads(out.splitlines()[-1])["points"]
    assert {(p["method"], p["kept"]) for p in points} == {
        ("full", None),
        ("no_image", 0),
        *((method, kept) for method in ("largest_norm", "fps", "fastv", "random") for kept in (8, 16)),
    }
    for point in points:
        if point["method"] == "largest_norm":
            assert (point["n"], point["method.power"], point["aggregation"]) == (2, 2.0, "none")
            folder = tmp_path / "out/sweep" / point["key"]
            assert OmegaConf.load(folder / "config.yaml").method == "largest_norm"


def test_the_class_chooses_the_tokens_and_its_fields_are_options(sweep, written, tmp_path):
    path = written(LAST)
    _, line, _, err = sweep(f"method={path}:LastOnes")
    assert err == ""
    assert positions(tmp_path, line, "last_ones") == {(TOKENS - 4, TOKENS - 3, TOKENS - 2, TOKENS - 1)}
    _, line, _, _ = sweep(f"method={path}:LastOnes", "method.step=1,2", "--multirun", "controls=[]")
    assert [p["method.step"] for p in line["points"]] == [1, 2]
    _, line, _, _ = sweep(f"method={path}:LastOnes", "method.step=2", "controls=[]")
    assert positions(tmp_path, line, "last_ones") == {(TOKENS - 8, TOKENS - 6, TOKENS - 4, TOKENS - 2)}


def test_a_users_method_can_be_a_control(sweep, written):
    path = written(LAST)
    status, line, _, _ = sweep("method=fps", f"controls=[full,{path}:LastOnes]")
    assert status == 0
    assert {p["method"] for p in line["points"]} == {"fps", "full", "last_ones"}


def test_the_config_says_where_the_class_is(sweep, written, monkeypatch, tmp_path):
    written(LAST)
    monkeypatch.chdir(tmp_path)
    _, _, out, _ = sweep("method=my_method.py:LastOnes", "--cfg", "job")
    node = OmegaConf.create(out).method
    own = {"name": "last_ones", "file": f"{tmp_path / 'my_method.py'}:LastOnes", "step": 1}
    assert dict(node) == own | {"precision": "float32"}
    del METHODS["last_ones"]
    assert load_method(node.file) is METHODS["last_ones"]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("method=own/my method.py:LastOnes", "method=last_ones"),
        ("method=fps,own/my method.py:LastOnes", "method=fps,last_ones"),
        ("method=own/my method.py:LastOnes,fps", "method=last_ones,fps"),
        ('method="own/my method.py:LastOnes",fps', "method=last_ones,fps"),
        ("method='own/my method.py:LastOnes'", "method=last_ones"),
        ("method='own/a, b.py:LastOnes',fps", "method=last_ones,fps"),
        ("method=./own/../own/bob's.py:LastOnes", "method=last_ones"),
        ("method=own/a=b.py:LastOnes", "method=last_ones"),
        ("method=~/my method.py:LastOnes", "method=last_ones"),
        ("controls=[full, 'own/a, b.py:LastOnes']", "controls=[full,last_ones]"),
        ("controls=[]", "controls=[]"),
        ("method=glob(*)", "method=glob(*)"),
        ("model.path=own/my method.py:LastOnes", "model.path=own/my method.py:LastOnes"),
        ("--multirun", "--multirun"),
    ],
)
def test_only_names_of_methods_are_replaced(written, monkeypatch, tmp_path, argument, expected):
    for name in ("my method.py", "a, b.py", "bob's.py", "a=b.py"):
        written(LAST.replace("LastOnes", "LastOnes" if name in argument else "Other"), f"own/{name}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "own"))
    assert offer_methods([argument], CONF) == [expected]


def test_a_path_with_a_space_is_swept(sweep, written):
    path = written(LAST, "my methods/last ones.py")
    status, line, _, _ = sweep(f"method={path}:LastOnes,fps", "controls=[]", "--multirun")
    assert status == 0
    assert {p["method"] for p in line["points"]} == {"last_ones", "fps"}


def test_an_edited_file_gets_new_keys_and_a_comment_does_not(sweep, written, tmp_path):
    def swept(content):
        status, line, _, _ = sweep(f"method={written(content)}:LastOnes", "controls=[fps]")
        assert status == 0
        return {p["method"]: p["key"] for p in line["points"]}, positions(tmp_path, line, "last_ones")

    first, _ = swept(LAST)
    again, _ = swept("# An idea.\n" + LAST)
    edited, chosen = swept(LAST.replace("SHIFT = 0", "SHIFT = 5"))
    assert again == first
    assert edited["fps"] == first["fps"]
    assert edited["last_ones"] != first["last_ones"]
    assert chosen == {(TOKENS - 9, TOKENS - 8, TOKENS - 7, TOKENS - 6)}


def test_a_changed_parent_changes_the_key_too(written, package, tmp_path):
    package("tokensel_parents", LAST, {})
    child = "from tokensel_parents import LastOnes\n\nclass Child(LastOnes):\n    size: int = 1\n"
    load_method(f"{written(child)}:Child")
    before = code_digest("child")
    (tmp_path / "site/tokensel_parents.py").write_text(LAST + "LATER = 1\n")
    assert code_digest("child") != before


def test_a_file_runs_once_for_each_content(written, tmp_path):
    log = tmp_path / "log"
    content = LAST + f"open({str(log)!r}, 'a').write('x')\n"
    first = load_method(f"{written(content)}:LastOnes")
    assert load_method(f"{tmp_path}/../{tmp_path.name}/my_method.py:LastOnes") is first
    # As many characters as before, within the same second.
    second = load_method(f"{written(content.replace('SHIFT = 0', 'SHIFT = 5'))}:LastOnes")
    assert METHODS["last_ones"] is second is not first
    assert log.read_text() == "xx"


def test_the_source_that_counts_is_the_one_that_ran(written):
    path = written(LAST)
    method = load_method(f"{path}:LastOnes")
    path.write_text("edited while the sweep runs")
    assert inspect.getsource(sys.modules[method.__module__]) == LAST


def test_library_calls_take_a_file_too(written):
    path = written(LARGEST_NORM)
    assert make_method(f"{path}:LargestNorm", power=1.0).power == 1.0
    with pytest.raises(TokenselError, match="no such option; it has power"):
        make_method(f"{path}:LargestNorm", q=1.0)
    assert find_user_method("nothing_of_this_name") is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("LargestNorm", "largest_norm"),
        ("HTTPNorm", "http_norm"),
        ("Norm2D", "norm2d"),
        ("Top2Norm", "top2_norm"),
        ("P", "p"),
    ],
)
def test_a_class_without_a_name_is_called_by_its_class_name(written, kind, name):
    path = written(LARGEST_NORM.replace("LargestNorm", kind))
    assert load_method(f"{path}:{kind}").name == name
    assert METHODS[name].__name__ == kind


def test_a_name_of_its_own_is_kept_and_a_parents_is_not_taken_over(written):
    named = LARGEST_NORM.replace("    power", '    name = "longest"\n    power')
    path = written(named + "\n\nclass Heir(LargestNorm):\n    pass\n")
    assert load_method(f"{path}:LargestNorm").name == "longest"
    assert load_method(f"{path}:Heir").name == "heir"


def test_two_files_cannot_share_a_name(written):
    first = load_method(f"{written(LAST, 'a.py')}:LastOnes")
    with pytest.raises(TokenselError, match=r"'last_ones' is taken by LastOnes in .*a\.py"):
        load_method(f"{written(LAST, 'b.py')}:LastOnes")
    assert METHODS["last_ones"] is first


BESIDE = """
from tokensel import register_method

@register_method
class Beside(Method):
    name = "tome"
"""
MISTAKES = {
    "no file": (None, ":LastOnes", ["my_method.py:LastOnes", "cannot be read: No such file"]),
    "no class named": (LAST, "", ["my_method.py: must be FILE.py:CLASS"]),
    "no word": (LAST, ":a-b", ["my_method.py:a-b: must be FILE.py:CLASS"]),
    "no such class": (LAST, ":Lost", ["no class Lost there; choose from LastOnes"]),
    "no class at all": ("x = 1", ":Lost", ["it has no subclass of tokensel.Method"]),
    "another class": ("class Mine:\n    pass\n", ":Mine", ["must be a subclass of tokensel.Method"]),
    "Method itself": (LAST, ":Method", ["must be a subclass of tokensel.Method"]),
    "a module": (LAST, ":torch", ["must be a subclass of tokensel.Method"]),
    "syntax": ("x = 1\nclass Mine(\n", ":Mine", ["my_method.py, line 2: SyntaxError: '(' was never closed"]),
    "null byte": ("x = '\0'\n", ":Mine", ["my_method.py", "null bytes"]),
    "raises": ("x = 1\n\nraise ValueError('one\\ntwo')\n", ":Mine", ["my_method.py, line 3: ValueError: one"]),
    "raises within": ("def f():\n    int('x')\n\nf()\n", ":Mine", ["line 2: ValueError"]),
    "import": ("import not_there_at_all\n", ":Mine", ["line 1: ModuleNotFoundError: No module named"]),
    "exits": ("import sys\nsys.exit(3)\n", ":Mine", ["line 2: SystemExit: 3"]),
    "a built-in's name": (LAST.replace("LastOnes", "Fps"), ":Fps", ["'fps' is taken by FarthestPoint"]),
    "a built-in's name beside it": (
        LAST + BESIDE,
        ":LastOnes",
        ["'tome' is taken by MedoidToMe"],
    ),
    "not a name": (
        LAST.replace("    step", "    name = 'a,b'\n    step"),
        ":LastOnes",
        ["'a,b': must be letters"],
    ),
    "name as option": (LAST.replace("step: int = 1", "name: str = 'a'"), ":LastOnes", ["name cannot be an option"]),
    "no select": (LAST.replace("def select", "def selct"), ":LastOnes", ["no select(self, context)"]),
    "a list as default": (LAST.replace("step: int = 1", "step: list = []"), ":LastOnes", ["default_factory"]),
    "an option without default first": (
        LAST.replace("step: int = 1", "a: int = 1\n    step: int"),
        ":LastOnes",
        ["cannot be a dataclass", "'step' follows"],
    ),
    "a strange default": (LAST.replace("step: int = 1", "step: int = print"), ":LastOnes", ["step: must be a number"]),
    "an option without default": (LAST.replace("step: int = 1", "step: int"), ":LastOnes", ["method.step: missing"]),
    "an unknown option": (LAST, ":LastOnes method.stap=2", ["method.stap: unknown key"]),
    "as a control": (LAST, ":LastOnes controls=[fps,nowhere.py:Mine]", ["nowhere.py:Mine", "cannot be read"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_before_any_model_is_loaded(sweep, written, monkeypatch, tmp_path, mistake):
    content, rest, named = MISTAKES[mistake]
    path = tmp_path / "my_method.py" if content is None else written(content)
    here._model.cache_clear()
    monkeypatch.setattr(here, "load_model", lambda **_: pytest.fail("loaded a model"))
    before = dict(METHODS)
    kind, *others = rest.split(" ")
    status, _, out, err = sweep(f"method={path}{kind}", *others)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    for part in named:
        assert part in err
    assert all(METHODS[name] is method for name, method in before.items())


def test_what_a_packages_entry_point_offers_is_swept_by_its_name(sweep, package, tmp_path):
    package("tokensel_last", LAST, {"last": "tokensel_last:LastOnes"})
    status, line, _, _ = sweep("method=last,fps", "controls=[]", "--multirun")
    assert status == 0
    assert {p["method"] for p in line["points"]} == {"last", "fps"}
    _, line, _, _ = sweep("method=last", "method.step=2", "controls=[]")
    assert positions(tmp_path, line, "last") == {(TOKENS - 8, TOKENS - 6, TOKENS - 4, TOKENS - 2)}
    del METHODS["last"]
    _, line, _, _ = sweep("method=fps", "controls=[last]")
    assert {p["method"] for p in line["points"]} == {"last", "fps"}


def test_entry_points_are_listed_and_imported_only_when_named(sweep, package):
    package("tokensel_last", LAST, {"last": "tokensel_last:LastOnes", "fps": "tokensel_last:LastOnes"})
    status, line, _, _ = sweep("method=fps", "controls=[]")
    assert (status, line["points"][0]["aggregation"]) == (0, "cross_attention")
    status, _, _, err = sweep("method=lst")
    assert status == 2
    assert len(err.splitlines()) == 1
    for part in ("method=lst", "last", "fps", "tome"):
        assert part in err
    assert "tokensel_last" not in sys.modules


@pytest.mark.parametrize(
    ("content", "value", "named"),
    [
        ("1 / 0\n", "tokensel_last:LastOnes", "ZeroDivisionError"),
        (LAST, "tokensel_last:Lost", "no attribute 'Lost'"),
        (LAST, "tokensel_lost:LastOnes", "No module named 'tokensel_lost'"),
        (LAST, "tokensel_last:torch", "must be a subclass of tokensel.Method"),
        (LAST.replace("    step", "    name = 'own'\n    step"), "tokensel_last:LastOnes", "'own'; it must be 'last'"),
    ],
)
def test_a_broken_entry_point_hurts_only_who_names_it(sweep, package, content, value, named):
    package("tokensel_last", content, {"last": value})
    status, _, out, err = sweep("method=last")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith(f"error: method=last ({value}): ")
    assert named in err
    assert "last" not in METHODS
    status, _, _, _ = sweep("method=fps", "controls=[]")
    assert status == 0


def test_a_name_that_two_packages_offer_is_refused(package):
    package("tokensel_one", LAST, {"last": "tokensel_one:LastOnes"})
    package("tokensel_two", LAST, {"last": "tokensel_two:LastOnes"})
    with pytest.raises(TokenselError, match="tokensel_one:LastOnes and tokensel_two:LastOnes"):
        find_user_method("last")


BROKEN = """\
import torch
from tokensel import Method, Selection


class Broken(Method):
    def select(self, context):
        return Selection(context.tokens.argsort(dim=7))


class Drawing(Method):
    def select(self, context):
        return Selection(torch.randperm(context.count)[: context.kept].repeat(len(context.row_keys), 1))
"""


def test_what_goes_wrong_in_a_sweep_names_file_and_line(sweep, written, tmp_path):
    path = written(BROKEN)
    status, line, _, _ = sweep(f"method={path}:Broken,{path}:Drawing", "controls=[]", "--multirun")
    assert status == 1
    errors = {point["method"]: point["error"] for point in line["points"]}
    assert errors["broken"].startswith("IndexError: Dimension out of range")
    assert errors["broken"].endswith("(my_method.py, line 7)")
    assert errors["drawing"].startswith("TokenselError: method 'drawing': chose other tokens when asked again")
    (log,) = (tmp_path / "out").glob("*/logs/*.log")
    assert f'File "{path}", line 7, in select' in log.read_text()
