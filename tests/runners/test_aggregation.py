"""aggregation= as a sweep spells it: a name, null, and learned with its file; mistakes end before a model loads."""

import pytest
from helpers.aggregators import write_aggregator

from runners.configuration.compose import compose_jobs, read_command
from runners.sweep import CONF, main
from tokensel.errors import TokenselError
from tokensel.evaluation.sweep.plan import make_plan
from tokensel.evaluation.sweep.reading import read_settings
from tokensel.evaluation.sweep.work import prepare


def plan_of(*arguments):
    return make_plan([read_settings(job) for job in compose_jobs(read_command(arguments), CONF)])


def points_of(*arguments):
    """Of the points asked for: their aggregation and aggregator."""
    plan = plan_of("controls=[]", "kept=8", *arguments)
    return [(each.point.aggregation, each.point.aggregator) for group in plan.groups for each in group.points]


@pytest.fixture
def file(tmp_path):
    return write_aggregator(tmp_path / "mine.safetensors", 192)


@pytest.mark.parametrize("typed", ["null", "own"])
def test_null_is_the_methods_own(typed):
    assert points_of(f"aggregation={typed}") == points_of() == [(None, None)]


def test_a_name_and_a_grid_of_names(file):
    assert points_of("aggregation=mean") == [("mean", None)]
    grid = points_of("aggregation=null,none,mean,learned", f"aggregation.path={file}", "--multirun")
    assert sorted(grid, key=str) == sorted([(None, None), ("none", None), ("mean", None), ("learned", file)], key=str)
    assert (
        points_of("method=fps,random", "aggregation=learned", f"aggregation.path={file}", "-m")
        == [("learned", file)] * 2
    )


def test_without_a_file_learned_is_the_embedded_models_own():
    assert points_of("aggregation=learned") == [("learned", "tiny")]
    with pytest.raises(
        TokenselError, match=r"^aggregation\.path=null: give the file .* wrote for random:llava_1024; only"
    ):
        plan_of("aggregation=learned", "model=llava_1024_random")


@pytest.mark.slow
def test_an_experiment_may_name_it_as_ever(tmp_path, file):
    (tmp_path / "experiment").mkdir()
    start = "# @package _global_\n"
    (tmp_path / "experiment/plain.yaml").write_text(f"{start}aggregation: mean\n")
    (tmp_path / "experiment/chosen.yaml").write_text(f"{start}defaults:\n  - override /aggregation: none\n")
    grid = "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      aggregation: mean,null\n"
    (tmp_path / "experiment/grid.yaml").write_text(start + grid)
    folder = ("--config-dir", str(tmp_path))
    assert points_of("experiment=plain", *folder) == [("mean", None)]
    assert points_of("experiment=chosen", *folder) == [("none", None)]
    assert points_of("experiment=chosen", "aggregation=null", *folder) == [(None, None)]
    assert points_of("experiment=grid", *folder) == [("mean", None), (None, None)]
    assert points_of("experiment=grid", "aggregation=none", *folder) == [("none", None)]


def test_in_python_it_may_be_a_name():
    job = compose_jobs(read_command([]), CONF)[0]
    for typed, name in ((None, None), ("mean", "mean"), ({"name": "none", "path": None}, "none")):
        assert read_settings(job | {"aggregation": typed}).aggregation.name == name
    with pytest.raises(TokenselError, match=r"^aggregation\.name=meen: null or one of .*; did you mean mean\?"):
        read_settings(job | {"aggregation": "meen"})
    with pytest.raises(TokenselError, match=r"^aggregation=5: must be the name of a file in conf/aggregation"):
        read_settings(job | {"aggregation": 5})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["aggregation=meen"],
            "aggregation=meen: unknown; choose one of cross_attention, learned, mean, none, own; did",
        ),
        (["aggregation=mean,none"], "aggregation=mean,none: a list of values is a grid; add --multirun"),
        (["aggregation=mean", "aggregation.path={file}"], "aggregation.path={file}: only aggregation=learned reads it"),
        (
            ["aggregation=learned", "aggregation.path=/none.safetensors"],
            "aggregation.path=/none.safetensors: cannot be",
        ),
        (["aggregation=learned", "aggregation.path=x.pt"], "aggregation.path=x.pt: must be a file that ends in .safet"),
        (["aggregation=learned", "aggregation.path=5"], "aggregation.path=5: must be FILE.safetensors, or null"),
        (
            ["aggregation=learned", "aggregation.file=x"],
            "aggregation.file: unknown key; options of aggregation are path",
        ),
        (
            ["aggregation=learned", "layout=mask"],
            "layout='mask': the survivors keep their own states, but method 'fps'",
        ),
        (["aggregation=learned", "method=pool"], "aggregation='learned': method 'pool' aggregates by itself"),
        (
            ["aggregation=learned", "aggregation.path={file}", "model=llava_1024_random"],
            "aggregation.path={file}: made for hidden states 192 wide, not 1024; train one for this model",
        ),
    ],
)
def test_a_mistake_is_one_line_before_any_model_is_loaded(arguments, message, file, tmp_path, capsys, monkeypatch):
    import tokensel.evaluation.sweep.compute as computing

    monkeypatch.setattr(computing, "compute", lambda *given: pytest.fail("computes"))
    given = [each.format(file=file) for each in arguments]
    assert main([*given, f"output_dir={tmp_path / 'out'}", "logger=none", "limit=2", "latency.repeats=0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.format(file=file)}")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_points_folder_is_the_contents_and_not_the_files(tmp_path, file):
    def keys(path):
        arguments = ("kept=8", "aggregation=cross_attention,learned", f"aggregation.path={path}", "-m", "limit=2")
        (work,) = prepare(plan_of("controls=[]", *arguments), tmp_path / "out")
        return list(work.points)

    one = keys(file)
    assert len(one) == 2
    assert one == keys(write_aggregator(tmp_path / "moved.safetensors", 192))
    other = keys(write_aggregator(tmp_path / "other.safetensors", 192, seed=1))
    assert len(set(one) & set(other)) == 1
