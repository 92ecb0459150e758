"""The table of the study, as CSV and in Markdown, and a picture of what is drawn."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_HEAD = (
    "| model | distance | noise loss | its images, off by | SQNR of layers | parameters | FLOPs |",
    "|---|---|---|---|---|---|---|",
)


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Write docs/results/unet.csv, and print the table that docs/inherit.md has."""
    if not rows:
        return
    columns = ("model", "seed", "distance", "loss", "relative_error", "sqnr", "seconds")
    with (_DOCS / "results" / "unet.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, "parameters", "flops"])
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
    print(*_HEAD, *map(_line, rows), sep="\n")


def _line(row: dict[str, Any]) -> str:
    sqnr = f"{row['sqnr']:.1f} dB" if "sqnr" in row else ""
    cells = (
        row["model"],
        f"{row['distance']:.2f}",
        f"{row['loss']:.4f}",
        f"{row['relative_error']:.0%}".replace("%", " %"),
        sqnr,
        f"{row['parameters'] / 1e6:.3f} M",
        f"{row['flops'] / 1e6:.0f} M",
    )
    return f"| {' | '.join(cells)} |"


def picture(drawings: Sequence[Any], file: Path) -> None:
    """Write rows of images (N, 1, H, W), from -1 to 1, as one picture."""
    from PIL import Image

    tiles = [np.concatenate(list(np.asarray(one)[:, 0]), axis=1) for one in drawings]
    grey = ((np.concatenate(tiles) + 1) * 127.5).round().astype(np.uint8)
    image = Image.fromarray(grey)
    image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST).save(file)
