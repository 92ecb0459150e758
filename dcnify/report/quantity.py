"""How numbers are written: one `Quantity` for each kind of number, whatever renders it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

_CLINGING = ("%", "x")
_THOUSANDS = (("G", 1e9), ("M", 1e6), ("k", 1e3))


@dataclass(frozen=True)
class Quantity:
    """A kind of number: its unit, and the digits that are worth showing."""

    unit: str = ""
    """``%`` and ``x`` follow each number; any other unit stands in the head of its column."""
    digits: int = 2
    style: Literal["fixed", "significant", "short", "whole"] = "fixed"
    """``fixed``: digits after the point. ``significant``: digits in all. ``short``: three digits
    and k, M or G. ``whole``: an integer with commas."""
    scale: float = 1.0
    """What a value is multiplied by: 100 for a share in percent, 1e-3 for microseconds in ms."""
    signed: bool = False
    infinite: str = "infinite"
    """The word for infinity."""

    def text(self, value: float | None) -> str:
        """The number without its unit, unless the unit clings to it; empty for None."""
        if value is None:
            return ""
        if math.isnan(value):
            return "undefined"
        if math.isinf(value):
            return self.infinite if value > 0 else f"-{self.infinite}"
        return self._digits(value * self.scale) + (self.unit if self.unit in _CLINGING else "")

    def with_unit(self, value: float | None) -> str:
        """The number and its unit, as in a sentence."""
        text = self.text(value)
        number = bool(text) and value is not None and math.isfinite(value)
        return f"{text} {self.head_unit}" if number and self.head_unit else text

    @property
    def head_unit(self) -> str:
        """The unit that a column's head or an axis states; empty if it follows each number."""
        return "" if self.unit in _CLINGING else self.unit

    def _digits(self, value: float) -> str:
        plus = "+" if self.signed else ""
        if self.style == "whole":
            return f"{round(value):{plus},}"
        if self.style == "significant":
            return f"{value:{plus}.{self.digits}g}"
        if self.style == "short":
            for unit, size in _THOUSANDS:
                if abs(value) >= size:
                    return f"{value / size:{plus}.3g}{unit}"
            return f"{value:{plus}.3g}"
        return f"{round(value, self.digits) + 0.0:{plus}.{self.digits}f}"


PERCENT = Quantity("%", 1, scale=100)
SHARE_CHANGE = Quantity("%", 1, scale=100, signed=True)
DECIBEL = Quantity("dB", infinite="exact")
COSINE = Quantity(digits=4)
KL = Quantity(digits=2, style="significant")
RELATIVE_ERROR = Quantity(digits=2, style="significant")
COUNT = Quantity(style="whole")
SHORT_COUNT = Quantity(style="short")
MILLISECONDS = Quantity("ms")
MICROSECONDS_IN_MS = Quantity("ms", scale=1e-3)
SECONDS = Quantity("s", 1)
PIXELS = Quantity("px", 1)
TIMES = Quantity("x")


def change(before: float | None, after: float | None, quantity: Quantity = SHORT_COUNT) -> str:
    """``6.27k → 152k``; empty where one of them is not known."""
    if before is None or after is None:
        return ""
    return f"{quantity.text(before)} → {quantity.text(after)}"
