"""dcnify plan: what a recipe would do to a model."""

import json

from dcnify.cli.flatten import verb
from dcnify.cli.options import RecipeSpec, Source
from dcnify.cli.terminal import Terminal


@verb
def plan(source: Source, recipe: RecipeSpec, terminal: Terminal) -> None:
    """Show which site becomes what, what that costs, and why each other candidate stays.

    Nothing is changed and nothing is written.

    \b
    $ dcnify plan timm:convnext_tiny -r convnext-late
    $ dcnify plan model.pt -r my.yaml --set swaps.late.replace.kernel_size=5
    """
    source.check()
    loaded = recipe.load()
    from dcnify.artifact import open_source
    from dcnify.surgery import plan as make_plan
    from dcnify.surgery.table import plan_tables

    with terminal.progress("opening the model") as shown:
        opened = open_source(source, on_progress=shown.phase)
        shown.phase("planning", 0, 1)
        shape = source.input_shape(opened.input_size, loaded.input)
        made = make_plan(opened.model, loaded, opened.example(shape))
    for note in opened.notes:
        terminal.say(note)
    terminal.emit(json.loads(made.to_json()), lambda: plan_tables(made))
