"""The house: which rooms there are, and that imports run down the floors and never in a circle.

A room is a folder of the package, or a module at its top; ``integrators/`` is one, and so is ``benchmarks/``. A room
stands on the floor above the highest of those it imports. Imports within functions and under ``TYPE_CHECKING`` count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "fastegnn_md"

# From the ground up: a room imports from rows above its own in this table, and from itself.
FLOORS = (
    ("errors",),
    ("_extras", "_files", "_progress", "units", "state"),
    ("segments",),
    ("graph", "nn"),
    ("mechanics", "models"),
    ("propagator", "data"),
    ("engines", "training", "report"),
    ("harvest", "integrators", "papers"),
    ("validation",),
    ("commands",),
    ("cli",),
)


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, ``integrators/`` under the name it is imported by."""
    found = {}
    for folder, prefix in ((ROOT / PACKAGE, PACKAGE), (ROOT / "integrators", f"{PACKAGE}.integrators")):
        for path in folder.rglob("*.py"):
            parts = [prefix, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(module: str, path: Path) -> Iterator[tuple[str, str]]:
    """Pairs (module, name) that a file imports of the package; the name is empty for ``import a.b``."""
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((source, alias.name) for alias in node.names)


@cache
def face_of(package: str) -> dict[str, str]:
    """Where the names come from that an ``__init__`` hands on: name -> module."""
    path = MODULES[package]
    if path.stem != "__init__":
        return {}
    stub = path.with_suffix(".pyi")
    return {name: source for source, name in imports_of(package, stub if stub.exists() else path) if name}


def home_of(source: str, name: str) -> str | None:
    """The module that defines what is imported; None for other packages."""
    if f"{source}.{name}" in MODULES:
        return f"{source}.{name}"
    if source not in MODULES:
        return None
    behind = face_of(source).get(name)
    return source if behind is None or behind == source else home_of(behind, name) or behind


def arrows() -> dict[str, set[str]]:
    """Module -> modules it imports. Faces, which only hand names on, have none."""
    found: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if path.stem == "__init__":
            continue
        homes = {home_of(source, name) for source, name in imports_of(module, path)}
        found[module] = {home for home in homes if home is not None and home != module}
    return found


def room_of(module: str) -> str:
    return module.removeprefix(PACKAGE).strip(".").partition(".")[0]


def test_every_room_has_its_floor() -> None:
    rooms = {room_of(module) for module in MODULES} - {""}
    assert rooms == {room for floor in FLOORS for room in floor}
    assert len(rooms) + 1 <= 24  # with benchmarks/


def test_no_import_runs_up_the_floors() -> None:
    level = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    up = [
        f"{module} -> {home}"
        for module, homes in arrows().items()
        for home in homes
        if room_of(home) and room_of(home) != room_of(module) and level[room_of(home)] >= level[room_of(module)]
    ]
    assert not up, "\n".join(sorted(up))


def test_no_imports_run_in_a_circle() -> None:
    try:
        tuple(TopologicalSorter(arrows()).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_ten_floors_at_most() -> None:
    below: dict[str, set[str]] = {}
    for module, homes in arrows().items():
        below.setdefault(room_of(module), set()).update({room_of(home) for home in homes} - {room_of(module), ""})
    height: dict[str, int] = {}
    for room in TopologicalSorter(below).static_order():
        height[room] = 1 + max((height[under] for under in below.get(room, ())), default=0)
    assert max(height.values()) <= 10, height


def test_within_the_package_modules_are_imported_from_where_they_are() -> None:
    """A package's own face imports all of it; a module that used it would wait for its own completion."""
    wrong = [
        f"{module} imports {name or source} from its own face {source}"
        for module, path in MODULES.items()
        if path.stem != "__init__"
        for source, name in imports_of(module, path)
        if source in MODULES
        and MODULES[source].stem == "__init__"
        and module.startswith(f"{source}.")
        and source != PACKAGE
        and f"{source}.{name}" not in MODULES
    ]
    assert not wrong, "\n".join(wrong)
