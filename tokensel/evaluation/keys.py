"""What a grid point's key is made of beside its settings and questions: the code that computes predictions.

The code is every module that evaluation really imports (see `tokensel.evaluation.source_graph`), the method's own
module and the data set's. An edit of one of them changes the key, so that an old prediction is never taken for one of
the new code. Comments and docstrings do not count.
"""

import ast
import hashlib
import inspect
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tokensel.data import DATASETS
from tokensel.evaluation.source_graph import Find, imported_modules, imports_of, in_package
from tokensel.methods import METHODS, Method, find_method

PACKAGE = Path(__file__).parents[1]
# Everything that turns a question into a prediction is imported from here.
ROOT = "tokensel.evaluation.accuracy"


def code_digest(method: str, data: str | None = None) -> str:
    """A digest of the code behind a method's predictions on a data set.

    method: a registered name. The modules of its class and base classes count, and what those import from their own
        package or folder.
    data: the data set's name; None leaves its module out.
    """
    kinds = [kind for kind in find_method(method).__mro__ if issubclass(kind, Method)]
    modules = dict.fromkeys(kind.__module__ for kind in kinds)
    own = tuple(module for module in modules if _is_ours(module))
    others = tuple(_others_source(module) for module in modules if not _is_ours(module))
    roots = (ROOT, *own, *([DATASETS[data].split(":")[0]] if data in DATASETS else []))
    # Methods register themselves on import. One method's code says nothing about another's predictions.
    plugins = frozenset(kind.__module__ for kind in METHODS.values() if _is_ours(kind.__module__))
    return _digest(roots, plugins, others)


def library_sources(roots: Sequence[str], package: Path = PACKAGE, plugins: frozenset[str] = frozenset()) -> list[str]:
    """The sources of the library's modules that count, without comments and docstrings, in the order of their names.

    package: the library's folder, for tests that edit a copy.
    """
    modules = imported_modules(roots, in_package(package), plugins)
    return [without_comments(modules[name].read_text(encoding="utf-8")) for name in sorted(modules)]


@cache
def without_comments(source: str) -> str:
    """A Python source without what changes no prediction: comments, docstrings, layout, `__version__`, `__all__`."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    tree.body = [statement for statement in tree.body if not _is_about_the_module(statement)]
    return ast.unparse(tree)


def _is_about_the_module(statement: ast.stmt) -> bool:
    names = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(name, ast.Name) and name.id in ("__version__", "__all__") for name in names)


@cache
def _digest(roots: tuple[str, ...], plugins: frozenset[str], others: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for source in [*library_sources(roots, PACKAGE, plugins), *others]:
        digest.update(source.encode())
    return digest.hexdigest()[:16]


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE.name


def _others_source(module: str) -> str:
    """The source of a user's module, as it ran, and of what it imports from its own package or its own folder."""
    loaded = sys.modules.get(module)
    try:
        source = inspect.getsource(loaded) if loaded else ""
    except (OSError, TypeError):  # a class made at a prompt has no file
        return ""
    find = _beside(module, Path(getattr(loaded, "__file__", "") or ""))
    imported = imported_modules(imports_of(source, module, _is_package(module), find), find)
    texts = [path.read_text(encoding="utf-8") for name, path in sorted(imported.items()) if name != module]
    return "\n".join(without_comments(text) for text in [source, *texts])


def _beside(module: str, file: Path) -> Find:
    """Finds imported modules of the same package; for a user's single file, imported modules in its folder."""
    package = module.partition(".")[0] if "." in module else None

    def find(name: str) -> Path | None:
        other = Path(getattr(sys.modules.get(name), "__file__", None) or "")
        if other.suffix != ".py":
            return None
        belongs = other.parent == file.parent if package is None else name.partition(".")[0] == package
        return other if belongs else None

    return find


def _is_package(module: str) -> bool:
    return hasattr(sys.modules.get(module), "__path__")
