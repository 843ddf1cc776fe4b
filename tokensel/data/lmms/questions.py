"""A task's documents as questions."""

from typing import Any

from tokensel.data.lmms.find import check_form, find_config
from tokensel.data.lmms.folders import local_data
from tokensel.data.lmms.generation import writing_rule
from tokensel.data.lmms.pictures import Pictures
from tokensel.data.lmms.scoring import TaskScores, check_judge
from tokensel.data.lmms.surroundings import contained, repeatable
from tokensel.data.lmms.task import Task
from tokensel.data.question import NO_CHOICE, Question
from tokensel.errors import TokenselError, first_line


def questions_of(
    name: str,
    path: str | None,
    include_path: str | None,
    judge: bool,
    metric: str | None,
    model_name: str,
    max_new_tokens: int | None,
) -> list[Question]:
    """See `tokensel.data.lmms.load_lmms`."""
    with contained(), repeatable(name):
        config = find_config(name, include_path)
        check_form(name, config)
        if not judge:
            check_judge(name, config)
        task = _task(name, path, config, model_name)
        scores = TaskScores(task, name, judge, metric)
        form = _writing(name, task, max_new_tokens) if task.OUTPUT_TYPE == "generate_until" else {}
        return _questions(name, task, {**form, "instruction": "", "split": str(task.split), "benchmark": scores})


def _task(name: str, path: str | None, config: dict[str, Any], model_name: str) -> Task:
    local = local_data(path, name)
    try:
        return Task(config, model_name, local)
    except TokenselError:
        raise
    except Exception as error:  # the task's own code, which reads the documents
        reason = f"{type(error).__name__}: {first_line(error)}"
        where = f"; are the documents of data.path={path} the task's?" if local else ""
        raise TokenselError(f"data.task={name}: cannot be loaded ({reason}){where}") from error


def _writing(name: str, task: Task, max_new_tokens: int | None) -> dict[str, Any]:
    given = dict(task.config.generation_kwargs or {})
    if max_new_tokens is not None:
        given["max_new_tokens"] = max_new_tokens
    try:
        limit, until = writing_rule(given)
    except TokenselError as error:
        raise TokenselError(f"data.task={name}: {error}") from error
    return {"max_new_tokens": limit, "until": until}


def _questions(name: str, task: Task, common: dict[str, Any]) -> list[Question]:
    pictures = Pictures(task, name)
    questions = []
    for number, document in enumerate(task.eval_docs_no_media):
        # In the documents' order: few-shot examples are drawn one after the other.
        words = task.fewshot_context(document, task.config.num_fewshot or 0)
        if not isinstance(words, str):
            raise TokenselError(f"data.task={name}: has another prompt for each choice, which is not supported")
        shown, image_id = pictures.of(number, document)
        question = Question(
            id=f"{name}-{number}",
            text=words,
            choices=_choices(task, document),
            answer=NO_CHOICE,
            image=shown,
            image_id=image_id,
            form="text" if task.OUTPUT_TYPE == "generate_until" else "options",
            **common,
        )
        questions.append(question)
    return questions


def _choices(task: Task, document: dict[str, Any]) -> tuple[str, ...]:
    """The continuations whose likelihoods are compared; none for written answers."""
    if task.OUTPUT_TYPE == "generate_until":
        return ()
    if task.OUTPUT_TYPE == "loglikelihood":
        return (str(task.doc_to_target(document)),)
    return tuple(f"{task.config.target_delimiter}{choice}" for choice in task.doc_to_choice(document))
