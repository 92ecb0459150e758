"""The option --plot of the verbs that measure fidelity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Draw the fidelity of each layer: .png, .svg or .pdf.",
        show_default=False,
    ),
]


def drawing(plot: Path | None, overwrite: bool) -> Callable[..., None]:
    """A function that draws a report, to ``plot``, which is checked now; or does nothing.

    Raises:
        InputError: no picture can be written there.
    """
    if plot is None:
        return lambda report, recomputed=None: None
    from dcnify.bench import check_plot
    from dcnify.files import check_file, write_file
    from dcnify.report import write_plot

    check_plot(plot)
    check_file(plot, overwrite)

    def draw(report: dict[str, Any], recomputed: dict[str, Any] | None = None) -> None:
        write_file(plot, lambda path: write_plot(report, path, recomputed), overwrite)

    return draw
