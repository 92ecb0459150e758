"""Write what `make zoo` found into the table of docs/models.md: ``table.py ROWS DOCUMENT``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

BEGIN, END = "<!-- zoo: begin, written by make zoo -->", "<!-- zoo: end -->"
LIBRARIES = (
    "timm",
    "torchvision",
    "transformers",
    "diffusers",
    "ultralytics",
    "segmentation_models_pytorch",
    "open_clip",
)


def table(rows: list[dict]) -> str:
    """The rows as Markdown, by library."""
    head = "| library | model | sites | near misses | what does not work |"
    lines = [head, "|---|---|---|---|---|"]
    for library in LIBRARIES:
        own = [row for row in rows if row["name"].startswith(f"{library}_")]
        for row in sorted(own, key=lambda row: row["name"].lower()):
            name = row["name"].removeprefix(f"{library}_")
            why = "; ".join(f"{step}: {said}" for step, said in row["why"].items())
            cells = (library, f"`{name}`", _counts(row["sites"]), _counts(row["near"]), why)
            lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|")
    return "\n".join(lines)


def names(document: str) -> list[str]:
    """The models in the table of a document, as `zoo.models` names them."""
    inside = document.partition(BEGIN)[2].partition(END)[0]
    cells = [line.split("|") for line in inside.splitlines() if line.count("`") == 2]
    return [f"{cell[1].strip()}_{cell[2].strip(' `')}" for cell in cells]


def _counts(by_role: dict[str, int]) -> str:
    return ", ".join(f"{count} {role}" for role, count in sorted(by_role.items()))


if __name__ == "__main__":
    found, document = Path(sys.argv[1]), Path(sys.argv[2])
    text = document.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    rows = [json.loads(file.read_text()) for file in found.glob("*.json")]
    document.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")
    print(f"{len(rows)} models: {document}")
