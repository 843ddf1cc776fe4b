"""What LatencyMeter reports and runs, on a model too small for meaningful figures."""

import pytest
import torch
from helpers.checkpoints import make_questions, save_checkpoint

from tokensel.engine import split
from tokensel.engine.compiled import Graphs
from tokensel.engine.writing import Writer
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.latency import LatencyMeter
from tokensel.models import load_model

TIMES = ("select_ms", "vision_ms", "prefill_ms", "decode_ms", "total_ms")


@pytest.fixture(scope="module")
def meter(tmp_path_factory):
    loaded = load_model(save_checkpoint(tmp_path_factory.mktemp("checkpoint")))
    return LatencyMeter(loaded, make_questions(1)[0], repeats=3, warmup=1, decode_tokens=2)


@pytest.mark.parametrize(
    "point",
    [
        GridPoint("full"),
        GridPoint("no_image", agg_layer=0),
        GridPoint("fps", kept=4, agg_layer=2),
        GridPoint("fps", kept=4, agg_layer=0),
        GridPoint("fastv", kept=4, agg_layer=4),
        GridPoint("random", kept=4, layout="mask"),
    ],
)
def test_every_time_has_ordered_quartiles_and_the_parts_fit_the_whole(meter, point):
    figures = meter.measure(point)
    for name in TIMES:
        times = figures[name]
        if name == "select_ms" and point.agg_layer == 4:  # after the last layer nothing is selected
            assert times is None
            continue
        assert 0 < times["p25"] <= times["p50"] <= times["p75"]
    assert figures["total_ms"]["p75"] >= figures["prefill_ms"]["p25"] + figures["decode_ms"]["p25"]
    # A decoding step runs the whole decoder, which takes far longer than reading the clock.
    assert figures["decode_ms"]["p50"] > 0.1
    assert figures["speedup"] > 0
    assert figures["speedup_total"] > 0
    assert figures["peak_memory_bytes"] is None


def test_each_timed_run_is_paired_with_a_run_of_the_full_model(meter, monkeypatch):
    runs = []
    run = LatencyMeter._run
    monkeypatch.setattr(LatencyMeter, "_run", lambda self, point: runs.append(point) or run(self, point))
    point = GridPoint("fps", kept=4)
    meter.measure(point)
    assert len(runs) == 8
    assert all({id(a), id(b)} == {id(None), id(point)} for a, b in zip(runs[::2], runs[1::2], strict=True))
    assert runs[0] is not runs[2], "the first place must rotate"


def test_the_model_is_left_as_it_was(meter):
    hooks = [len(module._forward_pre_hooks) for module in meter.model.modules()]
    meter.measure(GridPoint("fps", kept=4))
    assert hooks == [len(module._forward_pre_hooks) for module in meter.model.modules()]


def test_points_timed_together_share_the_runs_of_the_full_model(meter, monkeypatch):
    runs = []
    run = LatencyMeter._run
    monkeypatch.setattr(LatencyMeter, "_run", lambda self, point: runs.append(point) or run(self, point))
    points = [GridPoint("fps", kept=4), GridPoint("tome", kept=4), GridPoint("random", kept=9)]
    together = meter.measure_together(points)
    assert [sum(ran is point for ran in runs) for point in (None, *points)] == [4] * 4
    rounds = [runs[begin : begin + 4] for begin in range(0, 16, 4)]
    assert len({id(contenders[0]) for contenders in rounds}) == 4, "the first place must rotate"
    assert all(set(times["prefill_ms"]) == {"p25", "p50", "p75"} and times["speedup"] > 0 for times in together)


def test_a_failing_point_does_not_stop_the_others(meter, monkeypatch):
    run = LatencyMeter._run

    def fails(self, point):
        if point is not None and point.method == "tome":
            raise ValueError("no memory")
        return run(self, point)

    monkeypatch.setattr(LatencyMeter, "_run", fails)
    points = [GridPoint(method, kept=4) for method in ("fps", "tome", "random")]
    first, second, third = meter.measure_together(points)
    assert isinstance(second, ValueError)
    assert first["speedup"] > 0
    assert third["select_ms"]["p50"] > 0
    with pytest.raises(ValueError, match="no memory"):
        meter.measure(points[1])


def test_if_the_full_model_fails_every_point_gets_its_error(meter, monkeypatch):
    def fails(self, point):
        raise ValueError("no memory")

    monkeypatch.setattr(LatencyMeter, "_run", fails)
    found = meter.measure_together([GridPoint("fps", kept=4), GridPoint("tome", kept=4)])
    assert [str(error) for error in found] == ["no memory"] * 2


def test_compiled_runs_compile_the_full_model_too_and_pad_nothing(tmp_path, monkeypatch):
    """torch.compile is replaced by the function itself."""
    kinds = []
    call = Graphs.call
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(Graphs, "call", lambda self, key, *given: kinds.append(key[0]) or call(self, key, *given))
    monkeypatch.setattr(LatencyMeter, "_run", lambda self, point: pytest.fail("ran the stock model"))
    loaded = load_model(save_checkpoint(tmp_path))
    meter = LatencyMeter(loaded, make_questions(1)[0], repeats=2, warmup=0, decode_tokens=3, compiled=True)
    assert meter.not_compiled == {}
    lengths = []
    prefill = Writer.prefill
    monkeypatch.setattr(
        Writer,
        "prefill",
        lambda self, state, *given: lengths.append(state.hidden.shape[1]) or prefill(self, state, *given),
    )
    points = [GridPoint("full"), GridPoint("fps", kept=4, agg_layer=2), GridPoint("visionzip", kept=8, agg_layer=0)]
    found = meter.measure_together(points)
    for figures in found:
        assert not isinstance(figures, Exception)
        assert figures["prefill_ms"]["p25"] > 0
        assert figures["decode_ms"]["p25"] > 0
    assert found[0]["speedup"] == 1
    assert set(lengths) == {meter.inputs["input_ids"].shape[1]}
    # One warm-up and two timed runs for each of three contenders; visionzip runs the vision tower itself.
    assert len(lengths) == 9
    assert kinds.count("step") == 9 * 3
    assert kinds.count("prefill") == 3 + 3 * 2 + 3
    assert kinds.count("vision") == 6 + 2 + 1  # the last three: vision timed on its own, warm-up included


def test_what_cannot_be_compiled_is_timed_uncompiled_with_a_warning(tmp_path, monkeypatch):
    loaded = load_model(save_checkpoint(tmp_path))
    monkeypatch.setattr(split, "cannot_compile", lambda parts: "attn_implementation=x: takes no 4-D mask")
    with pytest.warns(
        UserWarning, match="^compile=true: not compiled: layers, attn_implementation=x: takes no 4-D mask$"
    ):
        meter = LatencyMeter(loaded, make_questions(1)[0], repeats=1, compiled=True)
    assert meter.not_compiled == {"layers": "attn_implementation=x: takes no 4-D mask"}
    assert meter.measure(GridPoint("fps", kept=4))["prefill_ms"]["p50"] > 0
