"""The stages that come with dcnify: YAML files in the folder ``stages`` of ``dcnify.recipes``."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from typing import Any

from dcnify.errors import InputError
from dcnify.recipe.reading.document import read_document
from dcnify.recipe.reading.explain import did_you_mean
from dcnify.recipe.reading.shorthand import shown


@dataclass(frozen=True)
class StagePreset:
    """One stage that a recipe can name: its file's text and the summary in its first line."""

    name: str
    summary: str
    text: str

    @property
    def data(self) -> dict[str, Any]:
        """The stage as plain data, new each time."""
        return read_document(self.text, f"{self.name}.yaml (preset)")[0]


@functools.cache
def stage_presets() -> dict[str, StagePreset]:
    """All stage presets by name, in alphabetical order."""
    found = {}
    for file in (resources.files("dcnify.recipes") / "stages").iterdir():
        if file.name.endswith(".yaml"):
            text = file.read_text(encoding="utf-8")
            name = file.name.removesuffix(".yaml")
            found[name] = StagePreset(name, text.partition("\n")[0].lstrip("# ").strip(), text)
    return dict(sorted(found.items()))


def stage_preset(name: str) -> StagePreset:
    """The stage preset of that name.

    Raises:
        InputError: there is none; names the nearest, and all that there are.
    """
    if name not in stage_presets():
        raise InputError(no_preset(name))
    return stage_presets()[name]


def no_preset(name: str) -> str:
    """That there is no preset of that name, in words."""
    names = list(stage_presets())
    hint = did_you_mean(name, names) or "."
    return f"no stage preset {shown(name)}{hint} Built in: {', '.join(names)}"
