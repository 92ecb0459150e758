"""What every verb offers for its output, and how it prints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from dcnify.cli import output
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
        """Print a result; see `dcnify.cli.output.emit`."""
        output.emit(self.as_json, data, render)

    def say(self, text: str) -> None:
        """Print a remark on stderr, unless quiet."""
        output.say(text, quiet=self.quiet)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, unless quiet."""
        output.warn(text, quiet=self.quiet)

    def progress(self, first: str = "", *, lines: bool = False) -> AbstractContextManager[Display]:
        """Show progress on stderr, unless quiet or in JSON; see `dcnify.cli.progress.display`."""
        return display(first, quiet=self.quiet or self.as_json, lines=lines)
