"""A sweep's results as a page: the answer first, then every point, then how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dcnify.ablate.points import level_text
from dcnify.ablate.results.factor_page import factor_sections
from dcnify.ablate.results.outcome import Results
from dcnify.ablate.results.points import PointResult
from dcnify.ablate.results.quantities import ALL, Measured, signed
from dcnify.ablate.state.record import AblationRecord
from dcnify.ablate.state.store import DONE
from dcnify.report.chart import Axis, Chart, Series
from dcnify.report.quantity import COUNT
from dcnify.report.view import (
    Cell,
    Column,
    Fact,
    Facts,
    Figure,
    Mark,
    Page,
    Part,
    Section,
    Spread,
    Table,
    Text,
)

PARETO = "pareto-{}.svg"
"""Pictures beside the page, one for each cost."""
_MOST_COLUMNS, _BASE = 6, "base"


def page_of(found: Results) -> Page:
    """Everything as one page."""
    record = found.record
    sections = [
        Section("Answer", tuple(_answer(found))),
        Section("Points", tuple(_points(found))),
        *_pareto(found),
        *factor_sections(found),
        *_troubles(found),
        Section("How it was measured", tuple(_setting(record))),
    ]
    lead = record.description or f"Variants of {record.setting['recipe_name']}."
    return Page(f"Ablation {record.sweep}", lead, tuple(sections))


def _answer(found: Results) -> Iterator[Part]:
    for line in found.missing:
        yield Text(line, "warning")
    if found.uninformative:
        words = "The output says little about the new layers, so it does not decide:"
        yield Text(f"{words} {found.uninformative}", "warning")
    if found.best is None or found.objective is None:
        yield Text("Nothing was measured yet.")
        return
    decides = ALL[found.objective]
    value = Spread(found.best.means[decides.name], found.best.spreads.get(decides.name))
    facts = [
        Fact(f"best {decides.title}", value, decides.quantity),
        Fact("at", found.label(found.best)),
    ]
    base = found.points[found.record.base]
    if decides.name in base.means and base is not found.best:
        facts.append(
            Fact(
                f"{decides.title} of the base",
                Spread(base.means[decides.name], base.spreads.get(decides.name)),
                decides.quantity,
            )
        )
    effect = found.effects
    if effect and effect.importance:
        most = max(effect.importance, key=lambda path: effect.importance[path])
        facts.append(Fact("what matters most", found.names[most]))
    yield Facts(tuple(facts))


def _points(found: Results) -> Iterator[Part]:
    paths = found.record.paths
    shown = _columns(found)
    differs = found.objective if len(found.points) > 1 else None
    columns = [Column("point"), *(Column(found.names[path]) for path in paths)]
    for one in shown:
        columns.append(Column(one.title, one.quantity))
        if one.name == differs:
            columns += [Column("from the base", signed(one)), Column("95% interval")]
    columns.append(Column("seeds", COUNT))
    rows = [tuple(_row(found, point, shown, differs)) for point in _ranked(found)]
    yield Table(tuple(columns), tuple(rows))
    if differs and len(found.record.seeds) > 1:
        yield Text(
            "Means and standard deviations over seeds. Differences are taken seed by seed; where "
            "the interval holds zero, a point and the base cannot be told apart.",
            "note",
        )


def _row(
    found: Results, point: PointResult, shown: Sequence[Measured], differs: str | None
) -> Iterator[Cell]:
    name = _name(found, point)
    yield Mark(name, "muted") if name == _BASE else name
    for path in found.record.paths:
        yield level_text(point.changes[path]) if path in point.changes else ""
    for one in shown:
        mean, around = point.means.get(one.name), point.spreads.get(one.name)
        yield None if mean is None else Spread(mean, around) if around else mean
        if one.name == differs:
            difference = point.differences.get(differs)
            yield difference.mean if difference else None
            yield _interval(point, one)
    yield point.done


def _name(found: Results, point: PointResult) -> str:
    """What tables and plots call a point."""
    return _BASE if point.index == found.record.base else str(point.index)


def _interval(point: PointResult, one: Measured) -> Cell:
    difference = point.differences.get(one.name)
    if difference is None or difference.low is None or difference.high is None:
        return None
    quantity = signed(one)
    text = f"{quantity.text(difference.low)} to {quantity.text(difference.high)}"
    if difference.low <= 0 <= difference.high:
        return Mark(text, "muted")
    return Mark(text, "good" if (difference.low > 0) == one.higher_is_better else "bad")


def _columns(found: Results) -> list[Measured]:
    """The quantities of the table: the objective, the costs, then the rest."""
    first = [found.objective, *found.costs] if found.objective else found.costs
    names = dict.fromkeys((*first, *(n for n in found.measured if n != "seconds"), "seconds"))
    return [ALL[name] for name in names if name in found.measured][:_MOST_COLUMNS]


def _ranked(found: Results) -> list[PointResult]:
    """Points by their objective, the best first; then those without."""
    name = found.objective
    having = [one for one in found.points if name in one.means]
    if name is not None:
        having.sort(key=lambda one: one.means[name], reverse=ALL[name].higher_is_better)
    return having + [one for one in found.points if name not in one.means]


def _pareto(found: Results) -> Iterator[Section]:
    if found.objective is None:
        return
    gain = ALL[found.objective]
    for name in found.costs:
        cost, kept = ALL[name], found.front(name)
        others = [one for one in found.points if one not in kept]
        series = (
            _cloud("other points", others, name, gain.name),
            _cloud("best at their cost", kept, name, gain.name, "stairs", found),
        )
        words = f"{len(kept)} of {len(found.points)} points are the best at their {cost.title}"
        columns = (
            Column(f"{cost.title} up to", cost.quantity),
            Column(gain.title, gain.quantity),
            Column("point"),
            Column("recipe", code=True),
        )
        rows = tuple(
            (one.means[name], one.means[gain.name], found.label(one), f"recipes/{name}-{i}.yaml")
            for i, one in enumerate(kept, 1)
        )
        axes = Axis(cost.title, cost.quantity), Axis(gain.title, gain.quantity)
        chart = Chart(*axes, tuple(one for one in series if one.x))
        figure = Figure((chart,), _reading(found), words, PARETO.format(name))
        title = f"{gain.title[0].upper()}{gain.title[1:]} against {cost.title}"
        yield Section(title, (figure, Table(columns, rows)))


def _reading(found: Results) -> str:
    """How the plots of points are read."""
    told = "Below the line, another point is better or cheaper; its numbers are those of the table."
    seeds = " Bars reach one standard deviation over seeds." if len(found.record.seeds) > 1 else ""
    return told + seeds


def _cloud(
    name: str,
    points: Sequence[PointResult],
    x: str,
    y: str,
    style: str = "points",
    found: Results | None = None,
) -> Series:
    having = [one for one in points if x in one.means and y in one.means]
    return Series(
        name,
        tuple(one.means[x] for one in having),
        tuple(one.means[y] for one in having),
        style,  # type: ignore[arg-type]  # one of its literals
        around=tuple(one.spreads.get(y) or 0.0 for one in having),
        labels=tuple(_name(found, one) if found else "" for one in having),
    )


def _troubles(found: Results) -> Iterator[Section]:
    rows = tuple(
        (found.label(point), trial.seed, trial.state, trial.error)
        for point in found.points
        for trial in point.trials
        if trial.state != DONE
    )
    if rows:
        columns = Column("point"), Column("seed", COUNT), Column("state"), Column("why")
        yield Section("What is missing", (Table(columns, rows),))


def _setting(record: AblationRecord) -> Iterator[Part]:
    run = record.setting["run"]
    facts = [
        Fact("source", run["source"]["source"], code=True),
        Fact("weights", (record.setting["source_sha256"] or "")[:12], code=True),
        Fact("recipe", record.setting["recipe_name"], code=True),
        Fact("measured", ", ".join(record.measure)),
        Fact("seeds", ", ".join(map(str, record.seeds))),
        Fact("dcnify", record.version),
    ]
    where = run["data"]["data"] or run["images"]["images"]
    if where:
        facts.insert(3, Fact("images", where, code=True))
    changes = record.setting["changes"]
    facts += [Fact(path, level_text(value), code=True) for path, value in changes.items()]
    yield Facts(tuple(facts))
