"""Writes out the short forms of fine-tuning: a list for the section, a name for a stage.

Works on plain data that nobody has checked yet. What it does not know, it leaves for the checks.
"""

from __future__ import annotations

from typing import Any

from dcnify.recipe.finetune.presets import stage_presets
from dcnify.recipe.finetune.training import UNCHANGED
from dcnify.recipe.reading.origins import DataPath, Origins

LENGTHS = {"steps": "epochs", "epochs": "steps"}
"""The lengths of a stage, each with the one that it replaces."""


def written_out(
    data: dict[str, Any], origins: Origins, at: DataPath
) -> tuple[dict[str, Any], Origins]:
    """Data and places with the section at ``at`` (one key, or the root) written out.

    What comes from a preset has no place of its own, and so that of the stage that names it.
    """
    key = str(at[0]) if at else ""
    section = data.get(key) if at else data
    if isinstance(section, list):
        origins = origins.moved(at, (*at, "stages"))
    section = section_written_out(section)
    if section is None:
        return data, origins
    return ({**data, key: section} if at else section), origins


def section_written_out(section: Any) -> Any:
    """A section with its stages written out; anything else as it is."""
    if isinstance(section, str | list | tuple):
        section = {"stages": section}
    if not isinstance(section, dict) or "stages" not in section:
        return section
    stages = section["stages"]
    if isinstance(stages, str):
        stages = [stages]
    if isinstance(stages, list | tuple):
        stages = [stage_written_out(stage) for stage in stages]
    return {**section, "stages": stages}


def stage_written_out(stage: Any) -> Any:
    """The mapping that a stage's short form stands for; anything else as it is."""
    given = {"use": stage} if isinstance(stage, str) else stage
    if not isinstance(given, dict):
        return stage
    if "use" in given:
        preset = stage_presets().get(given["use"]) if isinstance(given["use"], str) else None
        if preset is None:
            return stage
        used = stage_written_out(preset.data)
        for key, replaced in LENGTHS.items():
            if given.get(key) is not None:
                used.pop(replaced, None)
        given = _merged(used, {key: value for key, value in given.items() if key != "use"})
    return {**given, "augment": dict(UNCHANGED)} if given.get("augment") == "none" else given


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``; mappings that both have are merged too."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _merged(below[key], above[key])
    return merged
