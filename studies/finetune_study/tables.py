"""The study's rows as a CSV file, as a table, and as curves."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import timm
import torch
from finetune_study.trials import STAGES, SUBJECTS, VARIED
from rich.console import Console
from rich.table import Table

from dcnify.bench.machine import describe

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Write what there is, and print it averaged over the seeds."""
    order = list(SUBJECTS), list(STAGES)
    rows = sorted(
        rows,
        key=lambda row: (
            order[0].index(row["subject"]),
            order[1].index(row["stages"]),
            row["seed"],
        ),
    )
    if not rows:
        return
    date = datetime.now(UTC).isoformat(timespec="seconds")
    machine = {"date": date, **asdict(describe(torch.device("cpu"))), "timm": timm.__version__}
    keys = [key for key in rows[0] if key != "curve"]
    with (RESULTS / "finetune.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*machine, *keys], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = {k: f"{row[k]:.5g}" if isinstance(row[k], float) else row[k] for k in keys}
            writer.writerow(machine | cells)
    Console(width=150, highlight=False).print(_table(rows))
    _plot(rows, RESULTS / "finetune.svg")


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Fine-tuning: means over seeds, and steps by seed")
    for name in (
        "model",
        "layers",
        "stages",
        "seeds",
        "original",
        "converted",
        "fine-tuned",
        "steps (original's)",
        "within one point after, by seed",
    ):
        table.add_column(name)
    for subject in SUBJECTS:
        for stages in STAGES:
            some = [r for r in rows if (r["subject"], r["stages"]) == (subject, stages)]
            if not some:
                continue
            means = (
                f"{100 * statistics.mean(row[key] for row in some):.1f}"
                for key in ("original", "converted", "finetuned")
            )
            soon = (row["within one point after"] for row in some)
            table.add_row(
                subject,
                some[0]["sites"],
                stages,
                str(len(some)),
                *means,
                f"{some[0]['steps']} ({some[0]['trained for']})",
                ", ".join("not" if steps is None else str(steps) for steps in soon),
            )
    return table


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    figure, axes = plt.subplots(1, len(subjects), figsize=(4 * len(subjects), 3.2), squeeze=False)
    for panel, subject in zip(axes[0], subjects, strict=True):
        some = [row for row in rows if row["subject"] == subject]
        for row in (row for row in some if row["stages"] not in VARIED):
            steps, reached = zip((0, row["converted"]), *row["curve"], strict=True)
            label = row["stages"] if row["seed"] == some[0]["seed"] else None
            colour = f"C{list(STAGES).index(row['stages'])}"
            panel.plot(steps, [100 * one for one in reached], colour, label=label, linewidth=1)
        original = 100 * statistics.mean(row["original"] for row in some)
        panel.axhline(original, color="black", linestyle=":", linewidth=1, label="original (mean)")
        panel.set(title=subject, xlabel="steps", ylim=(original - 8, original + 2))
        panel.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("accuracy, percent")
    axes[0][-1].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
