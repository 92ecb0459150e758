"""Recipes: what to swap, written in YAML, checked with line numbers, and applied to sites."""

from dcnify.recipe.builtin import Builtin, builtin, builtins
from dcnify.recipe.dump import resolved
from dcnify.recipe.json_schema import schema
from dcnify.recipe.load import source_text
from dcnify.recipe.model import (
    Expect,
    Init,
    Range,
    Recipe,
    Replace,
    Require,
    Select,
    Swap,
    Where,
)
from dcnify.recipe.select import Selection, select

__all__ = [
    "Builtin",
    "Expect",
    "Init",
    "Range",
    "Recipe",
    "Replace",
    "Require",
    "Select",
    "Selection",
    "Swap",
    "Where",
    "builtin",
    "builtins",
    "resolved",
    "schema",
    "select",
    "source_text",
]
