"""dcnify ablate worker: help with a sweep that is under way."""

from __future__ import annotations

from typing import Annotated

from dcnify.ablate.spec import JoinSpec
from dcnify.cli.flatten import Offer, verb
from dcnify.cli.terminal import Terminal

Join = Annotated[JoinSpec, Offer(argument="folder")]


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
        {"folder": None if prepared.scratch else str(prepared.folder), "ended": done},
        lambda: f"{done} trials ended meanwhile",
    )
