"""Options that mean the same on several verbs and belong to no spec.

``--json`` and ``--quiet`` are in `dcnify.cli.terminal.Terminal`; `dcnify.cli.app` adds ``--debug``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dcnify.cli.flatten import Offer
from dcnify.errors import InputError
from dcnify.files import near_files
from dcnify.sources.spec import SourceSpec

Source = Annotated[SourceSpec, Offer(argument="source")]
ArtifactPath = Annotated[
    Path,
    typer.Argument(
        metavar="ARTIFACT",
        help="What 'dcnify convert' wrote: a folder, or a .pt file.",
        show_default=False,
        callback=lambda path: must_exist(path),
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        help="A built-in recipe (see 'dcnify recipe ls') or the path of a YAML file.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change one value of the recipe, such as swaps.late.replace.kernel_size=5. "
        "May be given more than once.",
        show_default=False,
    ),
]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Import the Python code that an artifact names.")
]
Csv = Annotated[
    Path | None,
    typer.Option(
        "--csv", metavar="FILE", help="Write every measurement there.", show_default=False
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Draw the result there: .png, .svg or .pdf.",
        show_default=False,
    ),
]


def must_exist(path: Path) -> Path:
    """Return ``path``, or raise `InputError` before anything heavy is imported."""
    if not path.exists():
        raise InputError(f"{path} does not exist{near_files(path)}")
    return path


def fidelity_plot(plot: Path | None, overwrite: bool) -> Callable[..., None]:
    """Check that ``plot`` can be drawn, and return a function that draws a report there."""
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
