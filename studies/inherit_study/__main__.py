"""Measures what docs/inherit.md says: what converted models keep, and how soon they are back.

    make study                                    everything: hours on two cores
    python studies/inherit_study --only ViT --seeds 0 1
    python studies/inherit_study vary --variants "as it is" --seeds 0 1 2
    python studies/inherit_study spend --seeds 0     agreement against seconds
    python studies/inherit_study table               from what has been measured so far

What is done is kept in ``study-out/`` and not done again, so that the study can be interrupted, and
run by several processes on different subjects. ``table`` writes docs/results/inherit*.csv.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

# Threads that wait should sleep: spinning is several times slower on a machine that is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn

import dcnify
from inherit_study.budget import STEPS, row_of_steps
from inherit_study.conversions import METHODS, SITES, chosen, converted, row_of
from inherit_study.models import SUBJECTS, Subject
from inherit_study.tables import write
from inherit_study.tasks import Task
from inherit_study.training import accuracy, shortest_back, steps_back, trained
from inherit_study.variants import VARIANTS

MOST_STEPS, WITHIN = 2000, 0.01
"""Of training after a conversion; how close to the original's accuracy is back."""
BACK_FROM = ("paper", "fit+calibrate")


def keep(
    subject: Subject,
    seed: int,
    folder: Path,
    methods: Collection[str] = tuple(METHODS),
    where: Collection[str] = SITES,
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every conversion of one trained model: its key, and what gives its row."""
    for sites in where:
        for method in methods:
            yield (
                f"keep {subject.name} {sites} {method} {seed}",
                lambda sites=sites, method=method: row_of(
                    trained(subject, seed, folder / "models", say),
                    subject,
                    sites,
                    method,
                    seed,
                    artifact_of(subject, seed, folder, sites, method),
                ),
            )


def artifact_of(subject: Subject, seed: int, folder: Path, sites: str, method: str) -> Path:
    """Where a converted model is kept."""
    return folder / "converted" / f"{subject.name} {sites} {method} {seed}"


def vary(
    subject: Subject, seed: int, folder: Path, names: Collection[str] = ()
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Other ways to convert the first subject; without ``names``, all of them from one seed."""
    if subject is not SUBJECTS[0] or (seed != 0 and not names):
        return
    for name in names or VARIANTS:
        changes = VARIANTS[name]
        yield (
            f"vary {name} {seed}" if seed else f"vary {name}",
            lambda name=name, changes=changes: {
                "variant": name,
                **row_of(
                    trained(subject, seed, folder / "models", say),
                    subject,
                    "all",
                    "fit+calibrate",
                    seed,
                    **changes,
                ),
            },
        )


def back(
    subject: Subject,
    seed: int,
    folder: Path,
    methods: Collection[str] = BACK_FROM,
    part: str = "back",
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """How much ordinary training each start needs, all sites converted.

    ``back`` counts the steps at one rate, ``shortest`` those of the shortest training whose rate
    comes down to zero.
    """
    measure = {"back": _back, "shortest": _shortest}[part]
    for method in methods:
        yield (
            f"{part} {subject.name} {method} {seed}",
            lambda method=method: measure(subject, seed, folder, method),
        )


def _shortest(subject: Subject, seed: int, folder: Path, method: str) -> dict[str, Any]:
    start, task, original = _start(subject, seed, folder, method)
    steps, rate, tried = shortest_back(start, task, original - WITHIN, seed)
    return {
        "subject": subject.name,
        "start": method,
        "seed": seed,
        "original": original,
        "steps of the shortest": steps,
        "rate": rate,
        "tried": tried,
    }


def _start(subject: Subject, seed: int, folder: Path, method: str) -> tuple[nn.Module, Task, float]:
    """The converted model, its task and the original's accuracy."""
    model, task = trained(subject, seed, folder / "models", say), subject.data()
    artifact = artifact_of(subject, seed, folder, "all", method)
    if artifact.exists():
        start = dcnify.load(artifact)
    else:
        result = converted(model, subject, chosen(model, subject, "all"), method, seed)
        dcnify.save(result, artifact)
        start = result.model
    return start, task, accuracy(model, task)


def _back(subject: Subject, seed: int, folder: Path, method: str) -> dict[str, Any]:
    start, task, original = _start(subject, seed, folder, method)
    steps, curve = steps_back(start, task, original - WITHIN, MOST_STEPS, seed)
    return {
        "subject": subject.name,
        "start": method,
        "seed": seed,
        "original": original,
        "steps": steps,
        "curve": curve,
    }


def spend(subject: Subject, seed: int, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Calibrations of several lengths, of the subjects at 64 pixels."""
    if not subject.name.endswith("at 64 pixels"):
        return
    for steps, model_steps in STEPS:
        yield (
            f"spend {subject.name} {steps} {model_steps} {seed}",
            lambda steps=steps, model_steps=model_steps: row_of_steps(
                trained(subject, seed, folder / "models", say), subject, steps, model_steps, seed
            ),
        )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("keep", "back", "shortest", "vary", "spend", "table")
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="all by default")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="subjects, all by default")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=())
    parser.add_argument("--methods", nargs="*", choices=METHODS, help="all by default")
    parser.add_argument("--sites", nargs="*", choices=SITES, default=SITES)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("study-out"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wanted = options.parts or parts
    subjects = [one for one in SUBJECTS if not options.only or one.name in options.only]
    rows = options.out / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    methods = options.methods or tuple(METHODS)
    starts = [one for one in BACK_FROM if one in methods]
    jobs = {
        "keep": functools.partial(keep, methods=methods, where=options.sites),
        "back": functools.partial(back, methods=starts),
        "shortest": functools.partial(back, methods=starts, part="shortest"),
        "vary": functools.partial(vary, names=options.variants),
        "spend": spend,
    }
    for seed in options.seeds:
        for subject in subjects:
            for name, part in jobs.items():
                if name not in wanted:
                    continue
                for key, measure in part(subject, seed, options.out):
                    file = rows / f"{key}.json"
                    if not file.exists():
                        row = measure()
                        file.write_text(json.dumps(row, indent=1))
                        say(f"{key}: {row.get('accuracy', row.get('steps', row.get('tried')))}")
    if "table" in wanted:
        write([json.loads(file.read_text()) for file in sorted(rows.glob("*.json"))])


if __name__ == "__main__":
    main()
