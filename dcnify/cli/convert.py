"""dcnify convert: swap what a recipe selects, measure the loss, write an artifact."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dcnify.cli.flatten import verb
from dcnify.cli.options import Plot, RecipeSpec, Source
from dcnify.cli.terminal import Terminal
from dcnify.data.spec import ImageSpec
from dcnify.spec import Spec, option


@dataclass(frozen=True, kw_only=True)
class Target(Spec):
    """Where the artifact goes, and the seed."""

    output: Path = option(
        help="Folder of the artifact, or a file ending in .pt for a plain dict.",
        flags=("--output", "-o"),
        metavar="OUT",
    )
    seed: int = option(0, help="Seed of everything random.", least=0, most=2**63 - 1)


@verb
def convert(
    source: Source,
    recipe: RecipeSpec,
    target: Target,
    images: ImageSpec,
    files: Plot,
    terminal: Terminal,
) -> None:
    """Turn a trained model into one with DCNv4 layers, and write it as an artifact.

    \b
    $ dcnify convert model.pt -r convnext -o out/
    $ dcnify convert timm:vit_tiny_patch16_224 --pretrained -r vit -o vit-dcn/ --images photos/
    """
    source.check()
    loaded = recipe.load()
    from dcnify.artifact import check_output, open_source, save
    from dcnify.surgery import convert as run
    from dcnify.surgery import images_wanted
    from dcnify.surgery.table import result_table

    check_output(target.output, files.overwrite)
    files.check()
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
            seed=target.seed,
            progress=shown.phase,
            random_weights=opened.random_weights,
        )
        shown.phase("writing", 0, 1)
        save(result, target.output, source=opened, overwrite=files.overwrite)
    for note in opened.notes:
        terminal.say(note)
    for remark in batch.remarks() if batch else ():
        terminal.warn(remark)
    data = {
        "artifact": str(target.output),
        "plan": json.loads(result.plan.to_json()),
        "report": result.report.to_dict(),
    }
    terminal.emit(data, lambda: [*result_table(result), f"wrote {target.output}"])
    files.draw_fidelity(data["report"])
