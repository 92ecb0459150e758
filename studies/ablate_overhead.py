"""What the harness of an ablation adds to each trial, read from the storage of one that has run.

    python studies/ablate_overhead.py runs/digits

A worker takes trials one after another. From the beginning of one to that of the next passes what
the trial is about, which it timed itself (conversion, fine-tuning, timing), and the rest: claiming
it, opening images, comparing, writing down. The rest is what is told here. The last trial of each
worker has no next one; its end counts.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import optuna

from dcnify.ablate.state.record import read_record, storage_url
from dcnify.ablate.state.storage import open_storage


def overheads(trials: list[optuna.trial.FrozenTrial]) -> Iterator[tuple[float, float]]:
    """Seconds that each trial took beyond its work, and seconds of its work."""
    by_worker = defaultdict(list)
    for one in trials:
        if one.state.name == "COMPLETE":
            owner = one.user_attrs["owner"]
            by_worker[owner["host"], owner["pid"], owner["started"]].append(one)
    for mine in by_worker.values():
        mine.sort(key=lambda one: one.datetime_start)
        ends = [one.datetime_start for one in mine[1:]] + [mine[-1].datetime_complete]
        for one, end in zip(mine, ends, strict=True):
            work = sum(one.user_attrs["result"]["phases"].values())
            yield (end - one.datetime_start).total_seconds() - work, work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="an ablation that has run without a stop")
    parser.add_argument("--storage", help="its database, if that has a password")
    options = parser.parse_args()
    folder = options.folder.resolve()
    record = read_record(folder)
    storage = open_storage(storage_url(folder, record, options.storage), create=False)
    trials = optuna.load_study(study_name=record.sweep, storage=storage).get_trials()
    rest, work = zip(*overheads(trials), strict=True)
    median, mean, most = statistics.median(rest), statistics.mean(rest), max(rest)
    print(f"{len(rest)} trials, {statistics.mean(work):.1f} s of work each;")
    print(f"the rest: {median:.2f} s in the median, {mean:.2f} s in the mean, {most:.2f} s at most")


if __name__ == "__main__":
    main()
