"""The built-in stages: YAML files in the folder ``stages`` of ``dcnify.recipes``."""

from __future__ import annotations

import copy
import functools
from importlib import resources
from typing import Any

from dcnify.errors import InputError
from dcnify.recipe.builtin import Builtin, read_builtins
from dcnify.recipe.reading.document import read_document
from dcnify.recipe.reading.explain import did_you_mean
from dcnify.recipe.reading.shorthand import shown


class StagePreset(Builtin):
    """One stage that a recipe can name."""

    @property
    def data(self) -> dict[str, Any]:
        """The stage as plain data, new each time."""
        return copy.deepcopy(_parsed(self.text, f"{self.name}.yaml (preset)"))


@functools.cache
def _parsed(text: str, origin: str) -> dict[str, Any]:
    return read_document(text, origin)[0]


@functools.cache
def stage_presets() -> dict[str, StagePreset]:
    """Return all stage presets by name, in alphabetical order."""
    return read_builtins(resources.files("dcnify.recipes") / "stages", StagePreset)


def stage_preset(name: str) -> StagePreset:
    """Return the stage preset of that name.

    Raises:
        InputError: there is none; names the nearest, and all that there are.
    """
    if name not in stage_presets():
        raise InputError(no_preset(name))
    return stage_presets()[name]


def usual_stages(*, labelled: bool) -> str:
    """Return the presets of a training whose recipe has no stages."""
    return "align,recover" if labelled else "distil"


def no_preset(name: str) -> str:
    """Return the words of an error: there is no preset of that name."""
    names = list(stage_presets())
    hint = did_you_mean(name, names) or "."
    return f"no stage preset {shown(name)}{hint} Built in: {', '.join(names)}"
