"""dcnify convert: swap what a recipe selects, measure the loss, write an artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dcnify.cli.options import AsJson, DataDir, Overrides, Overwrite, Quiet, RecipeName, Split
from dcnify.cli.output import emit, say, warn
from dcnify.cli.phases import phases
from dcnify.cli.plotting import Plot, drawing
from dcnify.cli.sources import Given, fidelity_images, takes_source

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
Images = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="WHERE",
        help="Images to measure fidelity on: a folder, a file, builtin:cluttered-digits, or a "
        "dataset as timm names it (hfds/OWNER/NAME, hfids/, tfds/, wds/, torch/, ImageFolder). "
        "Photographs that ship with packages by default.",
        show_default=False,
    ),
]
Count = Annotated[
    int | None,
    typer.Option(
        "--image-count",
        min=1,
        max=4096,
        help="How many images to measure on, and to calibrate on where the recipe does; 2 to 8 "
        "photographs by default, or 16 of --images, and what the recipe asks for.",
        show_default=False,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")
]


@takes_source
def convert(
    given: Given,
    recipe: RecipeName,
    output: Output,
    overrides: Overrides = None,
    images: Images = None,
    split: Split = None,
    data_dir: DataDir = None,
    image_count: Count = None,
    seed: Seed = 0,
    plot: Plot = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a trained model into one with DCNv4 layers, and write it as an artifact.

    \b
    $ dcnify convert model.pt -r convnext -o out/
    $ dcnify convert timm:vit_tiny_patch16_224 --pretrained -r vit -o vit-dcn/ --images photos/
    """
    from dcnify.artifact import check_output, save
    from dcnify.recipe import Recipe
    from dcnify.surgery import convert as run
    from dcnify.surgery import images_wanted

    loaded = Recipe.load(recipe, overrides or ())
    check_output(output, overwrite)
    draw = drawing(plot, overwrite)
    with phases("opening the model", quiet=quiet or as_json) as step:
        opened = given.open(step)
        step("planning", 0, 1)
        example = given.example(opened, loaded.input)
        count = image_count or (images_wanted(loaded) if images is not None else None)
        batch = fidelity_images(
            images, opened, tuple(example.shape), count, split=split, data_dir=data_dir, step=step
        )
        result = run(opened.model, loaded, example, calibration=batch, seed=seed, progress=step)
        step("writing", 0, 1)
        save(result, output, source=opened, overwrite=overwrite)
    for note in opened.notes:
        say(note, quiet=quiet)
    for remark in batch.remarks() if batch else ():
        warn(remark, quiet=quiet)
    data = {
        "artifact": str(output),
        "plan": json.loads(result.plan.to_json()),
        "report": result.report.to_dict(),
    }
    emit(as_json, data, lambda: _render(result, output))
    draw(data["report"])


def _render(result, written: Path) -> list:
    from dcnify.surgery.table import result_table

    return [*result_table(result), f"wrote {written}"]
