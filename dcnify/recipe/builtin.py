"""The recipes that come with dcnify: YAML files in the package ``dcnify.recipes``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from dcnify.errors import InputError
from dcnify.recipe.reading.explain import did_you_mean


@dataclass(frozen=True)
class Builtin:
    """One built-in recipe: the text of its file and the summary in its first line."""

    name: str
    summary: str
    text: str


def builtins() -> dict[str, Builtin]:
    """All built-in recipes by name, in alphabetical order."""
    found = {}
    for file in resources.files("dcnify.recipes").iterdir():
        if file.name.endswith(".yaml"):
            text = file.read_text(encoding="utf-8")
            name = file.name.removesuffix(".yaml")
            found[name] = Builtin(name, text.partition("\n")[0].lstrip("# ").strip(), text)
    return dict(sorted(found.items()))


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
