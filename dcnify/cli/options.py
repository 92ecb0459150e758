"""Requests that mean the same on several verbs and belong to no room.

``--json`` and ``--quiet`` are in `dcnify.cli.terminal.Terminal`; `dcnify.cli.app` adds ``--debug``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dcnify.cli.flatten import Offer
from dcnify.errors import InputError
from dcnify.files import near_files
from dcnify.sources.spec import SourceSpec
from dcnify.spec import Spec, option

if TYPE_CHECKING:
    from dcnify.recipe import Recipe

Source = Annotated[SourceSpec, Offer(argument="source")]


@dataclass(frozen=True, kw_only=True)
class ArtifactSpec(Spec):
    """An artifact, which exists.

    Raises:
        InputError: it does not.
    """

    artifact: Path = option(
        help="What 'dcnify convert' wrote: a folder, or a .pt file.", metavar="ARTIFACT"
    )
    trust_code: bool = option(False, help="Import the Python code that an artifact names.")

    def __post_init__(self) -> None:
        must_exist(self.artifact)


Artifact = Annotated[ArtifactSpec, Offer(argument="artifact")]


@dataclass(frozen=True, kw_only=True)
class OverridesSpec(Spec):
    """Changes to a recipe."""

    overrides: tuple[str, ...] = option(
        (),
        help="Change one value of the recipe, such as swaps.late.replace.kernel_size=5. "
        "May be given more than once.",
        flags=("--set",),
        metavar="PATH=VALUE",
    )


@dataclass(frozen=True, kw_only=True)
class RecipeSpec(OverridesSpec):
    """A recipe, perhaps changed."""

    recipe: str = option(
        help="A built-in recipe (see 'dcnify recipe ls') or the path of a YAML file.",
        flags=("--recipe", "-r"),
        metavar="RECIPE",
    )

    def load(self) -> Recipe:
        """Read and check the recipe."""
        from dcnify.recipe import Recipe

        return Recipe.load(self.recipe, self.overrides)


@dataclass(frozen=True, kw_only=True)
class FilesSpec(Spec):
    """Files that a verb writes beside its result, and whether anything may be replaced."""

    csv: Path | None = option(None, help="Write every measurement there.", metavar="FILE")
    plot: Path | None = option(
        None, help="Draw the result there: .png, .svg or .pdf.", metavar="FILE"
    )
    overwrite: bool = option(False, help="Replace what is there.")

    def check(self) -> list[Path]:
        """Return the files, or raise `InputError` before the long work if one cannot be written."""
        from dcnify.files import check_file

        written = [path for path in (self.csv, self.plot) if path]
        for path in written:
            check_file(path, self.overwrite)
        if self.plot:
            from dcnify.bench import check_plot

            check_plot(self.plot)
        return written

    def write(self, path: Path, write: Callable[[Path], object]) -> None:
        """Let ``write`` write one of the files; see `dcnify.files.write_file`."""
        from dcnify.files import write_file

        write_file(path, write, self.overwrite)

    def draw_fidelity(self, report: dict[str, Any], recomputed: Any = None) -> None:
        """Draw a conversion's report, if a plot is asked for."""
        if self.plot:
            from dcnify.report import write_plot

            self.write(self.plot, lambda path: write_plot(report, path, recomputed))


Overwrite = Annotated[FilesSpec, Offer(without=("csv", "plot"))]
Plot = Annotated[FilesSpec, Offer(without=("csv",))]
Csv = Annotated[FilesSpec, Offer(without=("plot",))]


def must_exist(path: Path) -> Path:
    """Return ``path``, or raise `InputError` before anything heavy is imported."""
    if not path.exists():
        raise InputError(f"{path} does not exist{near_files(path)}")
    return path
