"""Which modules a module imports, directly or not, read from their sources without running them.

    modules = imported_modules(["tokensel.evaluation.accuracy"], in_package(Path("tokensel")))

Imports inside functions count; those under `if TYPE_CHECKING:` do not. A name that a package re-exports counts as an
import of the module that defines it. Importing a module also runs the `__init__` of every package above it, so these
count too.
"""

import ast
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path

# The file of a module by its full name; None for modules that do not count, such as those of other projects.
Find = Callable[[str], Path | None]


@cache
def in_package(folder: Path) -> Find:
    """Finds the modules of the one package in this folder; the package is named as the folder is.

    A process looks for each file once: every method's modules are largely the same.
    """

    @cache
    def find(name: str) -> Path | None:
        top, *below = name.split(".")
        if top != folder.name:
            return None
        path = folder.joinpath(*below)
        return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)

    return find


def imported_modules(roots: Iterable[str], find: Find, plugins: Collection[str] = ()) -> dict[str, Path]:
    """The roots and all modules that they import, directly or not: name to file.

    plugins: modules that a package's `__init__` imports only in order to register what they hold. Such an import does
    not count; a plugin counts if it is a root, or if another module imports it or a name from it.
    """
    found: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        file = find(name)
        if file is None or name in found:
            continue
        found[name] = file
        waiting.append(name.rpartition(".")[0])
        is_package = file.name == "__init__.py"
        imported = imports_of(file.read_text(encoding="utf-8"), name, is_package, find)
        waiting += [module for module in imported if not (is_package and module in plugins)]
    return found


def imports_of(source: str, name: str, is_package: bool, find: Find) -> Iterator[str]:
    """Full names of the modules that a module's source imports. name: the module's own, for relative imports."""
    for module, items in _statements(source):
        module = _absolute(module, name, is_package)
        yield module
        file = find(module)
        for item in items:
            if find(f"{module}.{item}") is not None:
                yield f"{module}.{item}"
            elif file is not None and file.name == "__init__.py":
                yield from _origin(module, item, file)


def _origin(package: str, item: str, file: Path) -> Iterator[str]:
    """The module from which a package's `__init__` imports a name that it re-exports."""
    for module, items in _statements(file.read_text(encoding="utf-8")):
        if item in items:
            yield _absolute(module, package, is_package=True)


def _absolute(module: str, importer: str, is_package: bool) -> str:
    """The full name of an imported module, which may begin with dots."""
    below = module.lstrip(".")
    level = len(module) - len(below)
    if level == 0:
        return module
    above = importer.split(".") if is_package else importer.split(".")[:-1]
    return ".".join([*above[: len(above) - level + 1], *filter(None, [below])])


def _may_import(node: ast.AST) -> bool:
    """Whether a node is a statement or holds statements. Most nodes of a source are expressions, which do neither."""
    return isinstance(node, ast.stmt | ast.excepthandler | ast.match_case)


@lru_cache(maxsize=512)
def _statements(source: str) -> list[tuple[str, tuple[str, ...]]]:
    """Every import of a source: the module as it is written, dots included, and the names imported from it."""
    found: list[tuple[str, tuple[str, ...]]] = []
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(("." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += filter(_may_import, ast.iter_child_nodes(node))
    return found
