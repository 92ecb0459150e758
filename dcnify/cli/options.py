"""Options that mean the same on every verb. A verb annotates its parameters with these.

``--debug`` is not here: `dcnify.cli.app` adds it to every verb by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ArtifactPath = Annotated[
    Path,
    typer.Argument(
        metavar="ARTIFACT",
        help="What 'dcnify convert' wrote: a folder, or a .pt file.",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks.")]
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
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="The part of --images to use; the training images by default, else what there is.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="The folder in which a dataset of --images is.", show_default=False
    ),
]
