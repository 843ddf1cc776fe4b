"""The documents of `lmms_folders`: bundled questions, in the columns of the data sets that lmms-eval's tasks read."""

import io
import random
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any

from PIL import Image as Pictures
from PIL import ImageDraw

from tokensel.data import LETTERS, Question
from tokensel.data.diagrams import DEFAULT_FAMILIES, FAMILIES, draw_diagram, draw_picture, load_diagrams
from tokensel.data.drawing import COLORS, PALETTE
from tokensel.data.easy_vqa import load_easy_vqa

Row = dict[str, Any]


def png(picture: Pictures.Image) -> Row:
    """A picture as data sets store it."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


@cache
def diagram(family: str, index: int) -> Row:
    """The picture of a bundled question."""
    return png(draw_picture(family, "test", index))


def lettered(count: int) -> Iterator[tuple[int, Question, Row]]:
    """Bundled questions with choices, each with its number and picture; the families take turns."""
    per_family = -(-count // len(DEFAULT_FAMILIES))
    by_family = load_diagrams(per_family=per_family)
    for number in range(count):
        index, family = divmod(number, len(DEFAULT_FAMILIES))
        yield number, by_family[family * per_family + index], diagram(DEFAULT_FAMILIES[family], index)


def in_words(count: int, families: tuple[str, ...] = DEFAULT_FAMILIES) -> Iterator[tuple[int, str, str, Row]]:
    """Bundled questions whose answer is a word: number, question, answer and picture."""
    for number in range(count):
        index, family = divmod(number, len(families))
        item = draw_diagram(families[family], "test", index, inked=False).items[0]
        yield number, item.text, item.short, diagram(families[family], index)


def diagram_words() -> set[str]:
    """The answers in one word to questions about diagrams."""
    return {
        draw_diagram(family, "test", index, inked=False).items[0].short for family in FAMILIES for index in range(40)
    }


def yes_no_pairs() -> Iterator[tuple[Question, Question, Row]]:
    """Of each easy-VQA picture that has both, a question answered with yes and one answered with no."""
    found: dict[str, dict[str, Question]] = {}
    for question in load_easy_vqa():
        if question.family != "yes_no":
            continue
        pair = found.setdefault(question.image_id, {})
        pair.setdefault(question.choices[question.answer], question)
        if len(pair) == 2 and not pair.get("done"):
            pair["done"] = question
            yield pair["yes"], pair["no"], png(question.load_image())


def of_ten(number: int, answer: str) -> list[str]:
    """Ten people's answers: all of them right, or from two to nine."""
    right = 10 if number % 3 == 0 else 2 + number % 8
    return [answer] * right + ["purple", "I do not know"][: 10 - right] + ["unclear"] * (8 - right)


def pope(count: int) -> Iterator[Row]:
    kinds = ("random", "popular", "adversarial")
    for pair, (yes, no, picture) in enumerate(islice(yes_no_pairs(), -(-count // 2))):
        for answer, question in (("yes", yes), ("no", no))[: count - 2 * pair]:
            number = 2 * pair + (answer == "no")
            row = {"id": str(number), "question_id": str(number + 1), "question": question.text, "answer": answer}
            yield row | {"image_source": question.image_id, "image": picture, "category": kinds[pair % 3]}


def mme(count: int) -> Iterator[Row]:
    kinds = ("existence", "color", "position", "numerical_calculation")
    for number, (yes, no, picture) in enumerate(islice(yes_no_pairs(), max(1, count // 2))):
        for answer, question in (("Yes", yes), ("No", no)):
            text = f"{question.text} Please answer yes or no."
            row = {"question_id": f"{kinds[number % 4]}/{number:04}.png", "image": picture, "question": text}
            yield row | {"answer": answer, "category": kinds[number % 4]}


def gqa_questions(count: int) -> Iterator[Row]:
    for number, text, answer, _ in in_words(count):
        row = {"id": f"2{number:08}", "imageId": f"n{number}", "question": text, "answer": answer}
        row |= {"fullAnswer": f"It is {answer}.", "isBalanced": True, "semanticStr": "select: picture [0]"}
        yield row | {"groups": {"global": None, "local": "query"}, "entailed": "", "equivalent": f"['2{number:08}']"}


def gqa_pictures(count: int) -> Iterator[Row]:
    yield from ({"id": f"n{number}", "image": picture} for number, _, _, picture in in_words(count))


def textvqa(count: int) -> Iterator[Row]:
    for number, text, answer, picture in in_words(count):
        row = {"image_id": f"t{number}", "question_id": 34602 + number, "question": text.lower(), "image": picture}
        row |= {"question_tokens": text.lower().rstrip("?").split(), "image_width": 336, "image_height": 336}
        row |= {"flickr_original_url": "", "flickr_300k_url": "", "answers": of_ten(number, answer)}
        yield row | {"image_classes": ["Poster"], "set_name": "val", "ocr_tokens": []}


def vizwiz(count: int) -> Iterator[Row]:
    for number, text, answer, picture in in_words(count):
        answers, kind = of_ten(number, answer), "other"
        if number % 6 == 5:
            answers, kind = ["unanswerable"] * 7 + [answer] * 3, "unanswerable"
        row = {"question_id": f"VizWiz_val_{number:08}", "image": picture, "question": text}
        yield row | {"answers": answers, "category": kind}


def vqav2(count: int) -> Iterator[Row]:
    for number, text, answer, picture in in_words(count):
        told = of_ten(number, answer)
        answers = [{"answer": said, "answer_confidence": "yes", "answer_id": k} for k, said in enumerate(told, 1)]
        row = {"question_type": "what", "multiple_choice_answer": answer, "answers": answers, "image_id": number}
        yield row | {"answer_type": "other", "question_id": 1000 * number, "question": text, "image": picture}


def scienceqa(count: int) -> Iterator[Row]:
    for _, asked, picture in lettered(count):
        row = {"image": picture, "question": asked.text, "choices": list(asked.choices), "answer": asked.answer}
        row |= {"hint": asked.hint, "task": "closed choice", "grade": asked.grade, "subject": asked.subject}
        yield row | {"topic": asked.topic, "category": "Diagrams", "skill": asked.family, "lecture": "", "solution": ""}


def mmbench(count: int) -> Iterator[Row]:
    """Every question with its choices in as many orders as there are letters: circular evaluation."""
    made = 0
    for number, asked, picture in lettered(count):
        for turn in range(len(asked.choices)):
            if made == count:
                return
            made += 1
            choices = asked.choices[turn:] + asked.choices[:turn]
            answer = LETTERS[(asked.answer - turn) % len(choices)]
            row = {"index": number + 1_000_000 * turn, "question": asked.text, "hint": asked.hint or "nan"}
            row |= {"answer": answer, **dict(zip("ABCD", [*choices, "nan", "nan"], strict=False))}
            row |= {"category": f"{asked.family}_recognition", "image": picture, "source": "tokensel"}
            yield row | {"L2-category": asked.subject, "comment": "nan", "split": "dev"}


def seedbench(count: int) -> Iterator[Row]:
    """One question in six is about a video, of two frames."""
    for number, asked, picture in lettered(count):
        video = number % 6 == 5
        choices = [*asked.choices, *("none of these",) * 3][:4]
        row = {f"choice_{letter}": choice for letter, choice in zip("abcd", choices, strict=True)}
        row |= {"answer": LETTERS[asked.answer], "data_id": f"{number}", "question": asked.text}
        row |= {"data_type": "video" if video else "image", "image": [picture] * (1 + video)}
        yield row | {"question_id": f"{number}", "question_type_id": 1 + number % 9, "segment": [0, 8]}


def ai2d(count: int) -> Iterator[Row]:
    for _, asked, picture in lettered(count):
        options = list(asked.choices)
        yield {"question": asked.text, "options": options, "answer": str(asked.answer), "image": picture}


def chartqa(count: int) -> Iterator[Row]:
    """Every other answer is a number."""
    for number, text, answer, picture in in_words(count, ("concentration", "color", "force", "shape")):
        kind = "human_test" if number % 2 else "augmented_test"
        yield {"type": kind, "question": text, "answer": answer, "image": picture}


def mmmu(count: int) -> Iterator[Row]:
    """One question in four is open, and one in six has two pictures."""
    subjects = ("Accounting", "Art", "Biology", "Physics")
    for number, asked, picture in lettered(count):
        open_ended, second = number % 4 == 3, number % 6 == 5
        word = draw_diagram(asked.family, "test", number // len(DEFAULT_FAMILIES), inked=False).items[0].short
        row = {"id": f"validation_{subjects[number % 4]}_{number + 1}", "explanation": "", "img_type": "['Diagrams']"}
        row |= {"question": "<image 1> " + "<image 2> " * second + asked.text, "topic_difficulty": "Easy"}
        row |= {"options": str([] if open_ended else list(asked.choices)), "subfield": asked.topic}
        row |= {"answer": word if open_ended else LETTERS[asked.answer]}
        row |= {f"image_{k}": picture if k == 1 or (k == 2 and second) else None for k in range(1, 8)}
        yield row | {"question_type": "open" if open_ended else "multiple-choice"}


def refcoco(count: int) -> Iterator[Row]:
    """Two coloured boxes in each picture, one of them described by two sentences."""
    for number in range(-(-count // 2)):
        rng = random.Random(f"lmms_folders/refcoco/{number}")
        picture = Pictures.new("RGB", (320, 240), (240, 240, 235))
        first, second = rng.sample(COLORS, 2)
        for place, color in enumerate((second, first)):
            x, y, width, height = 160 * place + rng.randint(5, 60), rng.randint(5, 130), 80, rng.randint(50, 100)
            ImageDraw.Draw(picture).rectangle((x, y, x + width, y + height), PALETTE[color])
        row = {"question_id": str(number), "image": png(picture), "question": "Describe the marked region."}
        row |= {"answer": [f"{first} rectangle", f"the {first} one"], "bbox": [x, y, width, height], "iscrowd": 0}
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        yield row | {"segmentation": corners, "file_name": f"{number}.png"}


def shapes(count: int) -> Iterator[Row]:
    """Choices, and the right one as a word."""
    for number, text, word, picture in in_words(count, ("color", "shape")):
        asked = draw_diagram(("color", "shape")[number % 2], "test", number // 2, inked=False).items[0]
        row = {"image": picture, "question": text, "choices": list(asked.choices), "answer": asked.answer}
        yield row | {"word": word}
