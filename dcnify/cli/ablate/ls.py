"""dcnify ablate ls: the sweeps that ship."""

from __future__ import annotations

from dcnify.cli.flatten import verb
from dcnify.cli.output import table
from dcnify.cli.terminal import Terminal


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
