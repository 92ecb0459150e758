"""The recipes and stages that come with dcnify: YAML files in the package ``dcnify.recipes``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

from dcnify.errors import InputError
from dcnify.recipe.reading.explain import did_you_mean


@dataclass(frozen=True)
class Builtin:
    """One built-in recipe: the text of its file and the summary in its first line."""

    name: str
    summary: str
    text: str


Kind = TypeVar("Kind", bound=Builtin)


def read_builtins(folder: Any, kind: type[Kind]) -> dict[str, Kind]:
    """Read the YAML files in a folder of ``dcnify.recipes``, by name in alphabetical order."""
    found = {}
    for file in folder.iterdir():
        if file.name.endswith(".yaml"):
            text = file.read_text(encoding="utf-8")
            name = file.name.removesuffix(".yaml")
            found[name] = kind(name, text.partition("\n")[0].lstrip("# ").strip(), text)
    return dict(sorted(found.items()))


def builtins() -> dict[str, Builtin]:
    """All built-in recipes by name, in alphabetical order."""
    return read_builtins(resources.files("dcnify.recipes"), Builtin)


def builtin(name: str) -> Builtin:
    """The built-in recipe of that name.

    Raises:
        InputError: there is none; names the nearest, and all that there are.
    """
    known = builtins()
    if name not in known:
        names = list(known)
        hint = did_you_mean(name, names) or "."
        raise InputError(f"no built-in recipe {name!r}{hint} Built in: {', '.join(names)}")
    return known[name]
