"""An artifact as a page: what was swapped, how close it is, how it was trained, and its origin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dcnify.artifact import Artifact, read_artifact
from dcnify.artifact.layout import TRAINING
from dcnify.artifact.record import is_artifact
from dcnify.errors import InputError
from dcnify.report.accuracies import accuracy_table, percent, shown
from dcnify.report.fidelity_plot import fidelity_chart
from dcnify.report.measured import measured_in
from dcnify.report.network import network_of
from dcnify.report.origin import origin
from dcnify.report.plan_tables import plan_tables
from dcnify.report.quantity import (
    COSINE,
    COUNT,
    DECIBEL,
    KL,
    PERCENT,
    RELATIVE_ERROR,
    change,
)
from dcnify.report.training_curve import training_charts
from dcnify.report.view import (
    Cell,
    Code,
    Column,
    Fact,
    Facts,
    Figure,
    Mark,
    Page,
    Part,
    Section,
    Table,
    Text,
)
from dcnify.surgery.plan import Plan
from dcnify.surgery.result import OutputRequirement
from dcnify.surgery.table import module_label, requirement_text

__all__ = ["artifact_page", "is_artifact", "read_artifact_page"]

METRICS = "metrics.jsonl"
NO_PICTURES: Mapping[str, str] = {}
OUTPUT = (
    ("top1_agreement", "top-1 agreement", PERCENT),
    ("cosine", "cosine", COSINE),
    ("kl", "KL divergence", KL),
    ("sqnr_db", "SQNR", DECIBEL),
    ("relative_error", "relative error", RELATIVE_ERROR),
    ("original_accuracy", "accuracy of the original", PERCENT),
    ("accuracy", "accuracy", PERCENT),
)


def artifact_page(
    record: Artifact,
    *,
    title: str = "",
    lead: str = "",
    time: Sequence[Part] = (),
    pictures: Mapping[str, str] = NO_PICTURES,
) -> Page:
    """Describe an artifact from its own files; nothing is loaded or measured.

    Args:
        record: what `dcnify.artifact.read_artifact` returned.
        title: by default the recipe and the base.
        lead: a sentence under the title.
        time: what was timed of it.
        pictures: files beside the page that show ``fidelity`` and ``curve``.

    Raises:
        InputError: a file of it was edited into something that dcnify does not write.
    """
    report, plan = record.report, record.plan
    parts: dict[str, Callable[[], Iterable[Part]]] = {
        "Summary": lambda: summary(record),
        "Network": lambda: network(record),
        "Output": lambda: output(report),
        "Layers": lambda: layers(plan, report, pictures.get("fidelity", "")),
        "Training": lambda: training(record, pictures.get("curve", "")),
        "Time": lambda: time,
        "Plan": lambda: plan_tables(plan),
        "Recipe": lambda: [Code(record.recipe, name="recipe.yaml")],
        "Origin": lambda: origin(record),
    }
    try:
        sections = [Section(name, tuple(made())) for name, made in parts.items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{record.path}: its report is damaged: {error!r}") from error
    layers_swapped = f"{len(plan.swaps)} layer{'' if len(plan.swaps) == 1 else 's'}"
    return Page(
        title or f"{plan.recipe}: {record.base}",
        lead or f"{layers_swapped} of {record.base} swapped by the recipe {plan.recipe!r}.",
        tuple(one for one in sections if one.parts),
    )


def read_artifact_page(path: Path) -> Page:
    """Describe the artifact at a path; see `artifact_page`."""
    return artifact_page(read_artifact(path))


def conversion_in(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was measured of the conversion, also in the report of a trained artifact."""
    return report if "sites" in report else report.get("conversion") or {}


def summary(record: Artifact) -> Iterator[Part]:
    """The few numbers that say how it went."""
    report, plan = record.report, record.plan
    output = conversion_in(report).get("output") or {}
    before, after = report.get("parameters") or (None, None)
    facts = [
        Fact("layers swapped", len(plan.swaps), COUNT),
        Fact("parameters", change(before, after)),
        Fact("FLOPs", _flops(plan)),
        Fact("agreement after conversion", output.get("top1_agreement"), PERCENT),
    ]
    worse = False
    for tuned in report.get("finetune", ())[-1:]:
        measure = tuned.get("measure", "accuracy")
        start, end = tuned.get("converted"), tuned["finetuned"]
        worse = start is not None and end is not None and end < start
        if measure == "accuracy":
            facts.append(Fact("accuracy of the original", tuned["original"], PERCENT))
        else:  # on the same images as after training
            del facts[-1]
        facts.append(Fact(f"{measure} before training", shown(measure, start)))
        facts.append(Fact(f"{measure} after training", shown(measure, end)))
    yield Facts(tuple(fact for fact in facts if fact.text))
    yield from _requirement(report)
    if worse:
        yield Text("The training ended below where it began.", "warning")
    for warning in report.get("warnings", ()):
        yield Text(str(warning), "warning")


def network(record: Artifact) -> Iterator[Part]:
    """The stages, with what was swapped in them."""
    plan = record.plan
    if plan.swaps or plan.skipped:
        yield network_of(plan, measured_in(conversion_in(record.report))[-1].sqnr_db)
        yield Text("With the SQNR of each new layer: how close it is to the old one.")


def output(report: Mapping[str, Any]) -> Iterator[Part]:
    """How close the output is after each step."""
    conversion = conversion_in(report)
    steps = {one["step"]: one["output"] for one in conversion.get("steps") or ()}
    if conversion.get("output") and conversion["output"] not in steps.values():
        steps["the conversion"] = conversion["output"]
    if not steps:
        return
    known = [one for one in OUTPUT if any(out.get(one[0]) is not None for out in steps.values())]
    columns = (Column("after"), *(Column(words, quantity) for _, words, quantity in known))
    rows = ((name, *(exact(out, key) for key, _, _ in known)) for name, out in steps.items())
    yield Table(columns, tuple(rows))
    images = report.get("images") or {}
    if "count" in images:
        words = f"On {images['count']} images of {images.get('size', '')} ({images['origin']})"
        calibrated = images.get("calibrated_on")
        yield Text(words + (f"; calibrated on {calibrated} others." if calibrated else "."))
    last = conversion.get("output") or {}
    if last.get("uninformative"):
        yield Text(f"The output says little about the new layers: {last['uninformative']}", "note")


def layers(plan: Plan, report: Mapping[str, Any], picture: str = "") -> Iterator[Part]:
    """How close each new layer is to the old one, drawn and in a table."""
    conversion = conversion_in(report)
    sites = conversion.get("sites") or ()
    if not sites:
        return
    planned = {swap.site.path: swap for swap in plan.swaps}
    rows: list[tuple[Cell, ...]] = []
    for site in sites:
        swap = planned.get(site["path"])
        rows.append(
            (
                site["path"],
                exact(site, "sqnr_db"),
                site["cosine"],
                module_label(swap) if swap else Mark("original, put back", "bad"),
                change(swap.site.parameters, swap.parameters) if swap else "",
            )
        )
    columns = (
        Column("layer", code=True),
        Column("SQNR", DECIBEL),
        Column("cosine", COSINE),
        Column("becomes"),
        Column("parameters"),
    )
    chart = fidelity_chart({**report, **conversion})
    yield Figure(
        charts=(chart,),
        caption="How close each new layer is to the one it replaced, given what that was given. "
        "SQNR: power of the old layer's output over that of the difference.",
        alt=_in_words({**report, **conversion}),
        file=picture,
    )
    yield Table(columns, tuple(rows))


def training(record: Artifact, picture: str = "") -> Iterator[Part]:
    """What was reached by each fine-tuning, and the curves of the last."""
    for tuned in record.report.get("finetune", ()):
        yield accuracy_table(tuned)
        yield Text(f"Trained for {tuned['seconds']:.0f} s on {tuned['data']}.")
        if tuned["best_artifact"]:
            best = f"{percent(tuned['best'])} at {tuned['best_at']}"
            yield Text(f"The best, {best}, is kept as well.")
        if tuned["skipped"]:
            yield Text(f"{len(tuned['skipped'])} images could not be read.", "note")
    metrics = record.path / TRAINING / METRICS
    if record.report.get("finetune") and metrics.is_file():
        loss, validation = training_charts(metrics)
        yield Figure(
            charts=(loss, validation),
            caption="Loss of the training, and what its validations measured. Upright lines are "
            "the beginnings of stages.",
            alt=f"The loss over {len(loss.series[0].x)} points, and {len(validation.series[0].x)} "
            "validations.",
            file=picture,
        )


def _requirement(report: Mapping[str, Any]) -> Iterator[Part]:
    require = report.get("require")
    if require:
        asked = OutputRequirement(**require)
        yield Text(f"Required of the output: {requirement_text(asked)}.")


def exact(measured: Mapping[str, Any], key: str) -> float | None:
    """A number of a report, in which null is an infinite SQNR."""
    value = measured.get(key)
    return math.inf if value is None and key == "sqnr_db" and key in measured else value


def _flops(plan: Plan) -> str:
    more = sum(swap.flops - swap.site.flops for swap in plan.swaps)
    return change(plan.model_flops, plan.model_flops + more) if plan.model_flops else ""


def _in_words(report: Mapping[str, Any]) -> str:
    last = measured_in(report)[-1]
    if not last.sqnr_db:
        return "No layer was measured."
    worst = min(last.sqnr_db, key=last.sqnr_db.__getitem__)
    best = max(last.sqnr_db, key=last.sqnr_db.__getitem__)
    low, high = (DECIBEL.with_unit(last.sqnr_db[one]) for one in (worst, best))
    return f"{len(last.sqnr_db)} layers, from {low} at {worst} to {high} at {best}."
