"""Compares what `dcnify search` chooses with other sets: whole stages, and random ones.

    make search-study                       the demo's model, which `make demo` trains; minutes
    python studies/search_study.py lite0.pt --arch tf_efficientnet_lite0 -r mobilenet \
        --images DIR --image-count 160 -o study-out/search/lite0

Every set is converted and measured as `dcnify search` does it, and kept, so that a study that was
stopped goes on. Nothing of the other sets is told to the search: what it predicts of them is
compared with what is measured.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from dcnify.cli.output import console, table
from dcnify.data.spec import ImageSpec
from dcnify.search.choose.budget import parse_budget
from dcnify.search.choose.decide import MILP, decide
from dcnify.search.choose.methods import Chosen, names_of
from dcnify.search.choose.prediction import Prediction
from dcnify.search.costs import costs_of
from dcnify.search.measured import Store
from dcnify.search.place import open_place
from dcnify.search.result import OFF
from dcnify.search.rounds import corrected
from dcnify.search.scores import score
from dcnify.search.spec import SearchSpec
from dcnify.search.verify import measure, values_of
from dcnify.sources.spec import SourceSpec


@dataclass(frozen=True)
class Row:
    """A set that was measured."""

    name: str
    layers: int
    flops: float
    """Ratio to the original's."""
    predicted: float
    """KL."""
    measured: float
    agreement_predicted: float
    agreement: float

    @property
    def off(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / self.measured - 1


class Study:
    """Sets of one model, measured."""

    def __init__(self, spec: SearchSpec) -> None:
        self.place = place = open_place(spec, progress)
        self.store = Store(spec.folder, place.identity)
        costs, self.machine = costs_of(place, spec.folder)
        self.scores = score(place, self.store, say)
        assert self.scores.usable == place.paths
        self.prediction = Prediction(self.scores.effects, costs)

    @property
    def stages(self) -> np.ndarray:
        """The stage of each candidate."""
        return np.array([swap.site.stage for swap in self.place.plan.swaps])

    def rounds(self, budget: str, name: str) -> Iterator[Row]:
        """What the search chooses, and what it chooses once predictions are corrected by that."""
        chosen = self.search(budget)
        yield (row := self.row(name, chosen))
        if abs(row.off) > OFF:
            plain = self.prediction
            sets = [*self.scores.sets, (chosen, row.measured)]
            self.prediction = corrected(plain, chosen, {"kl": row.measured}, sets)
            yield self.row(f"{name}, corrected", self.search(budget))
            self.prediction = plain

    def row(self, name: str, chosen: Chosen) -> Row:
        """Measure a set."""
        found = measure(self.place, self.store, names_of(chosen, self.place.paths))
        assert found.outputs is not None, found.refused
        values, predicted = (
            values_of(self.place, found, self.scores.original),
            self.prediction.values(chosen),
        )
        row = Row(
            name,
            int(chosen.sum()),
            predicted["flops_ratio"] or 1.0,
            predicted["kl"] or 0.0,
            values["kl"] or 0.0,
            predicted["agreement"] or 0.0,
            values["agreement"] or 0.0,
        )
        say(f"{name}: KL {row.measured:.4g} measured, {row.predicted:.4g} predicted")
        return row

    def search(self, budget: str) -> Chosen:
        """The set that the search chooses from predictions alone."""
        order = np.argsort(-np.diag(self.prediction.effects.matrix()))
        chosen = decide(self.prediction, parse_budget([budget]), list(order)).chosen[MILP]
        assert chosen is not None, budget
        return chosen


def rivals(study: Study) -> Iterator[tuple[str, Chosen]]:
    """Runs of whole stages, as a recipe's ``stages`` selects them."""
    stages = study.stages
    numbers = sorted(set(stages.tolist()))
    for first in range(len(numbers)):
        for last in range(first, len(numbers)):
            chosen = np.isin(stages, numbers[first : last + 1])
            if 1 < chosen.sum() < len(stages) and (first == 0 or last == len(numbers) - 1):
                shown = f"stages {numbers[first]} to {numbers[last]}"
                yield shown if first < last else f"stage {numbers[first]}", chosen


def random_sets(count: int, size: int, number: int) -> Iterator[tuple[str, Chosen]]:
    """So many different sets of one size, always the same ones."""
    rng, seen = np.random.default_rng(0), set[tuple[int, ...]]()
    while len(seen) < number:
        picked = tuple(sorted(rng.choice(count, size, replace=False).tolist()))
        if picked not in seen:
            seen.add(picked)
            yield f"random {len(seen)}", np.isin(np.arange(count), picked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--arch")
    parser.add_argument("-r", "--recipe", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--images", required=True)
    parser.add_argument("--image-count", type=int)
    parser.add_argument("--input-size", metavar="N", help="the model's own by default")
    parser.add_argument("--random", type=int, default=20, help="number of random sets")
    parser.add_argument("--size", type=int, help="layers in each; half of them by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    study = Study(
        SearchSpec(
            source=SourceSpec(options.source, arch=options.arch, input_size=options.input_size),
            budget=("sites>=1",),
            recipe=options.recipe,
            overrides=tuple(options.set),
            images=ImageSpec(options.images, image_count=options.image_count),
            output=str(options.out),
        )
    )
    count = study.prediction.count
    size = options.size or count // 2
    rows = [*study.rounds(f"sites={size}", f"search: {size} layers")]
    for name, chosen in rivals(study):
        other = study.row(name, chosen)
        found = study.search(f"flops<={other.flops + 1e-6:.6f},sites>={other.layers}")
        rows += [other, study.row(f"search at the cost of {name}", found)]
    few = min(options.random, comb(count, size))
    rows += [study.row(*one) for one in random_sets(count, size, few)]
    write(options.out / "sets.csv", rows)
    show(rows, study)


def show(rows: Sequence[Row], study: Study) -> None:
    """Print every set, and how well they were predicted."""
    cells = [
        (
            row.name,
            row.layers,
            f"{row.flops:.3f}x",
            f"{row.predicted:.3g}",
            f"{row.measured:.3g}",
            f"{row.off:+.0%}",
            f"{row.agreement_predicted:.1%}",
            f"{row.agreement:.1%}",
        )
        for row in rows
    ]
    columns = (
        "set",
        ">layers",
        ">FLOPs",
        ">KL predicted",
        ">KL",
        ">off",
        ">agreement predicted",
        ">agreement",
    )
    console().print(table(columns, cells, f"{study.place.source.spec}, {study.place.recipe.name}"))
    randoms = [row for row in rows if row.name.startswith("random")]
    best = min(row.measured for row in rows if row.name.startswith("search: "))
    better = sum(row.measured < best for row in randoms)
    off = np.abs([row.off for row in rows])
    effects = study.prediction.effects
    print(f"random sets better than the search: {better} of {len(randoms)}")
    print(f"predictions: median error {np.median(off):.0%}, within 20%: {(off <= 0.2).mean():.0%}")
    apart = np.array([row.agreement_predicted - row.agreement for row in rows])
    print(f"agreement: {np.abs(apart).mean():.1%} off on average, {apart.mean():+.1%} in the mean")
    kept = " to ".join(f"{one:.2f}" for one in effects.kept)
    shares = f"kept {kept}, fading {effects.fading:.2f}, coherence {effects.coherence:.2f}"
    print(f"{shares}; {study.machine}")


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write every set as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*vars(rows[0])])
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)


def progress(phase: str, done: int, total: int) -> None:
    """Show nothing."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
