"""The study's rows as CSV files, as tables, and as a plot of the way back."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import timm
import torch

from dcnify.bench.machine import describe
from inherit_study.conversions import METHODS, SITES
from inherit_study.models import SUBJECTS
from inherit_study.training import LOOK_EVERY
from inherit_study.variants import AS_IT_IS, VARIANTS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SITES_LEVEL, LEVEL_HEAD = "sites' mean SQNR dB", "SQNR of layers, dB"
RESULTS = Path(__file__).parents[2] / "docs" / "results"


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Write what there is, and print it as docs/inherit.md has it."""
    rows = sorted(rows, key=_place)
    kept = [row for row in rows if "retention" in row and "variant" not in row]
    varied = [row for row in rows if "variant" in row]
    back = [row for row in rows if "curve" in row]
    spent = [row for row in rows if "CPU seconds" in row]
    _csv(kept, RESULTS / "inherit.csv")
    _csv(
        [{k: v for k, v in row.items() if k != "curve"} for row in back],
        RESULTS / "inherit-back.csv",
    )
    _csv(varied, RESULTS / "inherit-variants.csv")
    _csv(spent, RESULTS / "inherit-seconds.csv")
    for sites in SITES:
        _say(f"{sites} of the layers", _kept([row for row in kept if row["sites"] == sites]))
    _say("steps of training with labels, by seed", _back(back))
    _say("other ways", _varied(varied))
    _say("steps of calibration", _spent(spent))
    if back:
        _plot(back, RESULTS / "inherit-back.svg")


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """As the tables are ordered."""
    subjects = [subject.name for subject in SUBJECTS]
    variant = list(VARIANTS).index(row["variant"]) if "variant" in row else 0
    method = row.get("method") or row.get("start")
    start = list(METHODS).index(method) if method else row["layer steps"] + row["model steps"]
    return subjects.index(row["subject"]), variant, row.get("sites", ""), start, row["seed"]


def _csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    if not rows:
        return
    date = datetime.now(UTC).isoformat(timespec="seconds")
    machine = {"date": date, **asdict(describe(torch.device("cpu"))), "timm": timm.__version__}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*machine, *rows[0]], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            short = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(machine | short)


def _groups(
    rows: Iterable[dict[str, Any]], *keys: str
) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _say(title: str, rows: Iterable[Sequence[str]]) -> None:
    """Print a table as docs/inherit.md has it."""
    head, *body = rows
    print(f"\n{title}:\n")
    for row in (head, ["---"] * len(head), *body):
        print(f"| {' | '.join(row)} |")


def _kept(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    yield "model", "start", "seeds", "original", "zeroed", "converted", "retention", LEVEL_HEAD
    for (subject, method), some in _groups(rows, "subject", "method").items():
        accuracies = [_percent(some, key) for key in ("original", "zeroed", "accuracy")]
        if method == list(METHODS)[-1]:
            accuracies[-1] = f"**{accuracies[-1]}**"
        yield (
            subject,
            method,
            str(len(some)),
            *accuracies,
            _spread(row["retention"] for row in some),
            _mean(some, SITES_LEVEL, ".1f"),
        )


def _varied(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    yield "changed", "accuracy by seed", "against as it is", "retention", LEVEL_HEAD, "seconds"
    groups = {variant: some for (variant,), some in _groups(rows, "variant").items()}
    usual = {row["seed"]: row["accuracy"] for row in groups.get(AS_IT_IS, ())}
    for variant, some in groups.items():
        apart = (f"{100 * (row['accuracy'] - usual[row['seed']]):+.1f}" for row in some)
        yield (
            variant,
            ", ".join(f"{100 * row['accuracy']:.1f}" for row in some),
            "" if variant == AS_IT_IS else " ".join(apart),
            _mean(some, "retention", ".2f"),
            _mean(some, SITES_LEVEL, ".1f"),
            _mean(some, "seconds", ".0f"),
        )


def _back(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    yield "model", "start", "within 5 points of the original", "within 2", "within 1"
    for (subject, start), some in _groups(rows, "subject", "start").items():
        near = (
            ", ".join(str(_steps_to(row, row["original"] - share)) for row in some)
            for share in (0.05, 0.02, 0.01)
        )
        yield subject, start, *near


def _spent(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    steps = ("layer steps", "model steps")
    yield "model", *steps, "seeds", "original", "converted", "agreement", "KL", "CPU seconds"
    rows = sorted(rows, key=lambda row: row["CPU seconds"])
    groups = _groups(sorted(rows, key=lambda row: row["subject"]), "subject", *steps)
    for (subject, *taken), some in groups.items():
        yield (
            subject,
            *map(str, taken),
            str(len(some)),
            *(_percent(some, key) for key in ("original", "accuracy", "agreement")),
            _mean(some, "KL", ".2f"),
            _mean(some, "CPU seconds", ".0f"),
        )


def _steps_to(row: dict[str, Any], wanted: float) -> int | None:
    """The steps after which the accuracy is first as good; None if it never is."""
    looks = (look for look, reached in enumerate(row["curve"]) if reached >= wanted)
    look = next(looks, None)
    return None if look is None else look * LOOK_EVERY


def _percent(rows: Sequence[dict[str, Any]], key: str) -> str:
    return f"{100 * statistics.mean(row[key] for row in rows):.1f}"


def _mean(rows: Sequence[dict[str, Any]], key: str, form: str) -> str:
    return f"{statistics.mean(row[key] for row in rows):{form}}"


def _spread(values: Iterable[float]) -> str:
    some = list(values)
    mean, low, high = (
        f"{value:.2f}".replace("-0.00", "0.00")
        for value in (statistics.mean(some), min(some), max(some))
    )
    return mean if low == high else f"{mean} ({low} to {high})"


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    figure, axes = plt.subplots(
        1, len(subjects), figsize=(3.2 * len(subjects), 3), sharey=True, squeeze=False
    )
    starts = list(dict.fromkeys(row["start"] for row in rows))
    for axis, subject in zip(axes[0], subjects, strict=True):
        for row in rows:
            if row["subject"] != subject:
                continue
            steps = [LOOK_EVERY * look for look in range(len(row["curve"]))]
            colour = f"C{starts.index(row['start'])}"
            label = row["start"] if row["seed"] == 0 else None
            axis.plot(steps, row["curve"], colour, label=label, linewidth=1)
        axis.set(title=subject, xlabel="steps of training", ylim=(0, 1), xscale="symlog")
    axes[0][0].set_ylabel("accuracy")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
