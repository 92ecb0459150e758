"""dcnify convert: swap what a recipe selects, measure the loss, write an artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dcnify.cli.flatten import verb
from dcnify.cli.options import (
    Overrides,
    Overwrite,
    Plot,
    RecipeName,
    Source,
    fidelity_plot,
)
from dcnify.cli.terminal import Terminal
from dcnify.data.spec import ImageSpec

Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="Folder of the artifact, or a file ending in .pt for a plain dict.",
        show_default=False,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")
]


@verb
def convert(
    source: Source,
    recipe: RecipeName,
    output: Output,
    images: ImageSpec,
    terminal: Terminal,
    overrides: Overrides = None,
    seed: Seed = 0,
    plot: Plot = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a trained model into one with DCNv4 layers, and write it as an artifact.

    \b
    $ dcnify convert model.pt -r convnext -o out/
    $ dcnify convert timm:vit_tiny_patch16_224 --pretrained -r vit -o vit-dcn/ --images photos/
    """
    source.check()
    from dcnify.recipe import Recipe

    loaded = Recipe.load(recipe, overrides or ())
    from dcnify.artifact import check_output, open_source, save
    from dcnify.surgery import convert as run
    from dcnify.surgery import images_wanted
    from dcnify.surgery.table import result_table

    check_output(output, overwrite)
    draw = fidelity_plot(plot, overwrite)
    with terminal.progress("opening the model") as shown:
        opened = open_source(source, on_progress=shown.phase).for_images(images.statistics)
        shown.phase("planning", 0, 1)
        shape = source.input_shape(opened.input_size, loaded.input)
        example = opened.example(shape)
        batch = images.load(
            shape,
            **opened.statistics.known(),
            count=images_wanted(loaded) if images.images is not None else None,
            progress=shown.phase,
        )
        result = run(
            opened.model,
            loaded,
            example,
            calibration=batch,
            seed=seed,
            progress=shown.phase,
            random_weights=opened.random_weights,
        )
        shown.phase("writing", 0, 1)
        save(result, output, source=opened, overwrite=overwrite)
    for note in opened.notes:
        terminal.say(note)
    for remark in batch.remarks() if batch else ():
        terminal.warn(remark)
    data = {
        "artifact": str(output),
        "plan": json.loads(result.plan.to_json()),
        "report": result.report.to_dict(),
    }
    terminal.emit(data, lambda: [*result_table(result), f"wrote {output}"])
    draw(data["report"])
