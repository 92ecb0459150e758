"""dcnify ablate report, status: what came out of a sweep so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dcnify.cli.flatten import Offer, verb
from dcnify.cli.terminal import Terminal
from dcnify.spec import Spec, option

if TYPE_CHECKING:
    from dcnify.ablate.results.report import Report


@dataclass(frozen=True, kw_only=True)
class WhichSpec(Spec):
    """An ablation that was begun."""

    folder: Path = option(help="Folder of an ablation.", metavar="OUT")
    storage: str | None = option(
        None, help="Database of the trials' state, if it needs a password.", metavar="URL"
    )


Which = Annotated[WhichSpec, Offer(argument="folder")]


@verb
def report(which: Which, terminal: Terminal) -> None:
    """Write what came out so far: OUT/report/ with tables, pages and the best recipes.

    \b
    $ dcnify ablate report runs/x
    """
    from dcnify.ablate import write_report

    show(write_report(which.folder.resolve(), storage=which.storage), terminal)


@verb
def status(which: Which, terminal: Terminal) -> None:
    """Say how many trials of a sweep are done, run, wait, or failed.

    \b
    $ dcnify ablate status runs/x
    """
    from dcnify.ablate import Status

    found = Status.read(which)
    terminal.emit(found.to_dict(), found.lines)


def show(report: Report, terminal: Terminal) -> None:
    """Print the answer and the table of points, and where the rest is."""
    from dcnify.report.render import terminal as rendered

    for line in report.left_out:
        terminal.warn(line)
    shown = [part for section in report.page.sections[:2] for part in section.parts]
    terminal.emit(
        report.to_dict(),
        lambda: [*(one for part in shown for one in rendered(part)), f"wrote {report.folder}"],
    )
