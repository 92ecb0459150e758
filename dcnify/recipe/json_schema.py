"""The JSON Schema of the recipe format, for editors that check and complete while one types."""

from __future__ import annotations

from typing import Any

from dcnify.recipe.model import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a recipe file, with a description on every key."""
    body = Recipe.model_json_schema(mode="validation", by_alias=True)
    body["title"] = "dcnify recipe"
    return {"$schema": DIALECT, **body}
