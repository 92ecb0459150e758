"""The study's rows as a CSV file, and as the tables of docs/inherit.md."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import timm
import torch

from dcnify.bench.machine import describe
from real_weights.conversions import CONVERSIONS, YARDSTICKS
from real_weights.weights import MODELS

FILE = Path(__file__).parents[2] / "docs" / "results" / "real-weights.csv"
_KEYS = (
    *("model", "photographs", "conversion", "images", "agreement", "in top 5", "KL", "cosine"),
    *("output SQNR dB", "layers", "mean SQNR of layers dB", "parameters before", "parameters"),
    *("FLOPs before", "FLOPs", "CPU seconds"),
)


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Write what there is, and print it as docs/inherit.md has it."""
    if not rows:
        return
    rows = sorted(rows, key=_place)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    machine = {"date": date, **asdict(describe(torch.device("cpu"))), "timm": timm.__version__}
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, [*machine, *_KEYS], extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        for row in rows:
            short = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(machine | short)
    for origin in dict.fromkeys(row["photographs"] for row in rows):
        for real in MODELS:
            some = [r for r in rows if (r["photographs"], r["model"]) == (origin, real.name)]
            if some:
                print(f"\n{real.name}, {origin}, {some[0]['images']} images measured:\n")
                print(*_table(some, real.classifies), sep="\n")


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    models = [real.name for real in MODELS]
    order = [*YARDSTICKS, *CONVERSIONS]
    return row["photographs"], models.index(row["model"]), order.index(row["conversion"])


def _table(rows: Sequence[dict[str, Any]], classifies: bool) -> Iterator[str]:
    close = ("agreement", "in top 5", "KL") if classifies else ("cosine", "SQNR of the features")
    cost = ("parameters", "FLOPs", "SQNR of layers", "CPU seconds")
    yield f"| conversion | {' | '.join((*close, *cost))} |"
    yield "|---" * (1 + len(close) + len(cost)) + "|"
    for row in rows:
        if classifies:
            cells = [f"{100 * row['agreement']:.0f} %", f"{100 * row['in top 5']:.0f} %"]
            cells.append(f"{row['KL']:.2g}")
        else:
            cells = [f"{row['cosine']:.3f}", f"{row['output SQNR dB']:.1f} dB"]
        if "FLOPs" in row:
            cells += [_times(row, "parameters", 1e6, "M"), _times(row, "FLOPs", 1e9, "G")]
            cells += [f"{row['mean SQNR of layers dB']:.1f} dB", f"{row['CPU seconds']:.0f}"]
        else:
            cells += [""] * len(cost)
        yield f"| {' | '.join((row['conversion'], *cells))} |"


def _times(row: dict[str, Any], key: str, unit: float, letter: str) -> str:
    before, now = row[f"{key} before"], row[key]
    return f"{before / unit:.3g} {letter} -> {now / unit:.3g} {letter}"
