"""The layering of the package, checked by walking its imports.

Engine side, lower rows first; a module imports its own row and those below. The other side of the wire
(client, Lua, command line) imports row 1 and itself. Commands that run an engine import row 5 when called.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "assay"

ROWS = (
    {"errors", "clock", "config", "crashpoints", "logs", "s3", "whitelabel"},
    {"store"},
    {"engine"},
    {"auth", "loops", "api", "dashboard"},
    {"app", "server", "gunicorn_worker", "gunicorn_repeats", "gunicorn_conf", "wsgi"},
)
CLIENT_SIDE = {"client", "lua", "cli"}
#: imports inside a function that reach further, by (importing part, imported part)
LATE = {
    ("", "app"),  # assay.create_app is loaded when it is asked for
    ("engine", "loops"),  # Engine.start_loops
    *(("cli", name) for name in ROWS[4]),
    *(("cli", name) for name in ("store", "engine")),  # commands that work on a database without a server
}
FOREIGN = {
    "store": {"flask", "werkzeug", "marshmallow", "flask_smorest", "gunicorn", "click", "lupa"},
    "engine": {"flask", "werkzeug", "marshmallow", "flask_smorest", "gunicorn", "click", "lupa"},
    "api": {"peewee", "playhouse", "sqlite3", "psycopg2", "gunicorn", "click", "lupa"},
    "dashboard": {"peewee", "playhouse", "sqlite3", "psycopg2", "gunicorn"},
    "cli": {"flask", "flask_smorest", "marshmallow", "peewee"},
    "client": {"flask", "werkzeug", "gevent", "peewee"},
    "lua": {"flask", "werkzeug", "marshmallow", "peewee"},
}


@dataclass(frozen=True)
class Import:
    """One import statement: where it stands, what it names, whether it runs only inside a function."""

    path: Path
    line: int
    target: str
    late: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(CHECKOUT)}:{self.line} imports {self.target}"


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part(module: str) -> str:
    """``assay.engine.core`` -> ``engine``; ``assay`` itself -> the empty text."""
    return (module.split(".") + [""])[1]


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first in ("__init__", "__main__") else first


def imports_of(path: Path) -> list[Import]:
    found: list[Import] = []

    def walk(node: ast.AST, late: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            names = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: imports are absolute here"
                names = [child.module or ""]
                if child.module == "assay":
                    names = [f"assay.{alias.name}" for alias in child.names]
            found.extend(Import(path, child.lineno, name, late) for name in names)
            walk(child, late or isinstance(child, ast.FunctionDef | ast.Lambda))

    walk(ast.parse(path.read_text()), late=False)
    return found


def row(name: str) -> int | None:
    return next((index for index, names in enumerate(ROWS) if name in names), None)


def allowed(importer: str, target: str, late: bool) -> bool:
    if importer == target or (late and (importer, target) in LATE):
        return True
    if importer == "":
        return target == "cli"  # python -m assay
    if importer in CLIENT_SIDE:
        return target in CLIENT_SIDE or row(target) == 0
    importer_row, target_row = row(importer), row(target)
    return importer_row is not None and target_row is not None and target_row <= importer_row


def internal_imports() -> Iterator[tuple[str, Import]]:
    for path in sources():
        for statement in imports_of(path):
            if statement.target.split(".")[0] == "assay":
                yield part_of(path), statement


def test_every_part_has_its_place_in_the_layering() -> None:
    parts = {part_of(path) for path in sources()} - {""}
    assert parts <= set().union(*ROWS) | CLIENT_SIDE


def test_nobody_imports_upwards_or_across_the_wire() -> None:
    wrong = [
        str(statement)
        for importer, statement in internal_imports()
        if part(statement.target) and not allowed(importer, part(statement.target), statement.late)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_a_part_stays_free_of_libraries_that_belong_to_others(name: str) -> None:
    wrong = [
        str(statement)
        for path in sources()
        if part_of(path) == name
        for statement in imports_of(path)
        if statement.target.split(".")[0] in FOREIGN[name]
    ]
    assert wrong == []


def test_only_the_settings_read_the_environment_on_the_engine_side() -> None:
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{node.lineno}"
        for path in sources()
        if row(part_of(path)) is not None and part_of(path) != "config"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    ]
    assert wrong == []


def test_only_the_wsgi_module_patches_the_process() -> None:
    patching = {part_of(path) for path in sources() if "patch_all()" in path.read_text()}
    assert patching <= {"wsgi"}
