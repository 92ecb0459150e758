"""dcnify ablate run: try every point of a sweep."""

from __future__ import annotations

from typing import Annotated

import typer

from dcnify.ablate.spec import AblateSpec
from dcnify.cli.ablate.report import show
from dcnify.cli.flatten import Offer, verb
from dcnify.cli.output import complain
from dcnify.cli.terminal import Terminal

_NOT_OURS = ("options.seed", "options.resume", "options.overwrite", "options.tensorboard")
Request = Annotated[
    AblateSpec,
    Offer(
        argument="sweep",
        flags={"images.image_count": "--calibration-count"},
        help={
            "images.images": "Images to measure fidelity on, and to calibrate on where the recipe "
            "does; those of --data by default. Without --data, images without labels to train on.",
            "images.image_count": "How many of them.",
        },
        without=("images.split", "images.data_dir", "data.images", *_NOT_OURS),
    ),
]


@verb
def run(spec: Request, terminal: Terminal) -> None:
    """Try every point of a sweep, and report; what is done already is skipped.

    The sweep is checked whole before anything runs. Called again, it does what is missing, what
    failed, and what the sweep has new.

    \b
    $ dcnify ablate run stages --source model.pt -r convnext --data photos/ -o runs/stages
    $ dcnify ablate run my.yaml --source timm:convnext_tiny --pretrained -o runs/mine --jobs 4
    """
    from dcnify.ablate import Sweep, prepare, work, write_report

    spec.source.check()
    sweep = Sweep.load(spec.sweep)
    with terminal.progress("opening the model", lines=True) as shown:
        prepared = prepare(spec, sweep, progress=shown.phase, say=terminal.say)
        tally = work(
            prepared,
            jobs=spec.jobs,
            fail_fast=spec.fail_fast,
            progress=shown.phase,
            say=terminal.say,
        )
    show(write_report(prepared.folder, prepared.store), terminal)
    if tally.failed:
        complain(f"{len(tally.failed)} trials failed; run it again to try those again")
        raise typer.Exit(1)
