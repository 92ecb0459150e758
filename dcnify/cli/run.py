"""dcnify run: a recipe from end to end, in one folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dcnify.cli.flatten import Offer, verb
from dcnify.cli.terminal import Terminal
from dcnify.errors import InputError
from dcnify.pipeline.spec import RunSpec
from dcnify.report import accuracy_table

if TYPE_CHECKING:
    from dcnify.pipeline import RunResult

Request = Annotated[
    RunSpec,
    Offer(
        argument="recipe",
        flags={"images.image_count": "--calibration-count"},
        help={
            "images.images": "Images to measure fidelity on, and to calibrate on where the recipe "
            "does; those of --data by default. Without --data, images without labels to train on.",
            "images.image_count": "How many of them.",
            "options.resume": "Go on where an earlier call stopped, which run does anyway.",
        },
        without=("images.split", "images.data_dir", "data.images"),
    ),
]


@verb
def run(spec: Request, terminal: Terminal) -> None:
    """Convert, fine-tune, time and report in one go; what is done already is skipped.

    \b
    $ dcnify run convnext-calibrated --source model.pt --data /data/flowers -o flowers/
    $ dcnify run mobilenet --source model.pt --images photos/ -o out/
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "run is for one process: on several, convert first and launch 'dcnify finetune'"
        )
    spec.source.check()
    spec.training_data.check()
    spec.load()  # refused before torch is imported
    from dcnify.pipeline import run as run_pipeline

    with terminal.progress("opening the model", lines=True) as shown:
        done = run_pipeline(
            spec,
            progress=shown.phase,
            watch=shown.step,
            looked=shown.validation,
            say=terminal.say,
        )
    terminal.emit(done.to_dict(), lambda: _render(done, Path(spec.output)))


def _render(done: RunResult, folder: Path) -> list[Any]:
    bench = done.bench
    (forward,) = bench["passes"]
    times = {name: timing["p50_us"] / 1e3 for name, timing in forward["timings"].items()}
    shape = "x".join(map(str, bench["shape"]))
    parts: list[Any] = [
        accuracy_table(done.finetuning),
        f"median for {shape}: original {times['original']:.2f} ms, converted "
        f"{times['converted']:.2f} ms: {forward['speedup']['p50']:.2f} times as fast",
    ]
    if done.skipped:
        parts.append(f"already done: {', '.join(done.skipped)}")
    parts.append(f"wrote {folder / 'report.md'}")
    return parts
