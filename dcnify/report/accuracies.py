"""The accuracies of a fine-tuning in words; without labels, its closeness to the original."""

from collections.abc import Mapping
from typing import Any

MEASURES = ("accuracy", "agreement", "cosine")
"""Names of `dcnify.finetune.score.Score.measure`."""
_WORDS = {"kl": "KL divergence", "relative_error": "relative error"}


def accuracy_table(summary: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: the original, the converted model, and the model after each stage.

    Without labels the original is what the others are compared with, and has no row.
    """
    measure = summary.get("measure", "accuracy")
    values = {name: summary[name] for name in ("original", "converted")}
    values |= {f"after {stage}": value for stage, value in summary["stages"].items()}
    if measure == "accuracy":
        return ("model", ">accuracy"), [(name, percent(one)) for name, one in values.items()]
    del values["original"]
    distance, apart = summary["distance"], summary["distances"]
    rows: list[tuple[str, ...]] = [
        (name, shown(measure, one), shown(distance, apart[name.removeprefix("after ")]))
        for name, one in values.items()
    ]
    return ("model", f">{measure}", f">{words(distance)}"), rows


def words(measure: str) -> str:
    """The name of a measure for people."""
    return _WORDS.get(measure, measure)


def shown(measure: str, value: float) -> str:
    """``88.4%`` for a share of images, ``0.1234`` for anything else."""
    return percent(value) if measure in ("accuracy", "agreement") else f"{value:.4f}"


def percent(value: float | None) -> str:
    """``88.4%``."""
    return "not measured" if value is None else f"{value:.1%}"
