"""The request of ``dcnify offsets`` as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dcnify.data.spec import InputSpec
from dcnify.errors import InputError
from dcnify.spec import option

SUFFIXES = (".png", ".svg")
_MIDDLE = ((0.5, 0.5),)


@dataclass(frozen=True, kw_only=True)
class OffsetsSpec(InputSpec):
    """A photograph, the places in it and the sites whose samples are drawn, and the picture."""

    image: Path = option(help="A photograph.", flags=("--image",), metavar="PHOTO")
    site: tuple[str, ...] = option(
        (),
        help="Path of a swapped layer; by default the last of each stage. May be given more than "
        "once.",
        metavar="PATH",
    )
    at: tuple[str, ...] = option(
        (),
        help="A place in the photograph as the model sees it, from 0,0 at the top left to 1,1; "
        "the middle by default. May be given more than once.",
        metavar="X,Y",
    )
    output: Path = option(
        help="The picture, ending in .png or .svg.", flags=("--output", "-o"), metavar="FIGURE"
    )
    overwrite: bool = option(False, help="Replace what is there.")

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.places  # whatever cannot be parsed is refused

    @property
    def places(self) -> tuple[tuple[float, float], ...]:
        """The places as (x, y) from 0 to 1.

        Raises:
            InputError: one cannot be parsed, or lies outside.
        """
        return tuple(map(_place, self.at)) or _MIDDLE

    def check(self) -> None:
        """
        Raises:
            InputError: the photograph is missing, or the picture cannot be written.
        """
        from dcnify.files import check_file, near_files

        if not self.image.exists():
            raise InputError(f"{self.image} does not exist{near_files(self.image)}")
        if self.output.suffix.lower() not in SUFFIXES:
            raise InputError(f"{self.output}: a picture of offsets ends in {' or '.join(SUFFIXES)}")
        check_file(self.output, self.overwrite)


def _place(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = math.nan
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise InputError(f"--at {text}: expected two numbers from 0 to 1, such as 0.5,0.4")
    return x, y
