"""Part d: loading pictures alone."""

from collections.abc import Sequence

from runners.benchmark.output import Bar, TableRow
from runners.benchmark.timing import quartiles, seconds, take_turns
from tokensel.data import Question
from tokensel.evaluation.batches import order_questions
from tokensel.models import LoadedModel


def measure_loading(loaded: LoadedModel, questions: Sequence[Question], passes: int, batch_size: int) -> list[TableRow]:
    """One line: seconds to open the pictures and turn the questions into tensors as a sweep does, without the model."""
    ordered = order_questions(questions)

    def work() -> None:
        for start in range(0, len(ordered), batch_size):
            batch = ordered[start : start + batch_size]
            shown = [(q.picture_ids, loaded.load_images(q)) for q in _one_per_picture(batch)]
            loaded.encode(batch, {id: each for ids, opened in shown for id, each in zip(ids, opened, strict=True)})

    bar = Bar("d", passes + 1)
    found = take_turns({"loading": lambda: seconds(work, loaded.device)}, passes, 1, bar.tick)["loading"]
    pictures = len(_one_per_picture(ordered))
    rate = quartiles([len(ordered) / taken for taken in found])
    return [{"questions": len(ordered), "pictures": pictures, "seconds": quartiles(found), "questions_per_s": rate}]


def _one_per_picture(questions: Sequence[Question]) -> list[Question]:
    """One question per picture."""
    return list({question.image_id: question for question in questions if question.is_visual}.values())
