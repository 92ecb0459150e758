"""The study's rows as CSV files, as tables, and as a plot of the way back."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import timm
import torch
from rich.console import Console
from rich.table import Table

from dcnify.bench.machine import describe
from inherit_study.conversions import METHODS
from inherit_study.models import SUBJECTS
from inherit_study.training import LOOK_EVERY

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SITES_LEVEL = "sites' mean SQNR dB"
RESULTS = Path(__file__).parents[1] / "results"


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Write what there is, and print it averaged over the seeds."""
    order = [subject.name for subject in SUBJECTS], list(METHODS)
    kept = sorted(
        (row for row in rows if "retention" in row and "variant" not in row),
        key=lambda row: (
            order[0].index(row["subject"]),
            row["sites"],
            order[1].index(row["method"]),
            row["seed"],
        ),
    )
    varied = [row for row in rows if "variant" in row]
    back = [row for row in rows if "curve" in row]
    _csv(kept, RESULTS / "inherit.csv")
    _csv(
        [{k: v for k, v in row.items() if k != "curve"} for row in back],
        RESULTS / "inherit-back.csv",
    )
    _csv(varied, RESULTS / "inherit-variants.csv")
    console = Console(width=140, highlight=False)
    console.print(_kept(kept))
    console.print(_back(back))
    console.print(_varied(varied))
    if back:
        _plot(back, RESULTS / "inherit-back.svg")


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


def _kept(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="What is kept, without labels: mean over seeds (least, most)")
    for name in ("model", "sites", "start", "original", "zeroed", "accuracy", "retention", "SQNR"):
        table.add_column(name)
    for (subject, sites, method), some in _groups(rows, "subject", "sites", "method").items():
        table.add_row(
            subject,
            sites,
            method,
            *(_percent(row[key] for row in some) for key in ("original", "zeroed", "accuracy")),
            _spread(row["retention"] for row in some),
            _spread((row[SITES_LEVEL] for row in some), ".1f"),
        )
    return table


def _varied(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Other ways: mean over seeds")
    for name in ("variant", "seeds", "accuracy", "retention", "mean SQNR of sites", "seconds"):
        table.add_column(name)
    for (variant,), some in _groups(rows, "variant").items():
        means = (
            f"{statistics.mean(row[key] for row in some):{form}}"
            for key, form in (("retention", ".2f"), (SITES_LEVEL, ".1f"), ("seconds", ".0f"))
        )
        seeds = ", ".join(str(row["seed"]) for row in some)
        table.add_row(variant, seeds, _percent(row["accuracy"] for row in some), *means)
    return table


def _back(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Steps of training with labels until the accuracy is near the original's")
    for name in ("model", "start", "within 5 points, by seed", "within 1"):
        table.add_column(name)
    for (subject, start), some in _groups(rows, "subject", "start").items():
        soon = [str(_steps_to(row, row["original"] - 0.05)) for row in some]
        table.add_row(subject, start, ", ".join(soon), ", ".join(str(row["steps"]) for row in some))
    return table


def _steps_to(row: dict[str, Any], wanted: float) -> int | None:
    """The steps after which the accuracy is first as good; None if it never is."""
    looks = (look for look, reached in enumerate(row["curve"]) if reached >= wanted)
    look = next(looks, None)
    return None if look is None else look * LOOK_EVERY


def _percent(values: Iterable[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} %"


def _spread(values: Iterable[float], form: str = ".2f") -> str:
    some = list(values)
    low, mean, high = min(some), statistics.mean(some), max(some)
    return f"{mean:{form}} ({low:{form}}, {high:{form}})"


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
