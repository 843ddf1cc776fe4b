"""A task's prompts, pictures and figures are those of lmms-eval's evaluator."""

import json
import random
from types import SimpleNamespace

import pytest

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; docs/lmms_eval.md says how")

from lmms_eval.api.instance import GenerationResult
from lmms_folders import OWN_TASKS

from tokensel.data import load_questions
from tokensel.data.lmms.generation import writing_rule
from tokensel.data.lmms.surroundings import contained

SAID = ["yes", "no", "Yes.", "A", "B.", " (C)", "D. none of these", "teal", "red", "4", "4.1", "[0.1, 0.2, 0.5, 0.6]"]
#: Answers that name a choice of every question, by every rule: about others, MMBench asks a judge and MMMU guesses.
DECIDED = ["A", "B", "A.", "(B)", "The answer is B"]
COMMON = ["mmbench_en_dev", "seedbench", "ai2d", "refcoco_bbox_rec_val", "shapes_choice"]
OTHERS = [
    "gqa",
    "pope",
    "textvqa_val",
    "scienceqa_img",
    "chartqa",
    "mme",
    "mmmu_val",
    "vqav2_val",
    "vizwiz_vqa_val",
    "shapes_words",
]


class Told:
    """A model for lmms-eval's evaluator whose answers are known beforehand. answers: by document."""

    rank, world_size, is_simple = 0, 1, True

    def __init__(self, answers):
        self.answers, self.task_dict, self.asked = answers, {}, {}

    def generate_until(self, requests):
        for request in requests:
            words, settings, visuals, document, task, split = request.args
            self.asked[document] = (words, settings, visuals(self.task_dict[task][split][document]))
        return [self.answers[request.doc_id] for request in requests]

    def loglikelihood(self, requests):
        for request in requests:
            words, continuation, visuals, document, task, split = request.args
            shown = visuals(self.task_dict[task][split][document])
            self.asked.setdefault(document, (words, [], shown))[1].append(continuation)
        # lmms-eval 0.7.3 makes a text of a bare pair.
        return [GenerationResult(self.answers[request.doc_id][request.idx]) for request in requests]

    def clean(self):
        pass


def by_lmms_eval(task, folder, model, tmp_path, monkeypatch):
    """{"metric,filter": value}, by lmms-eval's evaluator on a data set of its own loading."""
    import datasets
    from lmms_eval.api.task import ConfigurableTask
    from lmms_eval.evaluator import evaluate

    from tokensel.data.lmms.find import find_config

    config = find_config(task, str(folder)) | {
        "dataset_path": str(folder),
        "dataset_kwargs": {"cache_dir": str(tmp_path)},
    }
    if task == "gqa":  # its own code names the data set on the hub, and starts eight processes
        load, process = datasets.load_dataset, config["process_docs"]
        process.__globals__["load_dataset"] = lambda path, *args, token, **more: load(
            str(folder), *args, **more, cache_dir=tmp_path
        )
        config["process_docs"] = lambda documents: process(
            SimpleNamespace(map=lambda function, num_proc: documents.map(function))
        )
    arguments = SimpleNamespace(output_path=str(tmp_path), process_with_media=False, reasoning_tags=None)
    monkeypatch.chdir(tmp_path)
    asked = ConfigurableTask(config=config, model_name="tokensel")
    model.task_dict[task] = asked.dataset
    once = {"bootstrap_iters": 0, "log_samples": False, "process_docs_parallel": 1}
    found = evaluate(model, {task: asked}, cli_args=arguments, **once)["results"][task]
    return {key: value for key, value in found.items() if "," in key and "_stderr" not in key}


def check_asked(question, words, settings, shown):
    """A question has the prompt, the settings or options, and the pictures of lmms-eval's requests."""
    assert question.text == words
    if question.form == "options":
        assert list(question.choices) == settings
    else:
        assert (question.max_new_tokens, question.until) == writing_rule(settings)
    pictures = question.load_images()
    assert [each.tobytes() for each in pictures] == [each.convert("RGB").tobytes() for each in shown]


@pytest.mark.parametrize("task", [*COMMON, *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)])
def test_questions_and_figures_are_those_of_lmms_evals_evaluator(folders, tmp_path, monkeypatch, task):
    folder = folders("shapes" if task in OWN_TASKS else task)
    questions = load_questions("lmms", task=task, path=str(folder), include_path=str(folder))
    rng = random.Random(task)
    answers = []
    for question in questions:
        if question.form == "options":
            answers.append([(rng.random(), rng.random() < 0.5) for _ in question.choices])
        else:
            answers.append(rng.choice(DECIDED if task.startswith(("mmbench", "mmmu")) else SAID))
    stored = [
        json.loads(json.dumps(each.benchmark.score(each, said)[1]))
        for each, said in zip(questions, answers, strict=True)
    ]
    scored = list(zip(questions, stored, strict=True))
    rng.shuffle(scored)
    ours = questions[0].benchmark.figures(scored)
    with contained():
        model = Told(answers)
        theirs = by_lmms_eval(task, folder, model, tmp_path, monkeypatch)
    for number, question in enumerate(questions):
        check_asked(question, *model.asked[number])
    numbers = {key.split(",")[0]: value for key, value in theirs.items() if isinstance(value, int | float)}
    assert numbers
    assert set(ours) - {"left_out"} == set(numbers)
    assert {key: ours[key] for key in numbers} == pytest.approx(numbers, rel=0, abs=1e-9)
    files = {key.split(",")[0] for key, value in theirs.items() if value is None}
    assert set(ours.get("left_out", {})) == files
