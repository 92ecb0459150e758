"""Measures what docs/inherit.md says: what converted models keep, and how soon they are back.

    make study                                    everything: hours on two cores
    python docs/inherit_study --only ViT --seeds 0 1
    python docs/inherit_study table               from what has been measured so far

What is done is kept in ``study-out/`` and not done again, so that the study can be interrupted, and
run by several processes on different subjects. ``table`` writes docs/results/inherit*.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Threads that wait should sleep: spinning is several times slower on a machine that is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from inherit_study.conversions import METHODS, SITES, chosen, converted, row_of
from inherit_study.models import SUBJECTS, Subject
from inherit_study.tables import write
from inherit_study.training import accuracy, steps_back, trained

MOST_STEPS = 3000
BACK_FROM = ("paper", "transfer", "fit+calibrate")
WITHIN = 0.01


def keep(subject: Subject, seed: int, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every conversion of one trained model: its key, and what gives its row."""
    for sites in SITES:
        for method in METHODS:
            yield (
                f"keep {subject.name} {sites} {method} {seed}",
                lambda sites=sites, method=method: row_of(
                    trained(subject, seed, folder, say), subject, sites, method, seed
                ),
            )


def back(subject: Subject, seed: int, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """How many steps of ordinary training each start needs, all sites converted."""
    for method in BACK_FROM:
        yield (
            f"back {subject.name} {method} {seed}",
            lambda method=method: _back(subject, seed, folder, method),
        )


def _back(subject: Subject, seed: int, folder: Path, method: str) -> dict[str, Any]:
    model, task = trained(subject, seed, folder, say), subject.data()
    original = accuracy(model, task)
    paths = chosen(model, subject, "all")
    start = converted(model, subject, paths, method, seed).model
    steps, curve = steps_back(start, task, original - WITHIN, MOST_STEPS, seed)
    return {
        "subject": subject.name,
        "start": method,
        "seed": seed,
        "original": original,
        "steps": steps,
        "curve": curve,
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["keep", "back", "table", []], help="all")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="subjects, all by default")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("study-out"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = options.parts or ["keep", "back", "table"]
    subjects = [one for one in SUBJECTS if not options.only or one.name in options.only]
    rows = options.out / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for subject in subjects:
            for part in (keep, back):
                if part.__name__ not in parts:
                    continue
                for key, measure in part(subject, seed, options.out / "models"):
                    file = rows / f"{key}.json"
                    if not file.exists():
                        row = measure()
                        file.write_text(json.dumps(row, indent=1))
                        say(f"{key}: {row.get('accuracy', row.get('steps'))}")
    if "table" in parts:
        write([json.loads(file.read_text()) for file in sorted(rows.glob("*.json"))])


if __name__ == "__main__":
    main()
