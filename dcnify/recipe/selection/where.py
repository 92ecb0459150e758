"""Conditions on the facts of a site: exact values, pairs and ranges."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Tag, model_validator

from dcnify.recipe.part import Part
from dcnify.recipe.reading.shorthand import Count, FactInt, FactPair, refuse


class Range(Part):
    """Bounds, both inclusive; either may be left out."""

    min: Count | None = None
    """Smallest value that passes."""
    max: Count | None = None
    """Largest value that passes."""

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.min is None and self.max is None:
            raise refuse("expected min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise refuse(f"min {self.min} is larger than max {self.max}")
        return self


def _form(value: object) -> str:
    return "(range)" if isinstance(value, dict | Range) else "(exactly)"


PairFact = Annotated[
    Annotated[FactPair, Tag("(exactly)")] | Annotated[Range, Tag("(range)")], Discriminator(_form)
]
IntFact = Annotated[
    Annotated[FactInt, Tag("(exactly)")] | Annotated[Range, Tag("(range)")], Discriminator(_form)
]


class Where(Part):
    """Conditions on the facts of a site; all that are given must hold.

    A number or pair must be met exactly, ``{min: 3, max: 5}`` inclusively. Of a (height, width)
    fact a single number means both, and both must lie within a range.
    """

    # The facts of the roles are fields too; `dcnify.recipe.selection.by_role` adds them.

    channels: IntFact | None = None
    """Channels that enter the layer."""
    grid: PairFact | None = None
    """Rows and columns of the input: the feature map, or the tokens without their prefix."""

    def conditions(self) -> dict[str, tuple[int, int] | int | Range]:
        """The conditions that were given, by the name of the `Site` attribute they test."""
        facts = ((name, getattr(self, name, None)) for name in type(self).model_fields)
        return {name: value for name, value in facts if value is not None}
