"""dcnify report: what a folder holds, as one page."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dcnify.cli.flatten import Offer, verb
from dcnify.cli.options import must_exist
from dcnify.cli.pages.output import PageSpec
from dcnify.cli.terminal import Terminal
from dcnify.errors import InputError
from dcnify.spec import option

if TYPE_CHECKING:
    from dcnify.report.view import Page

KINDS = {
    "artifact": ("dcnify.report.artifact_page", "is_artifact", "read_artifact_page"),
    "run": ("dcnify.pipeline.page", "is_run", "read_run"),
    "ablation": ("dcnify.ablate.results.report", "is_ablation", "read_ablation"),
}
"""What can be shown: a module, its test whether a path is that, and what makes a page of it."""


@dataclass(frozen=True, kw_only=True)
class ReportSpec(PageSpec):
    """What to show, and where the page goes."""

    folder: Path = option(
        help="An artifact, or the folder of 'dcnify run' or 'dcnify ablate'.", metavar="FOLDER"
    )

    def check(self) -> None:
        """
        Raises:
            InputError: the folder is missing, or the page cannot be written.
        """
        must_exist(self.folder)
        super().check()


@verb
def report(spec: Annotated[ReportSpec, Offer(argument="folder")], terminal: Terminal) -> None:
    """Show an artifact, a run or an ablation as one page that needs nothing beside it.

    A page of HTML reads on a phone, on paper and in the dark, and loads nothing from anywhere.

    \b
    $ dcnify report out/ -o report.html
    $ dcnify report out/ -o report.md
    """
    spec.check()
    with terminal.progress("reading") as shown:
        page = page_of(spec.folder)
        shown.phase("drawing", 0, 1)
        spec.write(page)
    data = {"output": spec.output, "page": asdict(page)}
    terminal.emit(data, lambda: page if spec.output is None else f"wrote {spec.output}")


def page_of(folder: Path) -> Page:
    """The page of what a folder holds.

    Raises:
        InputError: it holds nothing that can be shown, or something damaged.
    """
    for module, test, read in KINDS.values():
        if getattr(import_module(module), test)(folder):
            return getattr(import_module(module), read)(folder)
    kinds = " nor ".join(KINDS)
    inside = (one for one in sorted(folder.iterdir()) if one.is_dir()) if folder.is_dir() else ()
    for one in inside:
        if any(getattr(import_module(module), test)(one) for module, test, _ in KINDS.values()):
            raise InputError(f"{folder} is neither {kinds}; did you mean {str(one)!r}?")
    raise InputError(f"{folder} is neither {kinds}: name what convert, finetune or run wrote")
