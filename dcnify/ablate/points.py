"""From a sweep's factors to its points: combinations, conditions, samples."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcnify.ablate.sweep import Sweep
from dcnify.errors import InputError

MOST = 100_000
"""Points of one sweep."""


@dataclass(frozen=True)
class Point:
    """One combination of values."""

    values: dict[str, Any]
    """By path in the recipe."""
    at: tuple[str | int, ...]
    """Where the sweep says so: ``("factors",)``, ``("points", 3)`` or ``("base",)``."""

    @property
    def key(self) -> str:
        """Equal for points with the same values."""
        return json.dumps(self.values, sort_keys=True, default=list)


def expand(sweep: Sweep) -> tuple[list[Point], Point]:
    """The points of a sweep, each once and always in the same order, and the one to compare with.

    Raises:
        InputError: there are too many or none, a condition drops nothing, or the sample is larger
            than what it is drawn from.
    """
    points = {one.key: one for one in _combinations(sweep)}
    for i, values in enumerate(sweep.points):
        one = Point(dict(values), ("points", i))
        points.setdefault(one.key, one)
    base = Point(_base_values(sweep), ("base",) if sweep.base else ("factors",))
    if not points:
        raise InputError(f"{sweep.origins.prefix(('drop',))}drop leaves no point to try")
    if _is_dropped(sweep, base.values) and sweep.base is not None:
        raise InputError(f"{sweep.origins.prefix(('base',))}base is one of the points dropped")
    if _is_dropped(sweep, base.values):
        base = next(iter(points.values()))
    points.setdefault(base.key, base)
    return list(points.values()), points[base.key]


def _base_values(sweep: Sweep) -> dict[str, Any]:
    first = {path: levels[0] for path, levels in sweep.factors.items()}
    if sweep.base is None and not sweep.factors:
        return dict(sweep.points[0])
    return {**first, **(sweep.base or {})}


def _combinations(sweep: Sweep) -> Iterator[Point]:
    if not sweep.factors:
        return
    sizes = [len(levels) for levels in sweep.factors.values()]
    total = math.prod(sizes)
    where = sweep.origins.prefix(("factors",))
    if sweep.sample is None and total > MOST:
        raise InputError(f"{where}{total:,} combinations: try some of them, such as 'sample: 1000'")
    dropped = [0] * len(sweep.drop)
    if sweep.sample is None:
        yield from (point for _number, point in _kept(sweep, range(total), dropped))
    else:
        yield from _sampled(sweep, total, dropped)
    for i, count in enumerate(dropped):
        if not count and sweep.sample is None:
            place = sweep.origins.prefix(("drop", i))
            raise InputError(f"{place}drops nothing: no combination has these values")


def _sampled(sweep: Sweep, total: int, dropped: list[int]) -> Iterator[Point]:
    """A random part of the combinations in their own order."""
    wanted = sweep.sample or 0
    drawn = random.Random(0)
    count = min(total, max(MOST, 20 * wanted))
    indices: Sequence[int] = range(total)
    if total > count:  # and perhaps larger than a range may be
        indices = list(dict.fromkeys(drawn.randrange(total) for _ in range(count)))
    kept = sorted(_kept(sweep, indices, dropped), key=lambda one: one[0])
    if wanted > len(kept):
        where = sweep.origins.prefix(("sample",))
        raise InputError(f"{where}there are only {len(kept)} combinations to sample from")
    chosen = sorted(drawn.sample(range(len(kept)), wanted))
    yield from (kept[i][1] for i in chosen)


def _kept(sweep: Sweep, indices: Sequence[int], dropped: list[int]) -> Iterator[tuple[int, Point]]:
    """The combinations of these numbers without those to drop; the last factor changes fastest."""
    paths, levels = list(sweep.factors), list(sweep.factors.values())
    for number in indices:
        values, index = dict[str, Any](), number
        for path, some in zip(reversed(paths), reversed(levels), strict=True):
            index, choice = divmod(index, len(some))
            values[path] = some[choice]
        values = {path: values[path] for path in paths}
        hit = [i for i, one in enumerate(sweep.drop) if matches(values, one)]
        for i in hit:
            dropped[i] += 1
        if not hit:
            yield number, Point(values, ("factors",))


def _is_dropped(sweep: Sweep, values: Mapping[str, Any]) -> bool:
    return any(matches(values, one) for one in sweep.drop)


def matches(values: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    """Whether a point has every value of a condition; a list there is any of its values."""
    return all(
        path in values
        and (
            values[path] == wanted or (isinstance(wanted, list | tuple) and values[path] in wanted)
        )
        for path, wanted in condition.items()
    )


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The shortest ends of paths that tell them apart, such as ``kernel_size``, ``recover.lr``."""
    names = {}
    for path in paths:
        parts = path.split(".")
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[-length:])
            same = [p for p in paths if p == name or p.endswith(f".{name}")]
            if len(same) == 1 and not name.split(".")[0].isdecimal():
                break
        names[path] = name
    return names


def level_text(value: Any) -> str:
    """A value as its author would write it in YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {level_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(level_text, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)
