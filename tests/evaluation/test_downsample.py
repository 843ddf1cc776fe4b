"""The control downsample equals the stock model on pictures that PIL reduced by hand, whatever else runs beside it."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from helpers.checkpoints import make_questions, picture, save_checkpoint
from helpers.evaluation import assert_same_predictions, evaluate_points
from helpers.families import load_family, make_picture, make_question
from PIL import Image

from tokensel import reduce_tokens
from tokensel.data.protocol import Protocol
from tokensel.errors import BadSampleError, TokenselError
from tokensel.evaluation.downsample import downsampled, fitting_grid, same_pictures, with_downsampled
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.latency import LatencyMeter
from tokensel.evaluation.sweep.costs import costed_prompt
from tokensel.evaluation.sweep.plan import make_plan
from tokensel.evaluation.sweep.reading import read_settings
from tokensel.models import load_model

SIDE, PATCH = 6, 14  # the checkpoint's pictures have 6 x 6 patches of 14 pixels
KEPT = (4, 9, 5, 36)  # 5 gives the same pictures as 4, and 36 leaves them as they are
POINTS = [GridPoint("full"), *(GridPoint("downsample", kept) for kept in KEPT), GridPoint("fps", 4)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(save_checkpoint(tmp_path_factory.mktemp("checkpoint"))).with_protocol(Protocol())


@pytest.fixture(scope="module")
def questions():
    """Six about three pictures, one without a picture, and one about two."""
    few = make_questions(6)
    bare = replace(few[0], id="bare", image=None, image_id="")
    pair = replace(few[1], id="pair", image=[picture(7), picture(8)], image_id="pair")
    return [*few, bare, pair]


def reduced(image, kept):
    """The picture, reduced and scaled back by hand. image: a square."""
    side = PATCH * math.isqrt(kept)
    return image.resize((side, side), Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


def by_hand(question, kept):
    """The question about pictures that were reduced by hand; kept 36 changes nothing."""
    return question if kept == 36 else replace(question, image=[reduced(each, kept) for each in question.load_images()])


@pytest.fixture(scope="module")
def expected(loaded, questions):
    """For each kept, each question's letter logits by the stock model, one question at a time."""

    def logits(question):
        with torch.no_grad():
            scores = loaded.model(**loaded.prepare([question])).logits[0, -1]
        return scores[loaded.answer_ids(question)]

    return {kept: {each.id: logits(by_hand(each, kept)) for each in questions} for kept in KEPT}


def test_the_grid_is_the_largest_square_that_fits():
    for kept in range(1, 120):
        side = max(side for side in range(1, kept + 1) if side * side <= kept)
        assert fitting_grid(kept, 24, 24) == (side, side)


@pytest.mark.parametrize(("rows", "columns"), [(10, 7), (3, 9), (1, 40), (25, 2)])
def test_another_grid_keeps_its_shape_and_never_exceeds_kept(rows, columns):
    for kept in range(1, rows * columns + 1):
        found = fitting_grid(kept, rows, columns)
        assert math.prod(found) <= kept
        factor = math.sqrt(kept / (rows * columns))
        for patches, of in zip(found, (rows, columns), strict=True):
            assert 1 <= patches <= max(1, math.floor(of * factor + 1e-9))
        if min(rows, columns) * factor >= 1:  # neither side was rounded up
            assert found == (math.floor(rows * factor + 1e-9), math.floor(columns * factor + 1e-9))
    assert fitting_grid(rows * columns, rows, columns) == (rows, columns)


def test_answers_are_those_of_the_stock_model_on_pictures_reduced_by_hand(loaded, questions, expected, tmp_path):
    found, failures = evaluate_points(loaded, tmp_path, questions, POINTS, batch_size=3)
    assert not failures
    for kept, answers in zip(KEPT, found[1:], strict=False):
        assert len(answers) == len(questions)
        for id, scores in expected[kept].items():
            best = scores.topk(2).values
            assert answers[id]["prediction"] == int(scores.argmax()), (kept, id)
            assert answers[id]["margin"] == pytest.approx(float(best[0] - best[1]), abs=1e-4)
    margins = [[answers[question.id]["margin"] for question in questions[:6]] for answers in found]
    assert margins[1] != pytest.approx(margins[2], abs=1e-3)  # or all of this would hold for pictures left alone
    assert margins[0] == margins[4]


def test_written_answers_are_those_of_the_stock_model(loaded, questions, tmp_path):
    found, failures = evaluate_points(loaded, tmp_path, questions[:4], POINTS[1:2], scoring="generate")
    assert not failures
    for question in questions[:4]:
        inputs = loaded.prepare([by_hand(question, 4)])
        written = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=16)[:, inputs["input_ids"].shape[1] :]
        said = loaded.processor.tokenizer.batch_decode(written, skip_special_tokens=True)[0]
        assert found[0][question.id]["text"] == said


def test_what_generate_writes_with_other_settings_is_about_the_reduced_picture(
    loaded, questions, tmp_path, monkeypatch
):
    monkeypatch.setattr(loaded.model.generation_config, "repetition_penalty", 1.3)
    found, failures = evaluate_points(loaded, tmp_path, questions[:2], POINTS[1:2], scoring="generate")
    assert not failures
    inputs = loaded.prepare([by_hand(questions[0], 4)])
    written = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=16)[:, inputs["input_ids"].shape[1] :]
    said = loaded.processor.tokenizer.batch_decode(written, skip_special_tokens=True)[0]
    assert found[0][questions[0].id]["text"] == said


def test_answers_do_not_depend_on_the_points_beside_them_or_on_the_batch(loaded, questions, tmp_path):
    together, _ = evaluate_points(loaded, tmp_path / "together", questions, POINTS, batch_size=4)
    alone, _ = evaluate_points(loaded, tmp_path / "alone", questions, POINTS[2:3], batch_size=1)
    assert_same_predictions(together[2:3], alone)


def test_every_picture_enters_the_tower_once_for_each_distinct_size(loaded, questions, tmp_path, monkeypatch):
    encoded = []
    real = loaded.model.model.get_image_features

    def counted(pixel_values, **given):
        encoded.extend(hash(each.numpy().tobytes()) for each in pixel_values)
        return real(pixel_values=pixel_values, **given)

    monkeypatch.setattr(loaded.model.model, "get_image_features", counted)
    evaluate_points(loaded, tmp_path, questions[:6], POINTS, batch_size=6)
    assert len(encoded) == len(set(encoded)) == 3 * 3  # three pictures, each as it is, of 2 x 2 and of 3 x 3 patches


@pytest.mark.parametrize(("aspect", "size"), list(product(("pad", "crop"), ((100, 60), (90, 300), (40, 20)))))
def test_a_picture_is_reduced_as_the_model_sees_it(loaded, aspect, size):
    loaded = loaded.with_protocol(Protocol(image_aspect=aspect))
    image = make_picture(size)
    whole = loaded.prepare_image(image)
    factor = 2 * PATCH / min(whole.size)
    small = whole
    if factor < 1:
        small = whole.resize(tuple(round(side * factor) for side in whole.size), Image.Resampling.BOX)
        small = small.resize(whole.size, Image.Resampling.BICUBIC)
    found = downsampled(loaded, image, 4)
    assert found.tobytes() == small.tobytes()
    assert (found.tobytes() == whole.tobytes()) == (factor >= 1)  # what is small already stays as it is


def test_kept_above_the_tokens_leaves_pictures_alone_and_a_share_is_one_of_them(loaded):
    assert [same_pictures(loaded, kept) for kept in (None, 1, 5, 8, 9, 35, 36, 99, 0.25, 0.5)] == [
        *(None, 1, 4, 4, 9, 25, None, None, 9, 16)
    ]
    big = picture(1).resize((500, 500))
    assert downsampled(loaded, big, 36) is big


def test_fewer_tokens_enter_where_pictures_vary_in_size(tmp_path):
    loaded = load_family("qwen2_5_vl").with_protocol(Protocol(image_aspect="crop"))
    question = make_question("a", 2, size=(168, 84))  # 3 x 6 tokens of 28 pixels
    points = [GridPoint("full"), GridPoint("downsample", 8), GridPoint("downsample", "50%")]
    found, failures = evaluate_points(loaded, tmp_path, [question], points)
    assert not failures
    prompt = costed_prompt(loaded, question)
    whole, few, half = (prompt.figures(point) for point in points)
    assert [each["tokens_left"] for each in (whole, few, half)] == [18, 8, 8]  # 2 x 4 fits both 8 and 9
    small = replace(question, image=question.load_image().resize((4 * 28, 2 * 28), Image.Resampling.BOX))
    inputs = loaded.prepare([small])
    assert int((inputs["input_ids"] == loaded.processor.image_token_id).sum()) == 8
    with torch.no_grad():
        scores = loaded.model(**inputs).logits[0, -1][loaded.answer_ids(question)]
    for answers in found[1:]:
        assert answers["a"]["prediction"] == int(scores.argmax())
        assert answers["a"]["margin"] == pytest.approx(float(scores.diff().abs()), abs=1e-4)
    assert few["flops"] == costed_prompt(loaded, small).full.total < whole["flops"]
    assert few["flops_ratio"] == pytest.approx(few["flops"] / whole["flops"])
    assert few["kv_bytes"] < whole["kv_bytes"]
    meter = LatencyMeter(loaded, question, repeats=2, warmup=0, decode_tokens=1)
    times = meter.measure_together(points[:2])
    assert times[0]["speedup"] == 1.0 != times[1]["speedup"]


def test_a_picture_that_the_processor_refuses_is_a_bad_sample_also_without_other_points(tmp_path):
    loaded = load_family("qwen2_5_vl").with_protocol(Protocol(image_aspect="crop"))
    question = make_question("thin", 1, size=(28 * 201, 28))
    with pytest.raises(BadSampleError, match="thin: its picture cannot be prepared"):
        evaluate_points(loaded, tmp_path, [question], [GridPoint("downsample", 4)])


@pytest.mark.parametrize("family", ["llava_next", "smolvlm"])
def test_tiles_are_made_of_the_reduced_picture(family, tmp_path):
    loaded = load_family(family).with_protocol(Protocol(image_aspect="crop"))
    question = make_question("a", 2, size=(160, 120))
    patch = loaded.family.patch_side(loaded.model.config)
    factor = patch * math.sqrt(4 / (160 * 120))
    small = question.load_image().resize((round(160 * factor), round(120 * factor)), Image.Resampling.BOX)
    assert with_downsampled(loaded, question, 4).load_image().tobytes() == small.tobytes()
    found, failures = evaluate_points(loaded, tmp_path, [question], [GridPoint("downsample", 4)])
    assert not failures
    with torch.no_grad():
        inputs = loaded.prepare([replace(question, image=small)])
        scores = loaded.model(**inputs).logits[0, -1][loaded.answer_ids(question)]
    assert found[0]["a"]["margin"] == pytest.approx(float(scores.diff().abs()), abs=1e-4)
    # The processor scales tiles up: as many tokens are charged as enter.
    entering = int((inputs["input_ids"] == loaded.processor.image_token_id).sum())
    assert costed_prompt(loaded, question).figures(GridPoint("downsample", 4))["tokens_left"] == entering


def test_costs_and_times_are_the_full_models_where_all_tokens_enter(loaded, questions):
    prompt = costed_prompt(loaded, questions[0])
    full, small = prompt.figures(GridPoint("full")), prompt.figures(GridPoint("downsample", 4))
    assert small == full
    meter = LatencyMeter(loaded, questions[0], repeats=2, warmup=0, decode_tokens=1)
    one, other = meter.measure_together([GridPoint("full"), GridPoint("downsample", 4)])
    assert one["prefill_ms"] == other["prefill_ms"]
    assert other["speedup"] == 1.0


def test_inside_a_model_it_is_refused(loaded):
    with pytest.raises(TokenselError, match="makes pictures smaller before the model sees them"):
        reduce_tokens(loaded.model, "downsample", kept=4)


@pytest.mark.parametrize("kept", [None, 0, 1.5])
def test_kept_must_be_a_count_from_1_or_a_share(kept):
    with pytest.raises(TokenselError, match=f"kept={kept}"):
        GridPoint("downsample", kept)


def test_as_a_control_it_is_planned_once_for_each_kept():
    shared = {"model": {}, "data": {"name": "diagrams"}, "logger": {}, "method": {"name": "fps"}}
    jobs = [
        read_settings(shared | {"kept": kept, "agg_layer": layer, "controls": ["full", "downsample"]})
        for kept, layer in product((8, 16), (0, 2))
    ]
    points = [each.point for group in make_plan(jobs).groups for each in group.points]
    assert [point.kept for point in points if point.method == "downsample"] == [8, 16]
