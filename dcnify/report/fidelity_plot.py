"""A conversion's report as a chart: fidelity of each new layer, after each step of its init."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcnify.report.chart import Axis, Chart, Series
from dcnify.report.measured import Measured, measured_in
from dcnify.report.quantity import DECIBEL, Quantity

_BESIDE = Quantity(digits=1, infinite="exact")


def fidelity_chart(
    report: Mapping[str, Any],
    recomputed: Mapping[str, Any] | None = None,
    *,
    outputs: bool = False,
) -> Chart:
    """A group of bars for each layer, one bar a step.

    Args:
        report: the content of ``report.json``; one without ``steps`` is drawn as it ended.
        recomputed: ``sites`` and ``output`` measured again, drawn beside the report's.
        outputs: name each step with the fidelity of the output after it.
    """
    steps = measured_in(report, recomputed)
    layers = tuple(dict.fromkeys(layer for one in steps for layer in one.sqnr_db))
    return Chart(
        x=Axis("SQNR", DECIBEL),
        y=Axis("", names=layers),
        series=tuple(_bars(one, layers, outputs) for one in steps),
        empty="no layer was swapped",
    )


def write_plot(
    report: Mapping[str, Any], path: Path, recomputed: Mapping[str, Any] | None = None
) -> None:
    """Draw `fidelity_chart`, with its outputs, into a file that ends in .png, .svg or .pdf.

    Raises:
        InputError: matplotlib is not installed.
    """
    from dcnify.report.render.drawing import figure_of, save

    save(
        figure_of([fidelity_chart(report, recomputed, outputs=True)], _title(report), width=9), path
    )


def _bars(one: Measured, layers: tuple[str, ...], outputs: bool) -> Series:
    drawn = [(row, layer) for row, layer in enumerate(layers) if layer in one.sqnr_db]
    values = tuple(one.sqnr_db[layer] for _, layer in drawn)
    reverted = frozenset(at for at, (_, layer) in enumerate(drawn) if layer in one.reverted)
    words = (_BESIDE.text(value) for value in values)
    return Series(
        name=f"{one.name}: output {one.output}" if outputs and one.output else one.name,
        x=values,
        y=tuple(float(row) for row, _ in drawn),
        style="bars",
        labels=tuple(f"{w}, reverted" if i in reverted else w for i, w in enumerate(words)),
        faded=reverted,
    )


def _title(report: Mapping[str, Any]) -> str:
    words = "How close each new layer is to the one it replaced: SQNR of its output"
    images = report.get("images")
    if isinstance(images, Mapping) and "count" in images:
        words += f"\non {images['count']} images ({images.get('origin')})"
    return words
