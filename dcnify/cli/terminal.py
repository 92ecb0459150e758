"""The output options of every verb, and how it prints."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from dcnify.cli.output import as_json, console
from dcnify.cli.progress import Display, display
from dcnify.spec import Spec, option


@dataclass(frozen=True)
class Terminal(Spec):
    """The options ``--json`` and ``--quiet``, and output that follows them."""

    as_json: bool = option(
        False,
        help="Print the result as JSON on stdout, and nothing else there.",
        flags=("--json",),
    )
    quiet: bool = option(False, help="No progress and no remarks.", flags=("--quiet", "-q"))

    def emit(self, data: Any, render: Callable[[], Any]) -> None:
        """Print a command's result.

        Args:
            data: plain data, dataclasses or pydantic models. NaN and infinities become null.
            render: returns text, a part of `dcnify.report.view`, something for rich to print, or
                a list of those; not called for JSON.
        """
        from dcnify.report.render.terminal import terminal

        if self.as_json:
            print(as_json(data))
            return
        shown = render()
        for part in shown if isinstance(shown, list) else [shown]:
            for piece in terminal(part):
                if isinstance(piece, str):
                    print(piece)
                else:
                    console().print(piece)

    def say(self, text: str) -> None:
        """Print a remark on stderr, unless quiet."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, unless quiet."""
        self.say(f"warning: {text}")

    def progress(self, first: str = "", *, lines: bool = False) -> AbstractContextManager[Display]:
        """Show progress on stderr, unless quiet or in JSON; see `dcnify.cli.progress.display`."""
        return display(first, quiet=self.quiet or self.as_json, lines=lines)
