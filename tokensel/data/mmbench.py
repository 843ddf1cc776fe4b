"""MMBench, in English and Chinese: multiple-choice questions of twenty abilities, with circular evaluation: a question
is right only if it is answered rightly with its choices in every rotated order.

Supported forms: lmms-lab/MMBench on the hub (configurations en and cn), with the columns index, question, hint, A to D,
answer, category, L2-category and image; or a folder with it, written by `save_to_disk` or cloned from the hub. Its dev
split has 1164 questions, and their rotations as examples of their own, whose index is larger by a million for each
step. Where a data set has no rotations, they are made.

The words are those of LLaVA's model_vqa_mmbench.py.

Source: Liu et al., "MMBench: Is Your Multi-modal Model an All-around Player?", ECCV 2024,
https://arxiv.org/abs/2307.06281
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tokensel.data.examples import Example, digests, each_example
from tokensel.data.hub import ExamplePicture, Source, load_examples
from tokensel.data.question import LETTERS, Question, Said

#: As LLaVA states it in Chinese.
INSTRUCTION_CN = "请直接回答选项字母。"
_COLUMNS = ("index", "question", "hint", "A", "B", "C", "D", "answer", "image")
_STEP = 1_000_000
# What may stand before and behind a letter that a written answer names.
_AROUND = [("", ""), ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ").")]
_AROUND += [(":", ""), (":", ","), (":", "."), (":", ")"), (":", ").")]
# E stands for none of the choices; it is never right.
_NAMES = "ABCDE"


@dataclass(frozen=True)
class CircularEvaluation:
    """Scores each order of a question's choices by itself; the figures are of whole groups of orders.

    orders: how many orders the question has in the data set.
    """

    orders: int
    digest: ClassVar[str] = "MMBench, circular, 1"

    def score(self, question: Question, said: Said) -> tuple[float, bool]:
        """Whether this order is answered rightly, twice."""
        right = named_choice(str(said), question.choices) == question.answer
        return float(right), right

    def figures(self, scored: Sequence[tuple[Question, bool]]) -> dict[str, Any]:
        """circular: the share of questions that are right in every order, of the n_circular whose orders are all there;
        vanilla: the share right in the data set's own order; categories: the circular accuracy of each. Shares of
        nothing are None."""
        groups: dict[str, list[tuple[Question, bool]]] = defaultdict(list)
        for question, right in scored:
            groups[question.group].append((question, right))
        whole: dict[str, list[bool]] = defaultdict(list)  # by category
        for orders in groups.values():
            question = orders[0][0]
            if isinstance(question.benchmark, CircularEvaluation) and len(orders) == question.benchmark.orders:
                whole[question.category].append(all(right for _, right in orders))
        return {
            "circular": _share([right for rights in whole.values() for right in rights]),
            "vanilla": _share([right for question, right in scored if question.id == question.group]),
            "n_circular": sum(map(len, whole.values())),
            "categories": {name: _share(rights) for name, rights in sorted(whole.items())},
        }


def load_mmbench(
    path: str = "lmms-lab/MMBench",
    split: str = "dev",
    circular: bool = True,
    config: str | None = "en",
    revision: str | None = None,
) -> list[Question]:
    """The questions of a split in English, each in all orders of its choices that rotation gives.

    Parameters:
        path: a data set on the hub, or a folder; see the module's docstring
        split: dev; the answers of test are not public
        circular: false: only in the data set's own order
        config, revision: of the hub's data set; null: its default, its newest

    A question's group is its index in its first order; its category is its L2-category, its family its category.

    Raises TokenselError for data that cannot be found or read, and an example without question, choices or answer.
    """
    return _load(Source(str(path), str(split), config, revision), circular, None)


def load_mmbench_cn(
    path: str = "lmms-lab/MMBench",
    split: str = "dev",
    circular: bool = True,
    config: str | None = "cn",
    revision: str | None = None,
) -> list[Question]:
    """As `load_mmbench`, in Chinese."""
    return _load(Source(str(path), str(split), config, revision), circular, INSTRUCTION_CN)


def named_choice(said: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that an answer names, by MMBench's matching without a language model: the only letter
    that stands by itself, bare or as "B.", "(B)" and the like; else the only choice whose text the answer contains. In
    more than three words, a bare "A" may be the article.
    """
    words = said.split()
    for before, behind in _AROUND:
        named = [letter for letter in _NAMES if before + letter + behind in words]
        article = not before + behind and "A" in words and len(words) > 3
        if len(named) == 1 and not article:
            place = LETTERS.index(named[0])
            return place if place < len(choices) else None
    contained = [place for place, choice in enumerate(choices) if choice.lower() in said.lower()]
    return contained[0] if len(contained) == 1 else None


def _load(source: Source, circular: bool, instruction: str | None) -> list[Question]:
    examples = load_examples(source, _COLUMNS)
    pictures, image_ids = examples.select_columns(["image"]), digests(examples)
    questions = []
    for index, example in each_example(examples, source):
        image = ExamplePicture(pictures, index)
        questions.append(_question(example, image, image_ids[index], source.split, instruction))
    first = [question for question in questions if question.id == question.group]
    if not circular:
        return [replace(question, group="") for question in first]
    if len(first) == len(questions):
        questions = [turned for each in first for turned in _rotations(each)]
    orders = Counter(question.group for question in questions)
    return [replace(question, benchmark=CircularEvaluation(orders[question.group])) for question in questions]


def _question(example: Example, image: ExamplePicture, image_id: str, split: str, instruction: str | None) -> Question:
    choices = _choices(example)
    index = example.text("index")
    if not index.isdecimal():
        raise example.error(f"index {index!r:.40} is not a number")
    if not example.get("answer"):
        raise example.no_answer()
    hint, text = example.get("hint"), example.text("question")
    return Question(
        id=str(int(index)),
        text=f"{hint}\n{text}" if hint else text,
        choices=choices,
        answer=example.choice("answer", choices),
        image=image,
        image_id=image_id,
        split=split,
        family=example.get("category"),
        category=example.get("L2-category"),
        instruction=instruction,
        group=str(int(index) % _STEP),
    )


def _choices(example: Example) -> tuple[str, ...]:
    found = [example.get(letter) for letter in "ABCD"]
    choices = tuple(each for each in found if each)
    if len(choices) < 2 or tuple(found[: len(choices)]) != choices:
        raise example.error("has no choices A, B, ... without a gap")
    return choices


def _rotations(question: Question) -> Iterator[Question]:
    for turn in range(len(question.choices)):
        yield replace(
            question,
            id=str(int(question.id) + turn * _STEP),
            choices=question.choices[turn:] + question.choices[:turn],
            answer=(question.answer - turn) % len(question.choices),
        )


def _share(rights: Sequence[bool]) -> float | None:
    return sum(rights) / len(rights) if rights else None
