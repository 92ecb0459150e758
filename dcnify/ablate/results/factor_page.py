"""What each factor does, as a section of the page: effects, importance, interactions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dcnify.ablate.results.effects import Effects
from dcnify.ablate.results.outcome import Results
from dcnify.ablate.results.quantities import ALL, signed
from dcnify.report.chart import Axis, Chart, Series
from dcnify.report.quantity import PERCENT
from dcnify.report.view import Column, Figure, Part, Section, Table, Text

EFFECTS = "effects.svg"
"""The picture beside the page."""
_MOST_PAIRS = 3


def factor_sections(found: Results) -> Iterator[Section]:
    """The section about the factors, if any of them varies."""
    effect = found.effects
    if effect is None:
        return
    one = ALL[effect.quantity]
    ordered = sorted(effect.importance, key=lambda path: -effect.importance[path])
    levels = sorted(effect.levels, key=lambda level: _rank(ordered, level.path))
    names = tuple(f"{found.names[level.path]}={level.level}" for level in levels)
    quantity = signed(one)
    lengths = tuple(level.effect for level in levels)
    bars = Series("", lengths, tuple(map(float, range(len(levels)))), "bars")
    chart = Chart(Axis(f"change of the {one.title}", quantity), Axis("", names=names), (bars,))
    parts: list[Part] = [
        Figure(
            (chart,),
            f"Effect of each value on the {one.title}, against the mean of all points",
            ", ".join(
                f"{name} {quantity.text(level.effect)}"
                for name, level in zip(names, levels, strict=True)
            ),
            EFFECTS,
        )
    ]
    if ordered:
        rows = tuple((found.names[path], effect.importance[path]) for path in ordered)
        columns = (Column("factor"), Column("share of the variance", PERCENT))
        parts.append(Table(columns, rows, "Importance, as Optuna's fANOVA estimates it"))
    parts += _together(found, effect)
    yield Section("What each factor does", tuple(parts))


def _rank(ordered: Sequence[str], path: str) -> int:
    return ordered.index(path) if path in ordered else len(ordered)


def _together(found: Results, effect: Effects) -> Iterator[Part]:
    """The factors whose effects do not add up, and what their values do together."""
    one = ALL[effect.quantity]
    for pair in effect.interactions[:_MOST_PAIRS]:
        first, second = (found.names[path] for path in pair.paths)
        columns = [
            Column(first),
            *(Column(f"{second}={level}", one.quantity) for level in pair.levels[1]),
        ]
        rows = [(level, *means) for level, means in zip(pair.levels[0], pair.means, strict=True)]
        caption = (
            f"Mean {one.title} by {first} and {second}: their effects do not add up, "
            f"{PERCENT.text(pair.share)} of the variance"
        )
        yield Table(tuple(columns), tuple(rows), caption)
    if effect.interactions or len({level.path for level in effect.levels}) < 2:
        return
    if effect.untold:
        yield Text("Too few points to tell whether one factor's effect depends on another.", "note")
    else:
        yield Text("The effects add up: none depends much on another factor.", "note")
