"""Where a page goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dcnify.errors import InputError
from dcnify.spec import Spec, option

if TYPE_CHECKING:
    from dcnify.report.view import Page

RENDERERS = {".html": "html", ".md": "markdown"}


@dataclass(frozen=True, kw_only=True)
class PageSpec(Spec):
    """Where a page goes, if anywhere but the terminal."""

    output: Path | None = option(
        None,
        help="The page, ending in .html or .md; without it, it is printed.",
        flags=("--output", "-o"),
        metavar="PAGE",
    )
    overwrite: bool = option(False, help="Replace a file that is not a page of dcnify's.")

    def check(self) -> None:
        """
        Raises:
            InputError: the page cannot be written.
        """
        from dcnify.files import check_file
        from dcnify.report.render import is_page

        if self.output is not None:
            if self.output.suffix.lower() not in RENDERERS:
                raise InputError(f"{self.output}: a page ends in {' or '.join(RENDERERS)}")
            check_file(self.output, self.overwrite or is_page(self.output))

    def write(self, page: Page) -> None:
        """Write the page, if a file is named."""
        from dcnify.files import write_file
        from dcnify.report import render

        if self.output is not None:
            text = getattr(render, RENDERERS[self.output.suffix.lower()])(page)
            write_file(self.output, lambda path: path.write_text(text, "utf-8"), overwrite=True)
