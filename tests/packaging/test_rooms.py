"""The rooms: imports run in one direction, files are short, folders are small."""

from __future__ import annotations

import ast
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDER = (
    (
        "errors",
        "atomic",
        "words",
        "files",
        "progress",
        "digest",
        "spec",
        "lazy",
        "_version",
        "_register",
    ),
    ("ops",),
    ("nn",),
    ("models",),
    ("graph",),
    ("inherit",),
    ("roles",),
    ("recipe",),
    ("surgery",),
    ("data",),
    ("sources",),
    ("artifact",),
    ("verify", "finetune", "bench", "export", "report"),
    ("pipeline",),
    ("ablate", "search"),
    ("cli",),
)
"""From the ground floor up. A room imports from rooms above it in this list, and from its own."""
ALSO = {("surgery", "data"): "the photographs that fidelity is measured on by default"}

# Names that moved are still found where version 0.1.0 had them; they load on first use.
UPWARDS = {
    "dcnify.artifact -> dcnify.verify.result",
    "dcnify.artifact -> dcnify.verify.verification",
    "dcnify.graph -> dcnify.roles",
    "dcnify.graph -> dcnify.roles.find",
}
# `print(plan)` is a table.
CIRCLES = {"dcnify.surgery.plan dcnify.surgery.result dcnify.surgery.table"}

MOST_LINES, MOST_FILES = 300, 16


@cache
def modules() -> dict[str, Path]:
    """The files of the package and of ``kernels/``, by the names they are imported under."""
    found = {}
    for path in chain(ROOT.glob("dcnify/**/*.py"), ROOT.glob("kernels/**/*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts if parts[0] == "dcnify" else ("dcnify", *parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """The modules that a module imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(modules()[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{one.name}" for one in node.names}
            found |= {one if one in modules() else node.module for one in inner}
    return frozenset(one for one in found if one in modules() and one not in ("dcnify", name))


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def level(name: str) -> int:
    return next((i for i, rooms in enumerate(ORDER) if name in rooms), -1)


def test_every_room_has_its_place_in_the_order():
    rooms = {room(name) for name in modules() if name != "dcnify"}
    assert rooms - {"__main__", "kernels"} <= set(chain(*ORDER))


@pytest.mark.slow
def test_rooms_import_only_from_rooms_below():
    found = set()
    for name in modules():
        mine = room(name)
        for target in imports(name):
            other = room(target)
            free = "kernels" in (mine, other) or mine in ("", "__main__", other)
            same_floor = mine in ORDER[0] and other in ORDER[0]
            if not (free or same_floor or (mine, other) in ALSO) and level(mine) <= level(other):
                found.add(f"{name} -> {target}")
    assert found <= UPWARDS


def test_kernels_import_nothing_but_the_ground_floor():
    own = [name for name in modules() if room(name) == "kernels"]
    allowed = {"kernels", *ORDER[0]}
    assert all(room(one) in allowed for name in own for one in imports(name))


def test_no_modules_import_each_other_in_a_circle():
    reach = {name: _reachable(name) for name in modules()}
    circles = {
        " ".join(sorted(other for other in reach[name] if name in reach[other]))
        for name in modules()
        if name in reach[name]
    }
    assert circles == CIRCLES


def _reachable(start: str) -> set[str]:
    seen: set[str] = set()
    front = set(imports(start))
    while front:
        seen |= front
        front = {one for name in front for one in imports(name)} - seen
    return seen


@pytest.mark.parametrize("folder", ["dcnify", "kernels", "studies", "examples", "tests"])
def test_no_file_is_long(folder):
    long = {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*.py")
        if len(path.read_text("utf-8").splitlines()) > MOST_LINES
    }
    assert not long


def test_no_folder_is_crowded():
    folders = {path.parent for path in ROOT.glob("dcnify/**/*.py")}
    crowded = {
        str(folder.relative_to(ROOT))
        for folder in folders
        if len([*folder.glob("*.py")]) > MOST_FILES
    }
    assert not crowded
