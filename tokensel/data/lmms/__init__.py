"""The tasks of lmms-eval, a public collection of benchmarks, as questions; their documents, words and scores are
lmms-eval's own.

    python -m runners.sweep data=lmms data.task=pope,gqa,textvqa_val kept=32,64 method=fps --multirun

lmms-eval is imported only when such a task is loaded; docs/lmms_eval.md says how to install it.
"""

from tokensel.data.lmms.surroundings import load_module
from tokensel.data.question import Question


def load_lmms(
    task: str,
    path: str | None = None,
    include_path: str | None = None,
    judge: bool = False,
    metric: str | None = None,
    model_name: str = "tokensel",
    max_new_tokens: int | None = None,
) -> list[Question]:
    """The questions of a task, in the order of its documents. A question's id ends in its document's number.

    Parameters:
        task: the name of a single task, as in `python -m lmms_eval --tasks list`
        path: a folder with the task's data set, or with one in a sub-folder of the task's name; None: the data set on
            the hub that the task names. See `tokensel.data.lmms.folders`
        include_path: a folder with task YAMLs of one's own
        judge: whether scoring may ask a judge on the network, with the keys that lmms-eval reads from the environment
        metric: the metric that gives a question's share of being right; None: the first that gives one
        model_name: whose wording and settings to use, of tasks that have them for some models
        max_new_tokens: of a written answer; None: the task's own, or 1024

    Raises TokenselError for a task that is unknown, a group, or of a form that is not supported; for data that cannot
    be found or read; and if lmms-eval is not installed.
    """
    questions = load_module("tokensel.data.lmms.questions")
    return questions.questions_of(task, path, include_path, judge, metric, model_name, max_new_tokens)
