"""What a point's key is made of beside its settings: the questions asked and the code that computes."""

import ast
import hashlib
import importlib
import inspect
from collections.abc import Sequence
from functools import cache

from tokensel.data import Question
from tokensel.methods import METHODS

# Where a change can change a prediction; the method's own module joins them.
_CODE = (
    "tokensel.functional",
    "tokensel.layouts",
    "tokensel.prompts",
    "tokensel.seeding",
    "tokensel.split",
    "tokensel.state",
)


def questions_digest(questions: Sequence[Question]) -> str:
    """A digest of all that is asked, pictures by their ids only: changes if a data set does."""
    digest = hashlib.sha256()
    for question in sorted(questions, key=lambda question: question.id):
        parts = (
            question.id,
            question.image_id,
            question.hint,
            question.text,
            *question.choices,
            str(question.answer),
        )
        digest.update("\x1f".join(parts).encode() + b"\x1e")
    return digest.hexdigest()[:16]


def ids_digest(questions: Sequence[Question]) -> str:
    """A digest of which questions were asked: tells whether stored figures are those of the wanted
    questions."""
    return hashlib.sha256("\n".join(sorted(question.id for question in questions)).encode()).hexdigest()[:16]


@cache
def code_digest(method: str) -> str:
    """A digest of the code behind a method's predictions, without comments and docstrings.

    A method that was edited gets new keys, so an old prediction is never taken for one of the new code.
    """
    digest = hashlib.sha256()
    for module in sorted({*_CODE, METHODS[method].__module__}):
        tree = ast.parse(inspect.getsource(importlib.import_module(module)))
        digest.update(ast.unparse(_without_docstrings(tree)).encode())
    return digest.hexdigest()[:16]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
