"""Measures what docs/finetune.md says: how soon fine-tuning has the accuracy back, and from what.

    make finetune-study                               everything; about an hour on two cores
    python studies/finetune_study --only ViT --seeds 0 1
    python studies/finetune_study table                  from what has been measured so far

The models are those of studies/inherit_study, which trains and converts what is not there yet. What
is done is kept in ``study-out/finetune`` and not done again. ``table`` writes
docs/results/finetune.csv and finetune.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from finetune_study.tables import write
from finetune_study.trials import STAGES, SUBJECTS, finetuned, say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=["run", "table"], help="both by default")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="models, all by default")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--stages", nargs="*", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("study-out"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = options.out / "finetune" / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    if options.part != "table":
        for seed in options.seeds:
            for name in options.only or SUBJECTS:
                for stages in options.stages:
                    if STAGES[stages].only not in (None, name):
                        continue
                    file = rows / f"{name} {stages} {seed}.json"
                    if not file.exists():
                        row: dict[str, Any] = finetuned(name, stages, seed, options.out)
                        file.write_text(json.dumps(row, indent=1))
                        say(f"{file.stem}: {row['converted']:.3f} to {row['finetuned']:.3f}")
    if options.part != "run":
        write([json.loads(file.read_text()) for file in sorted(rows.glob("*.json"))])


if __name__ == "__main__":
    main()
