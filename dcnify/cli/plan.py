"""dcnify plan: what a recipe would do to a model."""

from __future__ import annotations

import json

from dcnify.cli.options import AsJson, Overrides, Quiet, RecipeName
from dcnify.cli.output import emit, say
from dcnify.cli.phases import phases
from dcnify.cli.sources import Given, takes_source


@takes_source
def plan(
    given: Given,
    recipe: RecipeName,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show which site becomes what, what that costs, and why each other candidate stays.

    Nothing is changed and nothing is written.

    \b
    $ dcnify plan timm:convnext_tiny -r convnext-late
    $ dcnify plan model.pt -r my.yaml --set swaps.late.replace.kernel_size=5
    """
    from dcnify.recipe import Recipe
    from dcnify.surgery import plan as make_plan
    from dcnify.surgery.table import plan_tables

    loaded = Recipe.load(recipe, overrides or ())
    with phases("opening the model", quiet=quiet or as_json) as step:
        opened = given.open(step)
        step("planning", 0, 1)
        made = make_plan(opened.model, loaded, given.example(opened, loaded.input))
    for note in opened.notes:
        say(note, quiet=quiet)
    emit(as_json, json.loads(made.to_json()), lambda: plan_tables(made))
