"""dcnify diff: what differs between two artifacts or two recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from dcnify.cli.flatten import verb
from dcnify.cli.pages.output import PageSpec
from dcnify.cli.terminal import Terminal

_HELP = "An artifact, a built-in recipe, or a YAML file."


@verb
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=_HELP)],
    b: Annotated[str, typer.Argument(metavar="B", help=_HELP)],
    spec: PageSpec,
    terminal: Terminal,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if anything differs.")
    ] = False,
) -> None:
    """Say what differs between two artifacts, or between two recipes.

    Of artifacts: recipe, plan, fidelity, cost, origin, and how far the weights of each layer are
    apart. Nothing is loaded, and no code is run. The exit code is 0 whether or not they differ,
    unless --exit-code is given.

    \b
    $ dcnify diff out/ trained/
    $ dcnify diff convnext convnext-late -o diff.md
    """
    spec.check()
    from dcnify.report.diff import compare, difference_page

    with terminal.progress("reading") as shown:
        found = compare(a, b, shown.phase)
        page = difference_page(found)
        spec.write(page)
    data = {"output": spec.output, **found.to_dict()}
    terminal.emit(data, lambda: page if spec.output is None else f"wrote {spec.output}")
    if exit_code and not found.same:
        raise typer.Exit(1)
