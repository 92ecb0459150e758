"""Budgets: what the converted model may cost and must keep, as ``latency<=0.8,agreement>=90%``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dcnify.errors import InputError
from dcnify.words import did_you_mean

COSTS = ("latency", "flops", "params")
"""Quantities of the whole model, as ratios to the original or in units."""

_UNITS = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "flops": {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12},
    "params": {"k": 1e3, "m": 1e6, "g": 1e9},
    "kl": {},
    "agreement": {},
    "sites": {},
}
_WITH_UNIT = {"latency": "12ms", "flops": "2G", "params": "5M"}
_RATIO = {"": 1.0, "x": 1.0, "%": 0.01}
_SENSE = {**dict.fromkeys((*COSTS, "kl"), "<="), "agreement": ">="}
_EXAMPLE = "latency<=0.8, flops<=2G, params<=110%, kl<=0.1, agreement>=90%, sites>=4"
_BOUND = re.compile(r"([A-Za-z]+)\s*(<=|>=|≤|≥|==|=|<|>)\s*([0-9.eE+-]*[0-9.])\s*([A-Za-z%]*)")
_LARGEST_RATIO = 100
NOISE = 0.02
"""Share by which a measured latency may exceed its bound: two timings of one model differ so."""


@dataclass(frozen=True)
class Bound:
    """One bound of a budget."""

    quantity: str
    """``latency``, ``flops``, ``params``, ``kl``, ``agreement`` or ``sites``."""
    sense: str
    """``<=`` or ``>=``."""
    value: float
    """A ratio to the original, milliseconds, a count, nats, or a share."""
    is_ratio: bool = False
    """Whether ``value`` is a ratio to the original, or a share of the candidates for ``sites``."""
    is_implied: bool = False
    """Whether the recipe asks for it: it holds as well, and does not decide what is best."""

    @property
    def key(self) -> str:
        """The measurement that is bounded: ``latency_ratio``, ``flops``, ``kl``."""
        return f"{self.quantity}_ratio" if self.is_ratio else self.quantity

    def excess(self, values: Mapping[str, float | None]) -> float:
        """By how much measurements miss this bound; 0 or less if they meet it.

        What was not measured counts as missed by infinity.
        """
        value = values.get(self.key)
        if value is None or math.isnan(value):
            return math.inf
        return value - self.value if self.sense == "<=" else self.value - value

    def is_met(self, values: Mapping[str, float | None], slack: float = 0.0) -> bool:
        """Whether measurements meet it, a latency within the share ``slack``."""
        allowed = slack * self.value if self.quantity == "latency" else 0.0
        return self.excess(values) <= allowed + 1e-9 * max(1.0, abs(self.value))

    def __str__(self) -> str:
        return f"{self.quantity}{self.sense}{self.text_of(self.value)}"

    def text_of(self, value: float | None) -> str:
        """A value of this quantity as the budget writes it."""
        if value is None:
            return "not known"
        if self.quantity == "agreement" or (self.quantity == "sites" and self.is_ratio):
            return f"{100 * value:.3g}%"
        if self.is_ratio:
            return f"{value:.3g}"
        if self.quantity == "latency":
            return f"{value:.3g}ms"
        if self.quantity in COSTS:
            unit, size = next(((u, s) for u, s in _SHORT if abs(value) >= s), ("", 1.0))
            return f"{value / size:.3g}{unit}"
        return f"{value:.3g}"


_SHORT = (("G", 1e9), ("M", 1e6), ("k", 1e3))

Budget = tuple[Bound, ...]


def parse_budget(texts: Iterable[str]) -> Budget:
    """Read bounds, each text one or several with commas between them.

    Costs (``latency``, ``flops``, ``params``) are ratios to the original (``0.8``, ``0.8x``,
    ``80%``) or absolute (``12ms``, ``2G``, ``5M``), and bounded from above, as ``kl`` in nats is.
    ``agreement`` is a share, bounded from below. ``sites`` is how many layers are swapped, or a
    share of the candidates in percent, bounded from either side.

    Raises:
        InputError: a bound cannot be read, or two bound the same.
    """
    found: list[Bound] = []
    for text in texts:
        for part in filter(None, map(str.strip, text.split(","))):
            for bound in _parse(part):
                if any(_same(bound, other) for other in found):
                    raise InputError(f"--budget {part}: {bound.quantity} is bounded twice")
                found.append(bound)
    if not found:
        raise InputError(f"--budget is empty; bounds are such as {_EXAMPLE}")
    return tuple(found)


def misses(
    budget: Iterable[Bound], values: Mapping[str, float | None], slack: float = 0.0
) -> list[str]:
    """The bounds that measurements miss, each with what was measured."""
    return [
        f"{bound} ({bound.text_of(values.get(bound.key))})"
        for bound in budget
        if not bound.is_met(values, slack)
    ]


def _same(one: Bound, other: Bound) -> bool:
    return (one.quantity, one.sense) == (other.quantity, other.sense)


def _parse(text: str) -> list[Bound]:
    match = _BOUND.fullmatch(text)
    if match is None:
        raise InputError(f"--budget {text}: expected NAME<=NUMBER, such as {_EXAMPLE}")
    quantity, sense, number, unit = match.groups()
    quantity = quantity.lower()
    if quantity not in _UNITS:
        near = did_you_mean(quantity, _UNITS, otherwise=f"; there is {', '.join(_UNITS)}")
        raise InputError(f"--budget {text}: unknown quantity {quantity!r}{near}")
    sense = {"≤": "<=", "≥": ">=", "==": "="}.get(sense, sense)
    wanted = _SENSE.get(quantity)
    if sense in "<>" or (wanted and sense != wanted) or (not wanted and sense not in "<=>="):
        raise InputError(f"--budget {text}: write {quantity}{wanted or '>='}{number}{unit}")
    value, is_ratio = _value(text, quantity, number, unit)
    senses = ("<=", ">=") if sense == "=" else (sense,)
    return [Bound(quantity, one, value, is_ratio) for one in senses]


def _value(text: str, quantity: str, number: str, unit: str) -> tuple[float, bool]:
    """The number of a bound, and whether it is a ratio.

    Raises:
        InputError: it is not a number that makes sense of this quantity.
    """
    try:
        value = float(number)
    except ValueError:
        raise InputError(f"--budget {text}: {number!r} is not a number") from None
    if not math.isfinite(value) or value < 0:
        raise InputError(f"--budget {text}: expected a number from 0")
    absolute, unit = _UNITS[quantity], unit.lower()
    is_cost = quantity in COSTS
    if unit in absolute:
        return value * absolute[unit], False
    if unit not in ("", "%") and not (unit == "x" and is_cost):
        known = [*absolute, *(["x"] if is_cost else []), *([] if quantity == "kl" else ["%"])]
        units = f"; units are {', '.join(known)}" if known else "; it has no unit"
        raise InputError(f"--budget {text}: unknown unit {unit!r}{units}")
    if unit == "%" and quantity == "kl":
        raise InputError(f"--budget {text}: kl is in nats, without a unit")
    value *= _RATIO[unit]
    if is_cost and not 0 < value <= _LARGEST_RATIO:
        raise InputError(
            f"--budget {text}: without a unit it is a ratio to the original, above 0 and at most "
            f"{_LARGEST_RATIO}; an absolute number has a unit, such as {_WITH_UNIT[quantity]}"
        )
    if (quantity == "agreement" or unit == "%") and not is_cost and not 0 <= value <= 1:
        raise InputError(f"--budget {text}: a share is from 0 to 1, or from 0% to 100%")
    if quantity == "sites" and unit == "" and value != round(value):
        raise InputError(f"--budget {text}: sites are counted; write 50% for half of them")
    return value, is_cost or (quantity == "sites" and unit == "%")
