"""What a point's key is made of beside its settings: the questions asked and the code that computes."""

import ast
import hashlib
import inspect
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import tokensel
from tokensel.data import Question
from tokensel.evaluation import store
from tokensel.methods.base import Method, find_method

# Modules of the library's top level that cannot change a prediction; the others count, what makes a model's inputs of
# questions, and the method's own.
_NO_PREDICTION = ("__init__", "errors", "flops", "latency", "pipeline", "stats", "store")


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
            question.form,
        )
        digest.update("\x1f".join(parts).encode() + b"\x1e")
    return digest.hexdigest()[:16]


def ids_digest(questions: Sequence[Question]) -> str:
    """A digest of which questions were asked, see `tokensel.evaluation.store.ids_digest`."""
    return store.ids_digest(question.id for question in questions)


def code_digest(method: str) -> str:
    """A digest of the code behind a method's predictions, without comments and docstrings.

    A method that was edited gets new keys, so an old prediction is never taken for one of the new code. Counted are the
    library's modules and the method's own file, with those of the methods it derives from; not what else that file
    imports.
    """
    kinds = [kind for kind in find_method(method).__mro__ if issubclass(kind, Method) and kind is not Method]
    modules = dict.fromkeys(inspect.getmodule(kind) or kind for kind in kinds)
    return _digest(tuple(inspect.getsource(module) for module in modules))


@cache
def _digest(method: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for source in [*_library_sources(), *map(_stripped, method)]:
        digest.update(source.encode())
    return digest.hexdigest()[:16]


@cache
def _library_sources() -> list[str]:
    library = Path(tokensel.__file__).parent
    files = [file for file in sorted(library.glob("*.py")) if file.stem not in _NO_PREDICTION]
    files += [library / "models" / name for name in ("loaded.py", "processors.py")]
    return [_stripped(file.read_text()) for file in files]


def _stripped(source: str) -> str:
    return ast.unparse(_without_docstrings(ast.parse(source)))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
