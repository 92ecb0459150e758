"""Load a `Finetune` from the names of stages, a recipe or a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from dcnify.errors import InputError
from dcnify.recipe.builtin import builtins
from dcnify.recipe.finetune.presets import no_preset, stage_presets
from dcnify.recipe.finetune.section import Finetune
from dcnify.recipe.load import build, is_path, source_text
from dcnify.recipe.model import Recipe
from dcnify.recipe.reading.document import read_document
from dcnify.recipe.reading.explain import did_you_mean
from dcnify.recipe.reading.origins import Origins
from dcnify.recipe.reading.override import apply_overrides

_RECIPE_KEYS = {"version", "input", "swaps", "require", "certify", "finetune"}
"""A document with one of these keys is a whole recipe."""
_STAGE_KEYS = {"optimizer", "use"}
"""A document with one of these keys is a single stage, as the files of the presets are."""


def load_finetune(
    name_or_path: str | os.PathLike[str] | Sequence[str], overrides: Iterable[str] = ()
) -> Finetune:
    """Load the stages in which to train a converted model.

    Text with a slash or ending in ``.yaml`` or ``.yml`` is a path. Otherwise stage presets come
    first, then built-in recipes, then a file of that name.

    Args:
        name_or_path: stage presets, ``"recover"``, ``"align,recover"`` or a list of them; a
            built-in recipe or the path of a file. The file is a recipe with a ``finetune``
            section, the section alone, ``stages: [align, recover]``, or a single stage.
        overrides: ``"finetune.stages.recover.steps=500"``; stages by name or index. For presets
            and a section alone, ``finetune.`` may be left out.

    Raises:
        InputError: it is not found, has no stages, or is not valid.
    """
    data: dict[str, Any]
    names = _preset_names(name_or_path)
    if names:
        data, origins = {"stages": names}, Origins(",".join(names))
    else:
        (path,) = [name_or_path] if isinstance(name_or_path, str | os.PathLike) else name_or_path
        if not is_path(path) and path not in builtins() and not os.path.exists(path):
            raise InputError(_not_found(str(path)))
        text, origin = source_text(path)
        data, origins = read_document(text, origin)
        if _RECIPE_KEYS & data.keys():
            return _of_recipe(Recipe.from_yaml(text, origin, overrides), origin)
        if _STAGE_KEYS & data.keys() and "stages" not in data:
            data, origins = {"stages": [data]}, origins.moved((), ("stages", 0))
    return build(*apply_overrides(data, origins, overrides, Finetune, ()), Finetune)


def _of_recipe(recipe: Recipe, origin: str) -> Finetune:
    if recipe.finetune is None:
        words = "has no fine-tuning; give it some, such as 'finetune: [align, recover]'"
        raise InputError(f"{origin}: the recipe {recipe.name!r} {words}")
    return recipe.finetune


def _preset_names(given: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Return the stage presets that are named; none if ``given`` names something else."""
    if isinstance(given, os.PathLike) or (isinstance(given, str) and is_path(given)):
        return []
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    if not names:
        raise InputError(f"no stages given; built in: {', '.join(stage_presets())}")
    unknown = [name for name in names if name not in stage_presets()]
    if unknown and len(names) > 1:
        raise InputError(no_preset(unknown[0]))
    return [] if unknown else names


def _not_found(name: str) -> str:
    stages, recipes = list(stage_presets()), list(builtins())
    hint = did_you_mean(name, [*stages, *recipes]) or "."
    return (
        f"no stage or recipe {name!r}{hint} Stages: {', '.join(stages)}; "
        f"recipes: {', '.join(recipes)}; a file needs its path, such as ./{name or 'stages'}.yaml"
    )
