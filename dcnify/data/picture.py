"""What a source of images gives before anything is decoded."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image

from dcnify.data.decode import Crop


@dataclass(frozen=True)
class Picture:
    """One image that may be wanted. It is opened only when its turn comes, and then let go."""

    name: str
    """The file within its folder, or what the dataset calls it; printable."""
    open: Callable[[], Image.Image]
    """Decodes it; raises whatever a broken file makes a decoder raise."""
    label: int | None = None
    """Its class, if it has exactly one."""
    crop: Crop | None = None
    """The part of it that is wanted, if not as much as there is."""


@dataclass(frozen=True)
class Pictures:
    """The images of one source, best first: those that are wanted, then their replacements."""

    origin: str
    """Where they come from, for reports; printable."""
    each: Iterable[Picture]
    """In an order that depends on nothing but the source. May be endless."""
    total: int | None = None
    """How many there are; None if only reading tells."""
    classes: tuple[str, ...] | None = None
    """Names of the classes by label, if the source names them."""
    unlabelled: str = ""
    """Why the labels are not to be used, if they are not."""
    unreachable: tuple[tuple[str, str], ...] = ()
    """Files and folders that cannot even be opened, each with the reason."""


def printable(name: object) -> str:
    """``name`` on one line: control characters, direction marks and stray bytes as escapes."""
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else repr(c)[1:-1]
        for c in str(name)
    )
