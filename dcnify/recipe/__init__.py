"""Recipes: what to swap and how to train, in YAML, checked with line numbers, applied to sites."""

from dcnify.recipe.builtin import Builtin, builtin, builtins
from dcnify.recipe.by_role import Replace, Select
from dcnify.recipe.dump import resolved, to_yaml
from dcnify.recipe.finetune.presets import StagePreset, stage_preset, stage_presets
from dcnify.recipe.finetune.section import Finetune, Stage
from dcnify.recipe.finetune.standalone import load_finetune
from dcnify.recipe.finetune.training import Augment, HandOver, Losses, Optimizer, Schedule
from dcnify.recipe.json_schema import schema
from dcnify.recipe.load import source_text
from dcnify.recipe.model import Expect, Init, Recipe, Require, RequireOutput, Swap
from dcnify.recipe.reading.override import Change
from dcnify.recipe.selection.select import Selection, select
from dcnify.recipe.selection.where import Range, Where

__all__ = [
    "Augment",
    "Builtin",
    "Change",
    "Expect",
    "Finetune",
    "HandOver",
    "Init",
    "Losses",
    "Optimizer",
    "Range",
    "Recipe",
    "Replace",
    "Require",
    "RequireOutput",
    "Schedule",
    "Select",
    "Selection",
    "Stage",
    "StagePreset",
    "Swap",
    "Where",
    "builtin",
    "builtins",
    "load_finetune",
    "resolved",
    "schema",
    "select",
    "source_text",
    "stage_preset",
    "stage_presets",
    "to_yaml",
]
