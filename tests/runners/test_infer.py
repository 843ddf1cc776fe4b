"""The original command lines: the sweep's predictions, the original's JSON, and mistakes in one line."""

import json
from argparse import Namespace
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from runners import infer, sweep
from runners.classic import evaluation
from runners.classic.evaluation import choose_chunk
from runners.classic.output import open_answers
from tokensel import TokenselError
from tokensel.compat.arguments import parse_flags
from tokensel.data import LETTERS, load_questions
from tokensel.data.prompts import INSTRUCTION, build_prompt
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.store import PointStore
from tokensel.evaluation.summary import summarize
from tokensel.models import load_model

pytestmark = pytest.mark.usefixtures("undrawn")

HIMAP = "--use-hmap-v --sys-length 35 --img-length 576 --hmap-v-attn-txt-layer 1 --hmap-v-attn-txt-rank 64"
HIMAP += " --hmap-v-attn-img-layer 4 --hmap-v-attn-img-rank 16"
# Flags, and the same setting as a grid point of the sweep.
SCHEMES = {
    "fps": ("--seed 5", GridPoint("fps", 8, 2, seed=5, layout="zero_fill", method_options={"start": None})),
    "tome": (
        "--custom-selection-method tome --custom-kept-tokens 16 --custom-agg-layer 3 --custom-temperature 0.2 "
        "--layout compact",
        GridPoint("tome", 16, 3, temperature=0.2),
    ),
    "fastv": ("--use-fast-v --fast-v-attention-rank 8", GridPoint("fastv", 8, 2, layout="mask")),
    "fastv_inplace": (
        "--use-fast-v True --fast-v-inplace --fast-v-sys-length 35 --fast-v-image-token-length 576 "
        "--fast-v-attention-rank 16 --fast-v-agg-layer 3 --fast-v-token-selection-method weighted_combination "
        "--fast-v-weighted-alpha 0.5",
        GridPoint("fastv", 16, 3, method_options={"heads": "weighted", "alpha": 0.5}),
    ),
    "himap": (HIMAP, GridPoint("himap", (64, 16), (1, 4))),
    "baseline": ("--baseline --use-fast-v False", GridPoint("full")),
}
COUNT = 4
load_once = cache(load_model)


@pytest.fixture(autouse=True)
def models_are_shared(monkeypatch):
    """Runs load each checkpoint once: every run sets all that it changes in a model."""
    monkeypatch.setattr(evaluation, "load_model", load_once)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with a question file of a few diagrams, questions.json, and their pictures in pictures/."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "pictures").mkdir()
    entries = []
    for question in load_questions("diagrams", limit=COUNT):
        question.load_image().save(folder / "pictures" / f"{question.id}.png")
        turns = [
            {"from": "human", "value": "<image>\n" + build_prompt(question)},
            {"from": "gpt", "value": LETTERS[question.answer]},
        ]
        entries.append({"id": question.id, "image": f"{question.id}.png", "conversations": turns})
    (folder / "questions.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """The embedded model saved to disk, changed to stop after the letter: quick to generate, and sometimes correct."""
    folder = tmp_path_factory.mktemp("checkpoint")
    loaded = load_model("tiny")
    loaded.model.generation_config.eos_token_id = [2, *loaded.letter_ids(5)]
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return str(folder)


def question_flags(files: Path) -> list[str]:
    return ["--question-file", str(files / "questions.json"), "--image-folder", str(files / "pictures")]


def by_evaluate(path, files, folder, points, limit=None):
    """Every point's predictions by question id, from the evaluation that the sweep uses."""
    questions = load_questions("question_file", path=files / "questions.json", image_folder=files / "pictures")
    stores = [PointStore(folder / str(index)) for index in range(len(points))]
    assert evaluate(load_once(path), questions[:limit], points, stores, scoring="generate", batch_size=4) == {}
    return [{record["id"]: record for record in store.predictions()} for store in stores]


@pytest.fixture(scope="module")
def expected(checkpoint, files, tmp_path_factory):
    points = [point for _, point in SCHEMES.values()]
    return dict(zip(SCHEMES, by_evaluate(checkpoint, files, tmp_path_factory.mktemp("points"), points), strict=True))


def run(capsys, arguments) -> tuple[dict, str]:
    """The line of JSON, and everything else that was printed."""
    assert infer.main(arguments) == 0
    printed = capsys.readouterr()
    *lines, last = printed.out.strip().splitlines()
    return json.loads(last), "\n".join(lines) + printed.err


def assert_same_predictions(records, expected):
    assert [record["id"] for record in records] == list(dict.fromkeys(record["id"] for record in records))
    assert {record["id"] for record in records} == set(expected)
    for record in records:
        other = expected[record["id"]]
        assert record["text"] == other["text"]
        assert record["prediction"] == (None if other["prediction"] is None else LETTERS[other["prediction"]])
        assert (record["answer"], record["correct"]) == (LETTERS[other["answer"]], other["correct"])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_original_command_line_predicts_what_the_sweep_predicts(
    scheme, checkpoint, files, expected, capsys, tmp_path
):
    given, _ = SCHEMES[scheme]
    output = tmp_path / "new" / "results.json"
    arguments = [
        *question_flags(files),
        "--model-path",
        checkpoint,
        "--single-pred-prompt",
        "--output-file",
        str(output),
    ]
    figures, _ = run(capsys, [*arguments, *given.split()])
    written = json.loads(output.read_text())
    assert_same_predictions(written.pop("predictions"), expected[scheme])
    assert written == {key: value for key, value in figures.items() if key != "output_file"}
    summary = summarize(list(expected[scheme].values()))
    assert (figures["accuracy"], figures["correct_samples"]) == (summary["accuracy"], summary["correct"])
    assert figures["total_samples"] == COUNT
    assert figures["avg_latency"] > 0
    assert [path.name for path in output.parent.iterdir()] == ["results.json"]


def test_the_schemes_answer_differently(expected):
    """Otherwise equal predictions would show little."""
    predicted = {name: [record["prediction"] for record in records.values()] for name, records in expected.items()}
    assert None not in predicted["baseline"]
    assert len(set(predicted["baseline"])) > 1
    assert len({str(answers) for answers in predicted.values()}) > 2


def test_both_command_lines_run_on_the_embedded_model(files, capsys, tmp_path):
    points = [SCHEMES[name][1] for name in ("fps", "fastv")]
    expected = by_evaluate("tiny", files, tmp_path / "points", points, limit=1)
    for name, records in zip(("fps", "fastv"), expected, strict=True):
        output = tmp_path / f"{name}.json"
        arguments = [*question_flags(files), "--single-pred-prompt", "--num-samples", "1", "--output-file", str(output)]
        figures, _ = run(capsys, [*arguments, *SCHEMES[name][0].split()])
        assert_same_predictions(json.loads(output.read_text())["predictions"], records)
        assert figures["model_config"]["model_path"] == "tiny"


def test_the_accuracy_equals_that_of_the_sweeps_command_line(checkpoint, files, expected, capsys, tmp_path):
    arguments = ["data=question_file", f"path={files / 'questions.json'}", f"image_folder={files / 'pictures'}"]
    arguments += ["model=local", f"model.path={checkpoint}", "model.dtype=float32", "model.device=cpu"]
    arguments += ["method=fps", "method.start=null", "kept=8", "layout=zero_fill", "scoring=generate", "limit=null"]
    arguments += ["seed=5", "controls=[]", "logger=none", "latency.repeats=0", f"output_dir={tmp_path}"]
    assert sweep.main(arguments) == 0
    (point,) = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["points"]
    given = ["--single-pred-prompt", "--seed", "5"]
    figures, _ = run(capsys, [*question_flags(files), "--model-path", checkpoint, *given])
    assert figures["accuracy"] == point["accuracy"] == summarize(list(expected["fps"].values()))["accuracy"]


def test_settings_and_seed_are_reported(checkpoint, files, capsys):
    arguments = [*question_flags(files), "--model-path", checkpoint, "--num-samples", "1"]
    figures, printed = run(capsys, [*arguments, "--seed", "7", "--custom-sys-length", "9"])
    settings = figures["model_config"]
    original = {"use_custom_selection": True, "sys_length": 9, "img_length": 576, "kept_tokens": 8, "agg_layer": 2}
    original |= {"selection_method": "fps", "temperature": 0.1, "seed": 7, "layout": "zero_fill"}
    assert original.items() <= settings.items()
    assert "custom_seed=7: fps draws from it" in printed
    assert "note: custom_sys_length=9: the picture begins at token 3" in printed
    assert "accuracy" in printed
    figures, printed = run(capsys, [*arguments, "--use-fast-v", "--fast-v-attention-rank", "9"])
    settings = figures["model_config"]
    assert (settings["use_fastv"], settings["fast_v_attention_rank"], settings["layout"]) == (True, 9, "mask")
    assert settings["seed"] is None
    assert "seed=" not in printed


@pytest.mark.parametrize("flag", [[], ["--single-pred-prompt"]])
def test_the_instruction_is_there_with_its_flag_only(checkpoint, files, capsys, monkeypatch, flag):
    prompts = []
    tokenize = evaluation.tokenizer_image_token

    def spy(prompt, tokenizer):
        prompts.append(prompt)
        return tokenize(prompt, tokenizer)

    monkeypatch.setattr(evaluation, "tokenizer_image_token", spy)
    run(capsys, [*question_flags(files), "--model-path", checkpoint, "--num-samples", "1", *flag])
    (prompt,) = prompts
    assert prompt.count(INSTRUCTION) == len(flag)
    (question,) = load_questions("question_file", path=files / "questions.json", image_folder=files / "pictures")[:1]
    whole = load_once(checkpoint).prompt(question)
    assert prompt == (whole if flag else whole.replace("\n" + INSTRUCTION, ""))


def test_chunks_are_consecutive_and_cover_every_question_once(checkpoint, files, capsys, tmp_path):
    ids = []
    for index, flags in enumerate(([], ["--num-samples", "1"])):
        output = tmp_path / f"{index}.json"
        arguments = [*question_flags(files), "--model-path", checkpoint, "--num-chunks", "2", "--chunk-idx", str(index)]
        run(capsys, [*arguments, *flags, "--output-file", str(output)])
        ids += [record["id"] for record in json.loads(output.read_text())["predictions"]]
    everyone = [entry["id"] for entry in json.loads((files / "questions.json").read_text())]
    assert ids == everyone[: COUNT // 2 + 1]


@pytest.mark.parametrize(("count", "chunks"), [(6, 1), (6, 4), (7, 2), (5, 4), (3, 9)])
def test_a_chunk_is_llavas_and_an_empty_one_is_a_mistake(count, chunks):
    size = -(-count // chunks)
    expected = [list(range(count))[start : start + size] for start in range(0, count, size)]
    for index in range(chunks):
        flags = Namespace(num_chunks=chunks, chunk_idx=index, num_samples=-1)
        if index < len(expected):
            assert choose_chunk(list(range(count)), flags) == expected[index]
        else:
            with pytest.raises(TokenselError, match=f"are {len(expected)} chunks of {size}"):
                choose_chunk(list(range(count)), flags)


def test_questions_without_a_picture_are_answered_too(checkpoint, files, capsys, tmp_path):
    entries = [
        {key: value for key, value in entry.items() if key != "image"}
        for entry in json.loads((files / "questions.json").read_text())[:2]
    ]
    (tmp_path / "blind.json").write_text(json.dumps(entries))
    figures, _ = run(capsys, ["--question-file", str(tmp_path / "blind.json"), "--model-path", checkpoint])
    assert figures["total_samples"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--custom-kept 8", "unrecognized arguments: --custom-kept 8"),
        ("--custom-kept-tokens many", "--custom-kept-tokens: invalid int value: 'many'"),
        ("--custom-kept-tokens 0", "--custom-kept-tokens=0: must be an integer from 1"),
        ("--custom-agg-layer -1", "--custom-agg-layer=-1: must be an integer from 0"),
        ("--custom-temperature 0", "--custom-temperature=0.0: must be"),
        ("--custom-selection-method kmeans", "--custom-selection-method: invalid choice: 'kmeans'"),
        ("--conv-mode llama_2", "--conv-mode: invalid choice: 'llama_2'"),
        ("--layout short", "--layout: invalid choice: 'short'"),
        ("--layout mask --use-fast-v", "--layout: only for the custom selection"),
        ("--baseline --use-fast-v", "--baseline: cannot be combined with"),
        ("--use-fast-v --use-hmap-v", "use_fast_v and use_hmap_v: only one"),
        ("--use-fast-v yes", "'yes': choose True or False"),
        ("--use-fast-v --fast-v-attention-rank -1", "--fast-v-attention-rank=-1: must be an integer from 0"),
        ("--use-fast-v --fast-v-weighted-alpha 2", "--fast-v-weighted-alpha=2.0: must be from 0 to 1"),
        ("--model-base vicuna", "--model-base=vicuna: must be omitted"),
        ("--num-chunks 0", "--chunk-idx=0: must be at least 0 and less than --num-chunks=0"),
        ("--num-chunks 2 --chunk-idx 2", "--chunk-idx=2: must be at least 0 and less than --num-chunks=2"),
        ("--num-chunks 3 --chunk-idx 2", "--chunk-idx=2: 4 questions in --num-chunks=3 are 2 chunks of 2"),
        ("--model-path nowhere-at-all", "--model-path=nowhere-at-all: no such model"),
        ("--image-folder nowhere", "--image-folder=nowhere: no such folder"),
        ("--question-file nowhere.json", "--question-file=nowhere.json: no such file"),
        ("--output-file /dev/null/x.json", "--output-file=/dev/null/x.json: cannot write to /dev/null"),
        ("--output-file .", "--output-file=.: must be a file"),
        ("--output-file /dev/null", "--output-file=/dev/null: must be a file"),
        (f"--output-file {'n' * 300}", "must be a file, with a name of at most 240 bytes"),
        ("--seed -1", "--seed=-1: must be an integer from 0"),
        ("--seed 99999999999999999999", "--seed=99999999999999999999: must be an integer from 0"),
        ("--num-samples 0", "--num-samples=0: must be an integer from 1, or -1 for all"),
    ],
)
def test_a_mistake_is_one_line_before_any_model_is_loaded(files, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(evaluation, "load_model", lambda *args, **kwargs: pytest.fail("loaded a model"))
    assert infer.main([*question_flags(files), *arguments.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_mistake_found_with_the_model_is_one_line_too(checkpoint, files, capsys):
    assert infer.main([*question_flags(files), "--model-path", checkpoint, "--custom-agg-layer", "9"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --custom-agg-layer=9: must be from 0 to 8")
    assert infer.main([*question_flags(files), "--device", "tpu"]) == 2
    assert capsys.readouterr().err.startswith("error: --device=tpu: unknown")


def test_a_broken_picture_is_found_first_and_an_old_result_is_kept(files, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation, "load_model", lambda *args, **kwargs: pytest.fail("loaded a model"))
    entries = json.loads((files / "questions.json").read_text())[:2]
    for entry in entries:
        Image.new("RGB", (8, 8)).save(tmp_path / entry["image"])
    broken = tmp_path / entries[1]["image"]
    broken.write_bytes(broken.read_bytes()[:40])
    (tmp_path / "q.json").write_text(json.dumps(entries))
    output = tmp_path / "old.json"
    output.write_text("old")
    arguments = ["--question-file", str(tmp_path / "q.json"), "--image-folder", str(tmp_path)]
    assert infer.main([*arguments, "--output-file", str(output)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: question {entries[1]['id']}: picture")
    assert output.read_text() == "old"


def test_kept_above_the_number_of_visual_tokens_is_noted(checkpoint, files, capsys):
    arguments = [
        *question_flags(files),
        "--model-path",
        checkpoint,
        "--num-samples",
        "2",
        "--custom-kept-tokens",
        "600",
    ]
    _, printed = run(capsys, arguments)
    assert printed.count("note: kept=600: the image has 576 visual tokens; nothing is removed") == 1
    assert torch.is_grad_enabled()


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as stopped:
        infer.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    classic = "model-path model-base image-folder question-file conv-mode single-pred-prompt num-chunks chunk-idx"
    classic += " num-samples baseline custom-sys-length custom-image-token-length custom-kept-tokens custom-agg-layer"
    classic += " custom-selection-method custom-temperature output-file use-fast-v use-hmap-v cut-off-layer"
    assert [name for name in classic.split() if f"--{name}" not in shown] == []


def test_answers_are_kept_as_they_come_and_the_same_command_continues(checkpoint, files, capsys, monkeypatch, tmp_path):
    output = tmp_path / "figures.json"
    arguments = [*question_flags(files), "--model-path", checkpoint, "--output-file", str(output), "--num-samples", "3"]
    answer, asked = evaluation._answer, []

    def interrupted_at_the_third(question, *rest):
        asked.append(question.id)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(question, *rest)

    monkeypatch.setattr(evaluation, "_answer", interrupted_at_the_third)
    assert infer.main(arguments) == 130
    assert "interrupted: the same command continues" in capsys.readouterr().err
    kept = PointStore(tmp_path / "figures.json.partial").predictions()
    assert [record["id"] for record in kept] == asked[:2]
    run(capsys, arguments)
    assert asked[3:] == asked[2:3]
    predictions = json.loads(output.read_text())["predictions"]
    assert [record["id"] for record in predictions] == asked[:3]
    assert predictions[:2] == [{name: record[name] for name in predictions[0]} for record in kept]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_answers_of_other_flags_or_questions_are_not_continued(files, tmp_path):
    questions = load_questions("question_file", path=files / "questions.json", image_folder=files / "pictures")

    def earlier(flags, questions):
        with open_answers(
            tmp_path / "figures.json", parse_flags("", [*question_flags(files), *flags]), questions
        ) as kept:
            found = len(kept.predictions())
            kept.append([{"id": "0", "prediction": "A", "answer": "A", "correct": True}])
            return found

    flags = ["--custom-kept-tokens", "2"]
    assert [earlier(flags, questions), earlier(flags, questions)] == [0, 1]
    assert earlier(["--custom-kept-tokens", "3"], questions) == 0
    assert earlier(["--custom-kept-tokens", "3"], questions[1:]) == 0


def test_logits_that_are_no_numbers_end_in_one_line(checkpoint, files, capsys, monkeypatch):
    def broken(*arguments, **options):
        loaded = load_model(*arguments, **options)
        loaded.model.model.language_model.layers[-1].mlp.down_proj.weight.fill_(float("nan"))
        return loaded

    monkeypatch.setattr(evaluation, "load_model", broken)
    assert infer.main([*question_flags(files), "--model-path", checkpoint]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("logits of a written answer are not finite")
