"""The report of a run as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dcnify.recipe import Recipe
from dcnify.report import accuracy_table, fidelity_chart, percent, training_charts
from dcnify.report.quantity import COSINE, COUNT, DECIBEL, MICROSECONDS_IN_MS
from dcnify.report.view import Column, Fact, Facts, Figure, Mark, Page, Part, Section, Table, Text

_PERCENTILES = ("p20", "p50", "p80")


def page(
    recipe: Recipe, source: str, told: Mapping[str, Any], metrics: Path, pictures: Mapping[str, str]
) -> Page:
    """Describe a run: accuracies, timings, layers.

    Args:
        recipe: what was run.
        source: the name of the original.
        told: the content of ``report.json``.
        metrics: ``metrics.jsonl`` of the fine-tuning.
        pictures: files beside the page: ``fidelity`` and ``curve``.
    """
    return Page(
        f"{recipe.name}: {source}",
        recipe.description,
        (
            Section("Accuracy", tuple(_accuracy(told["finetune"], metrics, pictures))),
            Section("Time", tuple(timing(told["bench"]))),
            Section("Layers", tuple(_layers(told["conversion"], pictures))),
        ),
    )


def _accuracy(
    tuned: Mapping[str, Any], metrics: Path, pictures: Mapping[str, str]
) -> Iterator[Part]:
    yield accuracy_table(tuned)
    yield Text(f"Trained for {tuned['seconds']:.0f} s on {tuned['data']}.")
    if tuned["best_artifact"]:
        yield Text(f"The best, {percent(tuned['best'])} at {tuned['best_at']}, is kept as well.")
    if tuned["skipped"]:
        yield Text(f"{len(tuned['skipped'])} images could not be read.")
    yield Figure(
        charts=training_charts(metrics),
        caption="Loss of the training, and what its validations measured",
        alt="The loss and the validations, step by step",
        file=pictures.get("curve", ""),
    )


def timing(bench: Mapping[str, Any]) -> Iterator[Part]:
    """What was timed of the original and the converted model."""
    (forward,) = bench["passes"]
    yield Table(
        (Column("model"), *(Column(name, MICROSECONDS_IN_MS) for name in _PERCENTILES)),
        tuple(
            (name, *(one[f"{key}_us"] for key in _PERCENTILES))
            for name, one in forward["timings"].items()
        ),
    )
    shape = "x".join(map(str, bench["shape"]))
    machine, speedup = bench["machine"], forward["speedup"]
    yield Text(
        f"The converted model is {speedup['p50']:.2f} times as fast as the original "
        f"(p20 {speedup['p20']:.2f}, p80 {speedup['p80']:.2f}), for {shape} in {bench['dtype']} on "
        f"{machine['device_name']} ({machine['threads']} threads, torch {machine['torch']})."
    )


def _layers(conversion: Mapping[str, Any], pictures: Mapping[str, str]) -> Iterator[Part]:
    before, after = conversion["parameters"]
    yield Facts((Fact("parameters before", before, COUNT), Fact("after", after, COUNT)))
    columns = (
        Column("layer", code=True),
        Column("SQNR", DECIBEL),
        Column("cosine", COSINE),
        Column("kept"),
    )
    yield Table(columns, tuple(_layer(site) for site in conversion["sites"]))
    yield Text("Layers right after the conversion, given what the old ones were given.")
    yield Figure(
        charts=(fidelity_chart(conversion),),
        caption="How close each new layer is to the one it replaced",
        alt="A bar for each layer and step of its init",
        file=pictures.get("fidelity", ""),
    )


def _layer(site: Mapping[str, Any]) -> tuple[Any, ...]:
    sqnr = float("inf") if site["sqnr_db"] is None else site["sqnr_db"]
    note = Mark("reverted", "bad") if site.get("reverted") else "new layer"
    return site["path"], sqnr, site["cosine"], note
