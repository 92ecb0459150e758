"""The JSON Schema of the recipe format, for editors that check and complete while one types."""

from __future__ import annotations

import copy
from typing import Any

from dcnify.recipe.finetune.presets import stage_presets
from dcnify.recipe.model import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a recipe file, with a description on every key."""
    body = Recipe.model_json_schema(mode="validation", by_alias=True)
    body["title"] = "dcnify recipe"
    _short_forms(body)
    return {"$schema": DIALECT, **body}


def _short_forms(body: dict[str, Any]) -> None:
    """Let fine-tuning be a list or a name, and a stage a name or what changes of a preset."""
    parts = body["$defs"]
    names = {"type": "string", "enum": list(stage_presets())}

    changed = parts["ChangedOptimizer"] = copy.deepcopy(parts["Optimizer"])
    changed["description"] = "What to change of a preset's optimizer."
    del changed["required"]

    used = parts["UsedStage"] = copy.deepcopy(parts["Stage"])
    used["description"] = "A stage preset, with some of it changed."
    told = {**names, "title": "Use", "description": "The stage preset that the other keys change."}
    used["properties"] = {"use": told, **used["properties"]}
    used["properties"]["optimizer"]["$ref"] = "#/$defs/ChangedOptimizer"
    used["required"] = ["use"]

    stages = parts["Finetune"]["properties"]["stages"]
    stages["items"] = {"anyOf": [names, {"$ref": "#/$defs/UsedStage"}, stages["items"]]}
    listed = {key: stages.pop(key) for key in ("type", "items", "minItems")}
    stages["anyOf"] = [names, listed]
    body["properties"]["finetune"]["anyOf"] += [names, listed]
