"""The accuracies of a fine-tuning in words; without labels, its closeness to the original."""

from collections.abc import Mapping
from typing import Any

from dcnify.report.quantity import PERCENT, Quantity
from dcnify.report.view import Column, Table

MEASURES = ("accuracy", "agreement", "cosine")
"""Names of `dcnify.finetune.score.Score.measure`."""
_WORDS = {"kl": "KL divergence", "relative_error": "relative error"}
_DISTANCE = Quantity(digits=4)


def accuracy_table(summary: Mapping[str, Any]) -> Table:
    """Rows for the original, the converted model, and the model after each stage.

    Without labels the original is what the others are compared with, and has no row.
    """
    measure = summary.get("measure", "accuracy")
    values = {name: summary[name] for name in ("original", "converted")}
    values |= {f"after {stage}": value for stage, value in summary["stages"].items()}
    model, measured = Column("model"), Column(measure, quantity_of(measure))
    if measure == "accuracy":
        rows = ((name, "not measured" if one is None else one) for name, one in values.items())
        return Table((model, measured), tuple(rows))
    del values["original"]
    distance, apart = summary["distance"], summary["distances"]
    return Table(
        (model, measured, Column(words(distance), quantity_of(distance))),
        tuple((name, one, apart[name.removeprefix("after ")]) for name, one in values.items()),
    )


def quantity_of(measure: str) -> Quantity:
    """``88.4%`` for a share of images, ``0.1234`` for anything else."""
    return PERCENT if measure in ("accuracy", "agreement") else _DISTANCE


def words(measure: str) -> str:
    """The name of a measure for people."""
    return _WORDS.get(measure, measure)


def shown(measure: str, value: float | None) -> str:
    """A value of a measure in words."""
    return "not measured" if value is None else quantity_of(measure).text(value)


def percent(value: float | None) -> str:
    """``88.4%``."""
    return "not measured" if value is None else PERCENT.text(value)
