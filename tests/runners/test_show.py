"""Survivors drawn on a picture: the weights are those of the aggregation, and the tokens drawn are those kept."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.aggregators import write_aggregator
from helpers.checkpoints import picture, save_checkpoint, save_question_file
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from analysis.maps import dim_others, heat, montage
from analysis.report.survivors_page import survivors_page
from analysis.survivors import Survivors, Tracer, effective_tokens, gathered_weights, is_right, mean_weights
from runners.show import main
from tokensel.data import LETTERS, Question
from tokensel.data.protocol import Protocol
from tokensel.engine.reduce import reduce_tokens
from tokensel.errors import TokenselError
from tokensel.evaluation.answers import row_keys
from tokensel.evaluation.grid_point import GridPoint
from tokensel.functional import cross_attention, nearest_mean
from tokensel.models import LoadedModel, load_model

GRID = (6, 6)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("show") / "model")


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> LoadedModel:
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def question() -> Question:
    return Question("q1", "what is it ?", ("red", "green", "blue"), 1, picture(3), image_id="p")


@pytest.fixture(scope="module")
def tracer(loaded: LoadedModel, question: Question) -> Tracer:
    return Tracer(loaded, question)


@pytest.fixture(scope="module")
def picture_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "a picture.png"
    picture(1).save(path)
    return path


def entering(tracer: Tracer, layer: int) -> torch.Tensor:
    """The visual tokens' hidden states on entering a layer: [N, D]."""
    with torch.inference_mode():
        state = tracer.split.run(tracer.split.embed(**tracer.inputs, **tracer.about), layer)
    return state.hidden[0, state.visual_index[0]]


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 99), st.sampled_from([0.05, 0.1, 1.0]))
def test_weights_are_those_of_cross_attention(kept, count, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, count, 7, generator=generator)
    queries = tokens[:, torch.randint(count, (kept,), generator=generator)]
    weights = gathered_weights(queries, tokens, temperature)
    assert weights.shape == (2, kept, count)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, kept))
    torch.testing.assert_close(weights @ tokens, cross_attention(queries, tokens, temperature))


@given(st.integers(1, 5), st.integers(6, 12), st.integers(0, 99))
def test_weights_are_those_of_the_mean(kept, count, seed):
    tokens = torch.randn(1, count, 7, generator=torch.Generator().manual_seed(seed))
    queries = tokens[:, :kept]
    torch.testing.assert_close(mean_weights(queries, tokens) @ tokens, nearest_mean(queries, tokens))


def test_effective_tokens_count_the_gathered_tokens():
    weights = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4])
    assert effective_tokens(weights) == pytest.approx([1, 2, 4])


@pytest.mark.parametrize("method", ["fps", "tome", "fastv", "random", "density", "divprune", "visionzip", "pool"])
def test_survivors_and_answer_equal_those_of_reduce_tokens(tracer, loaded, question, method):
    point = GridPoint(method, 4)
    found = tracer.survivors(point)
    inputs = loaded.prepare([question])
    with (
        torch.inference_mode(),
        reduce_tokens(
            loaded.model, point.make_method(), row_keys=row_keys([question], loaded.device), **point.reduction()
        ) as record,
    ):
        logits = loaded.model(**inputs).logits[0, -1]
    assert found.positions == tuple(record.positions[0].tolist())
    scores = logits[loaded.letter_ids(3)]
    assert found.answer == LETTERS[int(scores.argmax())]
    best = scores.sort(descending=True).values
    assert found.margin == pytest.approx(float(best[0] - best[1]), abs=1e-4)


@pytest.mark.parametrize("aggregation", ["cross_attention", "learned", "mean"])
def test_weights_reproduce_the_values_that_survivors_carry(tracer, aggregation, tmp_path):
    aggregator = None
    if aggregation == "learned":  # with values as they are, and one head, which the drawing need not average
        aggregator = write_aggregator(tmp_path / "a.safetensors", 32, heads=1, value_up=0)
    point = GridPoint("fps", 5, 2, aggregation=aggregation, temperature=0.2, aggregator=aggregator)
    found = tracer.survivors(point)
    assert found.gathers == aggregation
    with torch.inference_mode():
        state = tracer.split.run(tracer.split.embed(**tracer.inputs, **tracer.about), 2)
        reduced = tracer.split.reduce(state, point.stages()[0])
    carried = reduced.hidden[0, reduced.visual_index[0]]
    torch.testing.assert_close(torch.from_numpy(found.weights) @ entering(tracer, 2), carried, atol=1e-5, rtol=1e-4)


def test_weights_of_a_second_stage_cover_the_first_stages_survivors(tracer):
    first = tracer.survivors(GridPoint("fps", 9, 1)).positions
    found = tracer.survivors(GridPoint("fps", (9, 3), (1, 3)))
    assert found.layer == 3
    assert len(found.positions) == 3
    assert set(found.positions) <= set(first)
    assert found.weights.shape == (3, 36)
    assert set(np.flatnonzero(found.weights.sum(0))) == set(first)
    assert found.weights.sum(1) == pytest.approx([1, 1, 1], abs=1e-5)


def test_without_gathering_there_are_no_weights(tracer):
    assert (tracer.survivors(GridPoint("fastv", 4)).weights, tracer.survivors(GridPoint("fastv", 4)).gathers) == (
        None,
        "none",
    )
    assert (tracer.survivors(GridPoint("pool", 4)).weights, tracer.survivors(GridPoint("pool", 4)).gathers) == (
        None,
        "own",
    )


@pytest.mark.parametrize(
    "point", [GridPoint("full"), GridPoint("no_image"), GridPoint("fps", 36), GridPoint("fps", 4, 4)]
)
def test_without_survivors_there_is_nothing_to_draw(tracer, point):
    with pytest.raises(TokenselError, match="no survivors to draw"):
        tracer.survivors(point)


def test_the_picture_is_the_one_the_model_gets(loaded):
    half = Image.new("RGB", (120, 60), "white")
    half.paste((255, 0, 0), (0, 0, 60, 60))
    asked = Question("q", "?", ("a", "b"), 0, half)
    padded = Tracer(loaded, asked).picture()
    cut = Tracer(loaded.with_protocol(Protocol(image_aspect="crop")), asked).picture()
    assert padded.shape == cut.shape == (84, 84, 3)
    assert tuple(padded[42, 10]) == (255, 0, 0)
    assert abs(padded[5, 42].astype(int) - (122, 116, 104)).max() <= 2  # the grey of the padding
    assert tuple(cut[5, 10]) == (255, 0, 0)
    assert tuple(cut[5, 80]) == (255, 255, 255)


def test_a_question_in_words_is_asked_without_choices(loaded, question):
    inputs = Tracer(loaded, question, in_words=True).inputs
    text = loaded.processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True)
    assert "what is it" in text
    assert "green" not in text
    assert "letter" not in text


def test_all_but_the_kept_tokens_are_dimmed():
    shown = dim_others(np.full((12, 18, 3), 200, dtype=np.uint8), [0, 5], (2, 3))
    for row in range(12):
        for column in range(18):
            kept = row // 6 * 3 + column // 6 in (0, 5)
            assert (shown[row, column] == 200).all() == kept
            assert kept or ((shown[row, column] > 80) & (shown[row, column] < 140)).all()


@pytest.mark.parametrize(("answer", "correct", "right"), [("yes.", "Yes", True), ("B", "A", False), ("A", None, None)])
def test_an_answer_is_right_apart_from_case_and_full_stop(answer, correct, right):
    assert is_right(answer, correct) is right


def test_maps_are_brightest_where_weights_are_largest():
    weights = np.zeros(36, dtype=np.float32)
    weights[7], weights[8] = 0.7, 0.3
    shown = heat(np.full((36, 36, 3), 100, dtype=np.uint8), weights, GRID).sum(2)
    most, less, none = shown[8, 8], shown[8, 14], shown[30, 30]
    assert most > less > none


def test_montage_has_a_map_for_every_survivor(tracer):
    found = tracer.survivors(GridPoint("fps", 9))
    sheet = montage(tracer.picture(), found, GRID, side=60)
    assert sheet.shape == (2 * 64, 8 * 64, 3)
    own = (64, 224, 255)
    for index, position in enumerate(found.positions):
        top, left = index // 8 * 64 + 2 + position // 6 * 10, index % 8 * 64 + 2 + position % 6 * 10
        assert tuple(sheet[top, left]) == own
        assert tuple(sheet[top + 9, left + 9]) == own
    assert (sheet[64 + 2 :, 64:] == 255).all()  # the second row holds one map only


def test_page_holds_positions_and_weights(tracer):
    table = [[tracer.survivors(GridPoint(method, kept)) for method in ("fps", "fastv")] for kept in (3, 9)]
    html = survivors_page(tracer.picture(), table, tracer.grid, "<b>what?</b>", "meta", "A", "A")
    assert "<b>what" not in html
    data = json.loads(html.split('id="data">')[1].split("</script>")[0])
    assert [cell["positions"] for cell in data["cells"]] == [list(found.positions) for line in table for found in line]
    assert data["cells"][1]["weights"] is None
    assert data["full"] == {"answer": "A", "right": True}
    assert [cell["right"] for cell in data["cells"]] == [cell["answer"] == "A" for cell in data["cells"]]
    weights = np.frombuffer(base64.b64decode(data["cells"][2]["weights"]), dtype=np.uint8).reshape(9, 36)
    expected = table[1][0].weights / table[1][0].weights.max(1, keepdims=True)
    assert np.abs(weights / 255 - expected).max() <= 0.5 / 255 + 1e-6


@pytest.mark.sampled
@pytest.mark.parametrize("suffix", ["png", "html"])
def test_runner_draws_the_users_own_picture(checkpoint, picture_file, tmp_path, capsys, suffix):
    output = tmp_path / "new" / f"out.{suffix}"
    arguments = [
        f"image={picture_file}",
        "question=what is it ?",
        "choices=red, green",
        "answer=GREEN",
        f"model={checkpoint}",
    ]
    arguments += ["method=fps,tome,fastv", "kept=4,9", "method.start=0", "agg_layer=1", f"output={output}"]
    assert main(arguments) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(each["method"], each["kept"]) for each in line["answers"]] == [
        (method, kept) for kept in (4, 9) for method in ("fps", "tome", "fastv")
    ]
    assert all(len(each["positions"]) == each["kept"] and each["agg_layer"] == 1 for each in line["answers"])
    assert all(each["answer"] in ("A", "B") for each in line["answers"])
    assert line["correct"] == "B"
    assert all(each["correct"] == (each["answer"] == "B") for each in line["answers"])
    assert line["answers"][0]["positions"][0] == 0  # method.start
    assert (line["visual_tokens"], line["output"]) == (36, str(output))
    if suffix == "html":
        assert "A. red · B. green · the correct answer is B" in output.read_text()
    if suffix == "png":
        with Image.open(output) as drawn:
            assert drawn.width > 1000
    else:
        assert output.read_text().count("<figure") == 0  # drawn by the page's script from its data


def test_runner_takes_a_data_sets_question_and_answers_in_words(checkpoint, tmp_path, picture_file, capsys):
    questions = save_question_file(tmp_path, 4)
    shared = [f"model={checkpoint}", "method=fps", "kept=4", f"output={tmp_path / 'out.png'}"]
    data = ["data=question_file", f"path={questions}", f"image_folder={tmp_path / 'images'}"]
    assert main([*shared, *data, "question_id=q2"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["question"].startswith("what is it and and")
    assert line["correct"] in ("A", "B")
    assert main([*shared, f"image={picture_file}", "question=what is it ?"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["answers"][0]["margin"] is None
    assert (line["correct"], line["answers"][0]["correct"]) == (None, None)


OWN_METHOD = (
    "from tokensel import Method\nclass Odd(Method):\n    def select(self, context):\n        return context.nothing\n"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "image: give a picture or video and a question"),
        (["image={picture}"], "question: missing"),
        (["image={tmp}/none.png", "question=x"], "none.png: no such file"),
        (["image={tmp}/odd.py", "question=x"], "cannot be read as a picture"),
        (["image={picture}", "question=x", "choices=one"], "choices=one: must be two or more"),
        (["image={picture}", "question=x", "choices=a,b", "answer=c"], "answer=c: must be one of the choices a, b, or"),
        (["data=diagrams", "answer=A"], "answer: the data set has its own"),
        (["image={picture}", "data=diagrams"], "image, data: give one of them"),
        (["data=diagrams", "method=nope"], "method='nope' is unknown"),
        (["data=diagrams", "method=full"], "method=full: chooses no visual tokens"),
        (["data=diagrams", "method=fps,no_image"], "method=no_image: chooses no visual tokens"),
        (["data=diagrams", "method.colour=1"], "method.colour=1: none of the methods"),
        (["data=diagrams", "method=fastv", "method.alpha=much"], "error: method.alpha=much: must be a number"),
        (["data=diagrams", "kept=few"], "kept=few: must be an integer"),
        (["data=diagrams", "seed=x"], "seed=x: must be an integer"),
        (["data=diagrams", "temperature=cold"], "temperature=cold: must be"),
        (["data=nothing"], "data=nothing: unknown"),
        (["data=diagrams", "question_id=7"], "question_id=7: no such question"),
        (["data=diagrams", "output=out.gif"], "output=out.gif: must end in .png or .html"),
        (["cat.png"], "cat.png: must be KEY=VALUE"),
        (["data=diagrams", "colour=red"], "colour: unknown key"),
        (["data=diagrams", "kept=4", "kept=5"], "kept: given twice"),
        (["data=diagrams", "output={picture}/out.png", "method=fps", "kept=4", "model={model}"], "cannot write to"),
        (["data=diagrams", "kept=36", "model={model}"], "no survivors to draw"),
        (["data=diagrams", "kept=4", "model={model}", "method={tmp}/odd.py:Odd"], "method=odd: failed: AttributeError"),
        (["data=diagrams", "model=/none"], "model.path=/none: no such model"),
        (["data=diagrams", "method=cdpruner", "method.clip=x", "model=/none"], "method.clip=x: no such checkpoint"),
    ],
)
def test_mistakes_end_in_one_line(checkpoint, picture_file, tmp_path, capsys, arguments, message):
    (tmp_path / "odd.py").write_text(OWN_METHOD)
    named = {"tmp": tmp_path, "picture": picture_file, "model": checkpoint}
    given = [argument.format(**named) for argument in arguments]
    if not any(argument.startswith("output=") for argument in given):
        given.append(f"output={tmp_path / 'out.png'}")
    assert main(given) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "out.png").exists()


def test_survivors_are_drawn_on_a_grid_that_is_not_square():
    weights = np.full((2, 12), 1 / 12, dtype=np.float32)
    found = Survivors(GridPoint("fps", 2), (0, 11), weights, "cross_attention", 2, "A", 1.0)
    sheet = montage(np.zeros((30, 40, 3), dtype=np.uint8), found, (3, 4), side=48)
    assert tuple(sheet[2, 2]) == tuple(sheet[2 + 35, 52 + 2 + 47]) == (64, 224, 255)
