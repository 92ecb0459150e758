"""``dcnify ablate``: run a sweep over a recipe, help with one, and read what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dcnify.ablate.spec import AblateSpec, JoinSpec
from dcnify.cli.flatten import Offer, verb, verbs
from dcnify.cli.output import complain, table
from dcnify.cli.terminal import Terminal

if TYPE_CHECKING:
    pass

app = verbs("Try variants of a recipe, measure each, and compare.")

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
Join = Annotated[JoinSpec, Offer(argument="folder")]


@app.command("run")
@verb
def run(spec: Request, terminal: Terminal) -> None:
    """Try every point of a sweep, and report; what is done already is skipped.

    The sweep is checked whole before anything runs. Called again, it does what is missing, what
    failed, and what the sweep has new.

    \b
    $ dcnify ablate run stages --source model.pt -r convnext --data photos/ -o runs/stages
    $ dcnify ablate run my.yaml --source timm:convnext_tiny --pretrained -o runs/mine --jobs 4
    """
    from dcnify.ablate import Sweep, prepare, work

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
    if tally.failed:
        complain(f"{len(tally.failed)} trials failed; run it again to try those again")
        raise typer.Exit(1)


@app.command("worker")
@verb
def worker(spec: Join, terminal: Terminal) -> None:
    """Take trials of a sweep that is under way, on this machine or another one.

    \b
    $ dcnify ablate worker runs/x
    $ dcnify ablate worker --storage postgresql://user@host/database
    """
    from dcnify.ablate import join, work

    prepared = join(spec)
    with terminal.progress("opening the model", lines=True) as shown:
        tally = work(
            prepared,
            jobs=spec.jobs,
            fail_fast=spec.fail_fast,
            progress=shown.phase,
            say=terminal.say,
        )
    done = tally.ended
    terminal.emit(
        {"folder": str(prepared.folder), "ended": done}, lambda: f"{done} trials ended meanwhile"
    )


@app.command("ls")
@verb
def ls(terminal: Terminal) -> None:
    """List the sweeps that come with dcnify.

    \b
    $ dcnify ablate ls
    """
    from dcnify.ablate import sweeps

    found = sweeps().values()
    terminal.emit(
        [{"name": one.name, "summary": one.summary} for one in found],
        lambda: table(["name", "what it asks"], [(one.name, one.summary) for one in found]),
    )
