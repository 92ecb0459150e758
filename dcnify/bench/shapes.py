"""The sizes an operator is timed at, and how a person writes them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dcnify.errors import InputError

_WRITTEN = re.compile(r"(\d+)x(\d+)x(\d+)(?:g(\d+))?", re.IGNORECASE)
_GROUP_CHANNELS = 32
_LARGEST_CLASSIFICATION = 64 * 64


@dataclass(frozen=True)
class Shape:
    """One image of features: height, width and channels, and the groups that share points."""

    height: int
    width: int
    channels: int
    groups: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}g{self.groups}"

    @property
    def group_channels(self) -> int:
        return self.channels // self.groups

    @property
    def high_resolution(self) -> bool:
        """Larger than what a classifier sees; measured at batch 1 unless told."""
        return self.height * self.width > _LARGEST_CLASSIFICATION


PAPER = (
    Shape(56, 56, 128, 4),
    Shape(28, 28, 256, 8),
    Shape(14, 14, 512, 16),
    Shape(7, 7, 1024, 32),
    Shape(14, 14, 768, 24),
    Shape(200, 320, 128, 4),
    Shape(100, 160, 256, 8),
)
"""Shapes in the DCNv4 paper (arXiv 2401.06197): four stages, a ViT's, and two of a detector."""


def parse_shapes(texts: Sequence[str]) -> tuple[Shape, ...]:
    """Shapes from what a person wrote, in that order and once each; ``all`` is `PAPER`."""
    shapes: list[Shape] = []
    for text in texts:
        shapes += PAPER if text == "all" else [_parse(text)]
    return tuple(dict.fromkeys(shapes))


def _parse(text: str) -> Shape:
    written = _WRITTEN.fullmatch(text.replace(" ", ""))
    if written is None:
        raise InputError(
            f"unknown shape {text!r}; write HEIGHTxWIDTHxCHANNELSgGROUPS such as {PAPER[0]}, or all"
        )
    height, width, channels = (int(number) for number in written.groups()[:3])
    if min(height, width, channels) < 1:
        raise InputError(f"shape {text!r}: height, width and channels must be at least 1")
    if written[4] is None:
        groups = max(1, channels // _GROUP_CHANNELS)
        if channels % groups:
            raise InputError(f"shape {text!r}: say how many groups, such as {text}g1")
    else:
        groups = int(written[4])
    if groups < 1 or channels % groups:
        divisors = [number for number in range(1, channels + 1) if channels % number == 0]
        near = min(divisors, key=lambda number: abs(number - groups))
        raise InputError(
            f"shape {text!r}: {groups} groups do not divide {channels} channels, "
            f"try {height}x{width}x{channels}g{near}"
        )
    return Shape(height, width, channels, groups)
