"""A tiny benchmark: every figure is there, contenders alternate, and the arithmetic is right."""

import ast
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch
from helpers.checkpoints import make_questions, save_checkpoint
from PIL import Image

from runners import bench
from runners.benchmark import core, grid, limits, literal, loading, output, timing
from runners.benchmark.run import choose_layers
from runners.benchmark.settings import read_settings
from runners.benchmark.timing import Machine, paired_ratio, quartiles, rounded, take_turns
from tokensel.evaluation.flops import Cost
from tokensel.evaluation.latency import LatencyMeter
from tokensel.models import load_model

pytestmark = pytest.mark.slow

QUARTILES = {"p25", "p50", "p75"}
# The packages of a machine with nothing but torch and transformers.
BARE = {"tokensel", "runners", "torch", "transformers", "numpy"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(autouse=True)
def small_machine(monkeypatch):
    monkeypatch.setitem(timing.COPY_BYTES, "cpu", 1 << 20)
    monkeypatch.setitem(timing.GEMM_SIDE, "cpu", 64)
    monkeypatch.setattr(grid, "SWEEP_KEPT", (4, 8, 12, 16))
    monkeypatch.setattr(timing, "WARMUP", 1)


def read_json(printed: str) -> dict:
    return json.loads(printed.splitlines()[-1])


@pytest.fixture(scope="module")
def report(checkpoint, tmp_path_factory):
    """The report of a tiny run of all parts, and its folder."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "SWEEP_KEPT", (4, 8, 12, 16))
        patch.setitem(timing.COPY_BYTES, "cpu", 1 << 20)
        patch.setitem(timing.GEMM_SIDE, "cpu", 64)
        arguments = ["sizes=80x16", "repeats=2", "passes=1", "questions=3", "kept=4,8", "agg_layer=0,2"]
        assert bench.main([*arguments, f"model={checkpoint}", f"output={folder}"]) == 0
    return json.loads((folder / "bench.json").read_text()), folder


def test_part_a_compares_every_function_at_both_budgets(report):
    rows = report[0]["parts"]["a"]["rows"]
    cells = {(row["function"], row["kept"]) for row in rows}
    assert cells == {(name, kept) for name in ("fps", "tome", "cross_attention") for kept in (8, 64)}
    for row in rows:
        assert (row["tokens"], row["hidden"], row["same"]) == (80, 16, "yes")
        for key in ("literal_ms", "ours_ms", "ratio"):
            assert row[key].keys() == QUARTILES
            assert 0 < row[key]["p25"] <= row[key]["p50"] <= row[key]["p75"]
    assert report[0]["parts"]["a"]["threads"] == 1


def test_part_b_has_every_point_with_the_full_model(report):
    found = report[0]["parts"]["b"]
    rows = found["rows"]
    names = {"fps", "tome", "fastv", "fastv mask"}
    assert [(rows[0]["name"], rows[0]["implied"])] == [("full", 1.0)]
    assert {(row["name"], row["kept"], row["agg_layer"]) for row in rows[1:]} == {
        (name, kept, layer) for name in names for kept in (4, 8) for layer in (0, 2)
    }
    assert found["machine"]["bytes_per_s"] > 0
    assert found["machine"]["flops_per_s"] > 0
    for row in rows:  # ratios of figures that are written with six digits
        assert row["prefill_ms"].keys() == row["decode_ms"].keys() == QUARTILES
        assert row["measured_over_implied"] == pytest.approx(row["speedup"] / row["implied"], rel=3e-5)
        assert row["implied"] == pytest.approx(rows[0]["flops"] / row["flops"], rel=3e-5)
        assert row["over_roofline"] == pytest.approx(row["prefill_ms"]["p50"] / row["roofline_ms"], rel=3e-5)
        assert row["peak_memory_bytes"] is None  # not measured on a CPU
    by_name = {(row["name"], row["kept"], row["agg_layer"]): row for row in rows}
    full = by_name["full", None, None]
    # At layer 0, all four layers cache 4 visual tokens instead of 36.
    per_token = full["kv_bytes"] - by_name["fps", 4, 0]["kv_bytes"]
    assert per_token == 4 * (36 - 4) * 2 * 16 * 4
    assert by_name["fps", 4, 2]["kv_bytes"] == full["kv_bytes"] - per_token // 2
    assert by_name["fastv mask", 4, 2]["kv_bytes"] == full["kv_bytes"]
    assert by_name["fps", 4, 0]["implied"] > by_name["fps", 4, 2]["implied"] > by_name["fps", 8, 2]["implied"] > 1


def test_part_c_pairs_grids_with_full_passes_and_doubles_the_questions(report):
    rows = {row["run"]: row for row in report[0]["parts"]["c"]["rows"]}
    assert {name: (row["questions"], row["points"]) for name, row in rows.items()} == {
        "full": (3, 1),
        "8 points": (3, 8),
        "16 points": (3, 16),
        "full, twice": (6, 1),
        "8 points, twice": (6, 8),
    }
    for name, row in rows.items():
        base = rows["full, twice" if name.endswith("twice") else "full"]
        assert row["over_full"]["p50"] == pytest.approx(row["seconds"]["p50"] / base["seconds"]["p50"], rel=1e-4)
    last = rows["8 points, twice"]
    assert last["over_half"]["p50"] == pytest.approx(
        last["seconds"]["p50"] / rows["8 points"]["seconds"]["p50"], rel=1e-4
    )
    assert last["peak_bytes"] > 1 << 26
    assert abs(last["peak_growth_bytes"]) < last["peak_bytes"]


def test_part_d_counts_questions_and_their_pictures(report):
    (row,) = report[0]["parts"]["d"]["rows"]
    assert (row["questions"], row["pictures"]) == (3, 3)
    assert row["questions_per_s"]["p50"] == pytest.approx(3 / row["seconds"]["p50"], rel=1e-4)


def test_the_files_hold_the_report(report):
    found, folder = report
    assert found["written"] == [str(folder / f"bench.{kind}") for kind in ("json", "parquet", "png")]
    table = pandas.read_parquet(folder / "bench.parquet")
    assert table["part"].value_counts().to_dict() == {part: len(each["rows"]) for part, each in found["parts"].items()}
    first = found["parts"]["b"]["rows"][1]
    line = table[table["part"] == "b"].iloc[1]
    assert (line["name"], line["kept"], line["prefill_ms_p75"]) == ("fps", 4, first["prefill_ms"]["p75"])
    with Image.open(folder / "bench.png") as image:
        assert len(set(image.convert("RGB").resize((200, 100)).getdata())) > 20


def test_contenders_alternate_and_the_first_place_rotates():
    seen, ticks = [], []
    contenders = {name: lambda name=name: seen.append(name) or len(seen) for name in "abc"}
    found = take_turns(contenders, repeats=3, warmup=1, tick=lambda: ticks.append(1))
    assert ["".join(seen[start : start + 3]) for start in range(0, 12, 3)] == ["cab", "abc", "bca", "cab"]
    assert found == {"a": [4, 9, 11], "b": [5, 7, 12], "c": [6, 8, 10]}
    assert len(ticks) == 12


def test_part_a_alternates(monkeypatch):
    ran = []

    def contenders(tokens, kept):
        def run(who):
            ran.append(who)
            return tokens[:kept]

        return {"fps": (lambda: run("literal"), lambda: run("ours"))}

    monkeypatch.setattr(literal, "contenders", contenders)
    core.measure_core([(80, 4)], torch.device("cpu"), repeats=3)
    timed = ran[2:10]  # after the comparison of results: a warm-up round and three timed ones
    assert [set(timed[start : start + 2]) for start in range(0, 8, 2)] == [{"literal", "ours"}] * 4
    assert timed[0::2] == ["ours", "literal", "ours", "literal"]


def test_ratios_are_medians_of_pairs_not_ratios_of_medians():
    numerator, denominator = [10.0, 20.0, 90.0], [1.0, 10.0, 10.0]
    assert paired_ratio(numerator, denominator)["p50"] == 9  # the median of 10, 2 and 9
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0], 1000) == {"p25": 2000, "p50": 3000, "p75": 4000}


def test_the_roofline_adds_the_slower_of_compute_and_memory_of_every_step():
    machine = Machine(bytes_per_s=10, flops_per_s=100)
    assert machine.roofline([(200, 5), (10, 30), (0, 0)]) == 2 + 3
    cost = Cost(
        vision=100, projector=100, layers=(400, 100), head=50, selection=30, kv_bytes=40,
        tokens_layer_mean=1.0, selection_counted=True, causal_savings=80,
    )  # fmt: skip
    full = Cost(
        vision=100, projector=100, layers=(400, 400), head=50, selection=0, kv_bytes=80,
        tokens_layer_mean=1.0, selection_counted=True, causal_savings=210,
    )  # fmt: skip
    weights = limits.Weights(vision=10, layers=(30, 30), head=5)
    figures = {"speedup": 1.5, "prefill_ms": {"p50": 13_200.0}, "decode_ms": {"p50": 21_000.0}}
    row = limits.compare_with_limits(cost, full, figures, machine, weights)
    assert row["implied"] == 1050 / 780
    assert row["measured_over_implied"] == pytest.approx(1.5 * 780 / 1050)
    assert row["implied_causal"] == 840 / 700
    assert row["measured_over_causal"] == pytest.approx(1.25)
    # Seconds: vision 2 computing; layers 4 computing and 3 reading; selection 0.3; head 0.5 reading.
    assert row["roofline_ms"] == pytest.approx(9800)
    assert row["over_roofline"] == pytest.approx(13.2 / 9.8)
    assert row["decode_roofline_ms"] == pytest.approx(10_500)  # 65 bytes of weights and 40 of cache
    assert row["decode_over_roofline"] == pytest.approx(2)


def test_weights_are_those_of_the_model_without_embeddings(checkpoint):
    model = load_model(checkpoint).model
    weights = limits.weights_of(model)
    everything = sum(weight.numel() * 4 for weight in model.parameters())
    embeddings = model.get_input_embeddings().weight.numel() * 4
    norm = model.model.language_model.norm.weight.numel() * 4
    assert len(weights.layers) == 4
    assert weights.head == model.lm_head.weight.numel() * 4
    assert weights.vision + sum(weights.layers) + weights.head + embeddings + norm == everything


def test_a_machine_is_measured_in_bytes_and_flops_per_second(monkeypatch):
    monkeypatch.setattr(timing, "seconds", lambda work, device: work() is None or 0.5)
    found = timing.measure_machine(torch.device("cpu"), torch.float32, repeats=3)
    assert found == Machine(bytes_per_s=2 * (1 << 20) / 0.5, flops_per_s=2 * 64**3 / 0.5)


def test_a_grid_has_eight_points_per_temperature():
    assert len(set(map(repr, grid.make_grid(1)))) == 8
    points = grid.make_grid(2)
    assert len(set(map(repr, points))) == 16
    assert {point.agg_layer for point in points} == {2}


def test_loading_opens_every_picture_once(checkpoint):
    opened = []
    questions = [
        replace(question, image=lambda question=question: opened.append(question.image_id) or question.image())
        for question in make_questions(4, per_picture=2)
    ]
    (row,) = loading.measure_loading(load_model(checkpoint), questions, passes=1, batch_size=4)
    assert sorted(opened) == ["p0", "p0", "p1", "p1"]  # once in the warm-up pass, once timed
    assert row["pictures"] == 2


def test_a_compiled_part_b_never_runs_the_stock_model(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(LatencyMeter, "_run", lambda self, point: pytest.fail("ran the stock model"))
    arguments = ["parts=b", "repeats=1", "kept=4", "questions=1", "agg_layer=2", "compile=true", f"model={checkpoint}"]
    assert bench.main([*arguments, f"output={tmp_path}"]) == 0
    part = read_json(capsys.readouterr().out)["parts"]["b"]
    assert part["not_compiled"] == {}
    assert [row["name"] for row in part["rows"]] == ["full", "fps", "tome", "fastv", "fastv mask"]
    assert all(row["speedup"] > 0 and row["decode_ms"]["p50"] > 0 for row in part["rows"])


def test_a_failing_point_has_its_error_in_its_line_and_fails_the_run(checkpoint, tmp_path, monkeypatch, capsys):
    measure = LatencyMeter.measure

    def fails(self, point):
        if point.method == "tome":
            raise RuntimeError("out of memory\nsecond line")
        return measure(self, point)

    monkeypatch.setattr(LatencyMeter, "measure", fails)
    arguments = ["parts=b", "repeats=1", "kept=4", "questions=1", "agg_layer=2", f"model={checkpoint}"]
    assert bench.main([*arguments, f"output={tmp_path}"]) == 1
    printed = capsys.readouterr().out
    assert "failed: tome kept=4 agg_layer=2: RuntimeError: out of memory\n" in printed
    rows = {row["name"]: row for row in read_json(printed)["parts"]["b"]["rows"]}
    assert rows["tome"]["error"] == "RuntimeError: out of memory"
    assert rows["fastv"]["speedup"] > 0


def test_without_pandas_rich_and_matplotlib_there_is_a_plain_table_and_json(checkpoint, tmp_path, monkeypatch, capsys):
    for module in ("pandas", "pyarrow", "rich.table", "matplotlib"):
        monkeypatch.setitem(sys.modules, module, None)
    arguments = ["parts=b,d", "repeats=1", "passes=1", "kept=4", "questions=2", "agg_layer=2", f"model={checkpoint}"]
    assert bench.main([*arguments, f"output={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert read_json(printed)["written"] == [str(tmp_path / "bench.json")]
    table = [line.split() for line in printed.splitlines()]
    assert ["d:", "loading", "pictures"] in table
    assert ["questions", "pictures", "seconds", "questions/s"] in table
    assert "━" not in printed


def test_nothing_but_torch_and_transformers_is_needed_to_start():
    package = Path(timing.__file__).parent
    for file in [Path(bench.__file__), *sorted(set(package.glob("*.py")) - {package / "literal.py"})]:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                top = module.partition(".")[0]
                assert top in BARE or top in sys.stdlib_module_names, f"{file.name}: {module}"
                assert module != "runners.benchmark.literal"  # it imports rich


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("part=b", "part: unknown key; keys are parts, model"),
        ("b", "b: must be KEY=VALUE; keys are parts, model"),
        ("parts=b,e", "parts=e: unknown; choose one of a, b, c, d"),
        ("sizes=64x16", "sizes=64x16: must be TOKENSxHIDDEN with at least 65 tokens"),
        ("sizes=80", "sizes=80: must be TOKENSxHIDDEN with at least 65 tokens"),
        ("kept=4,x", "kept=x: must be an integer from 1"),
        ("agg_layer=-1", "agg_layer=-1: must be an integer from 0"),
        ("agg_layer=4", "agg_layer=4: must be below 4, the model's number of layers"),
        ("repeats=0", "repeats=0: must be an integer from 1"),
        (f"questions={'9' * 5000}", f"questions={'9' * 40}... (5000 characters): must be an integer from 1"),
        ("sizes=99999999999x4", "sizes=99999999999x4: must be TOKENSxHIDDEN"),
        ("parts=", "parts=: give at least one, such as parts=a,b,c,d"),
        ("kept=,", "kept=,: give at least one, such as kept=8,16,32,64,128,192"),
        ("agg_layer=[]", "agg_layer=[]: give at least one"),
        ("threads=two", "threads=two: must be an integer from 1"),
        ("device=tpu", "device=tpu: unknown; choose one of auto, cpu, cuda"),
        ("dtype=int8", "model.dtype=int8: unknown; choose one of float32"),
        ("output=/dev/null/x", "output=/dev/null/x: cannot write to /dev/null/x"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(checkpoint, tmp_path, capsys, argument, message):
    arguments = [f"model={checkpoint}", argument]
    if not argument.startswith("output"):
        arguments.append(f"output={tmp_path}")
    assert bench.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_table_of_80_columns_keeps_names_and_speed_ups(report, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    for part, found in report[0]["parts"].items():
        output.print_part(part, found["rows"])
    printed = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= 80
    assert "fastv mask" in printed
    assert "No room for" in printed
    assert {"prefill", "speed-up", "ratio", "seconds"} <= set(printed.split())


def test_default_layers_are_those_that_the_model_has(checkpoint):
    loaded = load_model(checkpoint)
    assert choose_layers(read_settings([]), loaded) == [0, 2]
    assert choose_layers(read_settings(["agg_layer=3"]), loaded) == [3]


def test_figures_are_rounded_at_any_depth():
    assert rounded({"a": [1.23456789, "x", 7], "b": {"c": 1234567.89}}) == {
        "a": [1.23457, "x", 7],
        "b": {"c": 1234570.0},
    }


def test_a_bar_prints_the_remaining_time(capsys, monkeypatch):
    bar = output.Bar("b", 4)
    bar.tick()
    assert capsys.readouterr().err == ""
    bar.printed -= output.LINE_SECONDS
    bar.tick()
    assert capsys.readouterr().err.startswith("part b  2/4  ETA 0 s")
    bar.on_terminal = True
    bar.tick()
    bar.tick()
    live = capsys.readouterr().err
    assert live.startswith("\r[######################  ")
    assert live.endswith("4/4  ETA 0 s \n")
