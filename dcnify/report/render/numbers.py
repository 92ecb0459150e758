"""The numbers that a chart draws, as a table: what the picture says to those who cannot see it."""

from __future__ import annotations

from dcnify.report.chart import Chart
from dcnify.report.view import Cell, Column, Spread, Table


def numbers(chart: Chart) -> Table:
    """A row for each named place with a column for each series; else a row for each point."""
    for names, along in ((chart.y, chart.x), (chart.x, chart.y)):
        if names.names:
            return _by_name(
                chart, names.names, names is chart.y, Column(along.title, along.quantity)
            )
    labelled = any(series.labels for series in chart.series)
    columns = [Column("series"), Column(chart.x.title, chart.x.quantity)]
    columns.append(Column(chart.y.title, chart.y.quantity))
    rows: list[tuple[Cell, ...]] = []
    for series in chart.series:
        for index, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
            label = series.labels[index] if series.labels else ""
            cell = Spread(y, series.around[index]) if series.around else y
            rows.append((*((label,) if labelled else ()), series.name, x, cell))
    rows += [(*(("",) if labelled else ()), name, None, value) for name, value in chart.levels]
    return Table((*((Column("point"),) if labelled else ()), *columns), tuple(rows))


def _by_name(chart: Chart, names: tuple[str, ...], upright: bool, along: Column) -> Table:
    columns = [Column("")]
    found: list[dict[int, Cell]] = []
    for series in chart.series:
        columns.append(Column(series.name or along.title, along.quantity))
        places, values = (series.y, series.x) if upright else (series.x, series.y)
        around = series.around or (None,) * len(values)
        pairs = zip(places, values, around, strict=True)
        found.append({int(at): value if s is None else Spread(value, s) for at, value, s in pairs})
    rows = [(name, *(one.get(at) for one in found)) for at, name in enumerate(names)]
    return Table(tuple(columns), tuple(rows))
