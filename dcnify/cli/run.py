"""dcnify run: a recipe from end to end, in one folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcnify.cli.bench_options import Seconds
from dcnify.cli.options import AsJson, Overrides, Overwrite, Quiet
from dcnify.cli.output import emit, say, warn
from dcnify.cli.phases import phases
from dcnify.cli.sources import (
    Arch,
    Given,
    InputSize,
    ModelArgs,
    Pretrained,
    TrustCode,
    TrustPickle,
    UseEma,
    fidelity_images,
)
from dcnify.cli.training import accuracies, training
from dcnify.cli.training_options import (
    Cpu,
    CropPct,
    Data,
    DataDir,
    ImageCount,
    KeepEvery,
    LookEvery,
    TensorBoard,
    TrainSplit,
    ValSplit,
    Workers,
    crop_of,
    opener,
)
from dcnify.errors import InputError

if TYPE_CHECKING:
    from dcnify.pipeline import Outcome

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A built-in recipe (see 'dcnify recipe ls') or the path of a YAML file.",
        show_default=False,
    ),
]
SourceName = Annotated[
    str,
    typer.Option(
        "--source",
        metavar="SOURCE",
        help="What to convert: timm:NAME, a checkpoint, an artifact folder, or "
        "python:package.module:factory.",
        show_default=False,
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="Folder of everything: converted/, finetuned/, bench.json, report.json, report.md.",
        show_default=False,
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="WHERE",
        help="Images to measure fidelity on, and to calibrate on where the recipe does; those of "
        "--data by default.",
        show_default=False,
    ),
]
Count = Annotated[
    int | None,
    typer.Option(
        "--calibration-count", min=1, max=4096, help="How many of them.", show_default=False
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of everything random.")
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images at once that are timed.")]


def run(
    recipe: RecipeName,
    source: SourceName,
    data: Data,
    output: Output,
    overrides: Overrides = None,
    images: Images = None,
    calibration_count: Count = None,
    split: TrainSplit = None,
    val_split: ValSplit = None,
    data_dir: DataDir = None,
    image_count: ImageCount = None,
    arch: Arch = None,
    model_arg: ModelArgs = None,
    pretrained: Pretrained = False,
    use_ema: UseEma = False,
    trust_pickle: TrustPickle = False,
    trust_code: TrustCode = False,
    input_size: InputSize = None,
    seed: Seed = 0,
    workers: Workers = None,
    cpu: Cpu = False,
    look_every: LookEvery = None,
    keep_every: KeepEvery = None,
    crop_pct: CropPct = None,
    tensorboard: TensorBoard = False,
    batch: Batch = 8,
    seconds: Seconds = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Convert, fine-tune, time and report in one go; what is done already is skipped.

    \b
    $ dcnify run convnext-calibrated --source model.pt --data /data/flowers -o flowers/
    """
    from dcnify.finetune import Options
    from dcnify.pipeline import Asked
    from dcnify.pipeline import run as carry_out
    from dcnify.recipe import Recipe
    from dcnify.surgery import images_wanted

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "run is for one process: on several, convert first and launch 'dcnify finetune'"
        )
    loaded = Recipe.load(recipe, overrides or ())
    given = Given(
        source, arch, model_arg, pretrained, use_ema, trust_pickle, trust_code, input_size
    )

    with phases("opening the model", quiet=quiet or as_json) as step:
        opened = given.open(step)
        example = given.example(opened, loaded.input)
        count = calibration_count or images_wanted(loaded) or 16
        shape = tuple(example.shape)
        pictures = fidelity_images(
            images or data,
            opened,
            shape,
            count,
            split=split if images is None else None,
            data_dir=data_dir if images is None else None,
            called="data" if images is None else "images",
            step=step,
        )
    for note in opened.notes:
        say(note, quiet=quiet)
    with training(quiet=quiet or as_json) as shown:
        outcome = carry_out(
            Asked(
                recipe=loaded,
                source=opened,
                reopen=lambda: given.open(lambda what, done, total: None),
                example=example,
                images=pictures,
                data=opener(data, split, val_split, data_dir, image_count),
                out=output,
                seed=seed,
                batch=batch,
                seconds=seconds,
                options=Options(
                    seed=seed,
                    cpu=cpu,
                    workers=workers,
                    look_every=look_every,
                    keep_every=keep_every,
                    tensorboard=tensorboard,
                    crop_pct=crop_of(crop_pct, data),
                    overwrite=overwrite,
                    trust_code=trust_code,
                ),
            ),
            step=shown.phase,
            watch=shown.beat,
            looked=shown.looked,
            say=lambda text: warn(text, quiet=quiet),
        )
    emit(as_json, outcome.to_dict(), lambda: _render(outcome, output))


def _render(outcome: Outcome, written: Path) -> list[Any]:
    bench = outcome.bench
    (forward,) = bench["passes"]
    times = {name: timing["p50_us"] / 1e3 for name, timing in forward["timings"].items()}
    shape = "x".join(map(str, bench["shape"]))
    parts: list[Any] = [
        accuracies(outcome.finetuning),
        f"median for {shape}: original {times['original']:.2f} ms, converted "
        f"{times['converted']:.2f} ms: {forward['speedup']['p50']:.2f} times as fast",
    ]
    if outcome.skipped:
        parts.append(f"was there already: {', '.join(outcome.skipped)}")
    parts.append(f"wrote {written / 'report.md'}")
    return parts
