"""What a latency measurement reports, on a model too small for its figures to mean anything."""

import pytest
from sweep_helpers import make_questions, save_checkpoint

from tokensel.evaluate import GridPoint
from tokensel.latency import LatencyMeter
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
        if name == "select_ms" and point.agg_layer == 4:  # behind the last layer nothing is chosen
            assert times is None
            continue
        assert 0 < times["p25"] <= times["p50"] <= times["p75"]
    assert figures["total_ms"]["p75"] >= figures["prefill_ms"]["p25"] + figures["decode_ms"]["p25"]
    # A decoding step runs the whole decoder: far above the clock's own cost.
    assert figures["decode_ms"]["p50"] > 0.1
    assert figures["speedup"] > 0
    assert figures["speedup_total"] > 0
    assert figures["peak_memory_bytes"] is None


def test_each_timed_run_stands_beside_one_of_the_full_model(meter, monkeypatch):
    runs = []
    run = LatencyMeter._run
    monkeypatch.setattr(LatencyMeter, "_run", lambda self, point: runs.append(point) or run(self, point))
    point = GridPoint("fps", kept=4)
    meter.measure(point)
    assert len(runs) == 8
    assert all({id(a), id(b)} == {id(None), id(point)} for a, b in zip(runs[::2], runs[1::2], strict=True))
    assert runs[0] is not runs[2], "the first place must take turns"


def test_the_model_is_left_as_it_was(meter):
    hooks = [len(module._forward_pre_hooks) for module in meter.model.modules()]
    meter.measure(GridPoint("fps", kept=4))
    assert hooks == [len(module._forward_pre_hooks) for module in meter.model.modules()]
