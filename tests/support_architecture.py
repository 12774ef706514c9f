"""Who imports what in a package, and the rules of this one, as functions that find breaches."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = "pytest_mlc_server"

#: A folder whose files run in other interpreters under another name, and so import relatively.
ELSEWHERE = "launcher"


class Import(NamedTuple):
    """One imported module, as seen from the importing one."""

    #: Whose import it is, named from the package's root (`guardian.loop`).
    importer: str
    #: What is imported: a module of the package by the same kind of name, else the full name.
    imported: str
    line: int
    own: bool
    at_import: bool  #: not inside a function

    def __str__(self) -> str:
        where = "" if self.at_import else " (inside a function)"
        return f"{self.importer}, line {self.line}{where}: imports {self.imported}"


@dataclass(frozen=True)
class Package:
    """The sources of a package: module names from its root, "" being the root itself."""

    sources: Mapping[str, str]

    @classmethod
    def read(cls, directory: Path) -> Package:
        """Read all modules of a directory."""
        sources = {}
        for file in sorted(directory.rglob("*.py")):
            parts = file.relative_to(directory).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            sources[name] = file.read_text()
        return cls(sources)

    def imports(self, within: str = "") -> list[Import]:
        """Return what the modules of a room (all by default) import, type checking aside."""
        return [
            found for name in self.sources if is_in(name, within) for found in self._found[name]
        ]

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """The modules, parsed."""
        return {name: ast.parse(source) for name, source in self.sources.items()}

    @cached_property
    def _found(self) -> dict[str, list[Import]]:
        return {name: list(self._imports_of(name)) for name in self.sources}

    def _imports_of(self, name: str) -> Iterator[Import]:
        tree = self.trees[name]
        hidden = set(map(id, _type_checking(tree)))
        late = set(map(id, _in_functions(tree)))
        for node in ast.walk(tree):
            if id(node) in hidden or not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            for target in self._targets(name, node):
                own, first = self._module(target)
                yield Import(name, first, node.lineno, own, id(node) not in late)

    def _targets(self, name: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        module = node.module or ""
        if node.level:
            module = ".".join(filter(None, [ROOT, *name.split(".")[: -node.level], module]))
        yield from (f"{module}.{alias.name}" for alias in node.names)

    def _module(self, target: str) -> tuple[bool, str]:
        """Tell whether a dotted name is the package's, and which module it names or is in."""
        first, _, rest = target.partition(".")
        if first != ROOT:
            return False, target
        while rest and rest not in self.sources:
            rest = rest.rpartition(".")[0]
        return True, rest


def _type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for inner in node.body:
                yield from ast.walk(inner)


def _in_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from ast.walk(node)


def is_in(module: str, room: str) -> bool:
    """Tell whether a module is a room, or inside one; everything is inside ""."""
    return not room or module == room or module.startswith(f"{room}.")


# --- the rules: each returns its breaches -----------------------------------------------------


def imports_outside(
    package: Package, room: str, allowed: Collection[str], *, at_import: bool = False
) -> list[str]:
    """Return a room's imports from rooms of the package other than itself and the allowed ones.

    Parameters
    ----------
    package
        The package.
    room
        A module or a folder.
    allowed
        What it may import.
    at_import
        Whether imports inside functions are free.
    """
    return [
        str(found)
        for found in package.imports(room)
        if found.own
        and not is_in(found.imported, room)
        and not any(is_in(found.imported, other) for other in allowed)
        and (found.at_import or not at_import)
    ]


def foreign_imports(
    package: Package, room: str, allowed: Collection[str] = (), *, at_import: bool = False
) -> list[str]:
    """Return a room's imports of modules that are neither Python's, the package's nor allowed."""
    return [
        str(found)
        for found in package.imports(room)
        if not found.own
        and found.imported.partition(".")[0] not in {*sys.stdlib_module_names, *allowed}
        and (found.at_import or not at_import)
    ]


def importers_of(package: Package, names: Collection[str], allowed: Collection[str]) -> list[str]:
    """Return the imports of other people's modules by rooms that may not have them."""
    return [
        str(found)
        for found in package.imports()
        if found.imported.partition(".")[0] in names
        and not any(is_in(found.importer, room) for room in allowed)
    ]


def relative_imports(package: Package) -> list[str]:
    """Return relative imports outside the folder whose files run elsewhere."""
    return [
        f"{name}, line {node.lineno}: relative import"
        for name, tree in package.trees.items()
        if not is_in(name, ELSEWHERE)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


#: What imports a module whose name a reader of import statements cannot see.
DYNAMIC = re.compile(r"\b(import_module|__import__|exec|runpy\.\w+)\(")


def dynamic_imports(package: Package, allowed: Collection[str]) -> list[str]:
    """Return the calls with which a module outside the allowed ones could go past the rules."""
    return [
        f"{name}, line {number}: {line.strip()}"
        for name, source in package.sources.items()
        if name not in allowed and not any(room and is_in(name, room) for room in allowed)
        for number, line in enumerate(source.splitlines(), 1)
        if DYNAMIC.search(line)
    ]


def cycles(package: Package) -> list[str]:
    """Return the circles of modules that import each other, inside functions or not."""
    graph: dict[str, set[str]] = {name: set() for name in package.sources if name}
    for found in package.imports():
        if found.own and found.importer and found.imported not in ("", found.importer):
            graph[found.importer].add(found.imported)
    # What imports nothing that is left is in no circle; nor is what nothing left imports.
    left = dict(graph)
    while True:
        imported = set().union(*left.values()) if left else set()
        straight = {name for name in left if not left[name] & set(left) or name not in imported}
        if not straight:
            break
        left = {name: ends - straight for name, ends in left.items() if name not in straight}
    return [f"{name} and {other} are in a circle" for name in left for other in sorted(left[name])]


# --- the table of rooms ---------------------------------------------------------------------------


def rooms(page: str, heading: str) -> list[str]:
    """Return the rooms that the table under a heading of a page names, in its order.

    A folder is written with a slash at its end; its name is returned without.
    """
    section = re.split(rf"(?m)^#+ {re.escape(heading)}$", page)[1]
    section = re.split(r"(?m)^#+ ", section)[0]
    rows = re.findall(r"(?m)^\| .* \| (`.*) \|$", section)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    return [name.rstrip("/").replace("/", ".") for name in names]


def table_breaches(package: Package, named: list[str], folder: str = "") -> list[str]:
    """Return what is wrong with a table of the rooms of a folder: missing, twice, or not there."""
    prefix = f"{folder}." if folder else ""
    inside = {n.removeprefix(prefix) for n in package.sources if n.startswith(prefix)} - {""}
    found = [f"{name} stands twice" for name in set(named) if named.count(name) > 1]
    found += [f"{name} is no module" for name in named if name not in inside]
    for module in sorted(inside):
        if not any(is_in(module, name) for name in named):
            found.append(f"{prefix}{module} does not stand in the table: add it to a row")
    return found


def order_breaches(package: Package, named: list[str]) -> list[str]:
    """Return the imports, inside functions too, of a room that stands later in a table."""
    found = []
    for entry in package.imports():
        mine, other = _place(entry.importer, named), _place(entry.imported, named)
        if entry.own and mine is not None and other is not None and other > mine:
            found.append(
                f"{entry}, which stands after it in the table: move one of them there, or import "
                "the other way round"
            )
    return found


def _place(module: str, named: Iterable[str]) -> int | None:
    return next((n for n, name in enumerate(named) if is_in(module, name)), None)
