"""Measures what docs/inherit.md says of a diffusion U-Net: what it draws before and after.

    make unet-study                          everything; two hours of one core
    python studies/unet_study --only original unet
    python studies/unet_study table          from what has been measured so far
    python studies/unet_study kernels        how much of its kernels the layers can hold
    python studies/unet_study costs          of Stable Diffusion 1.5, without its weights; minutes

A small U-Net of diffusers learns to draw digits, and is converted in several ways. What is done is
kept in ``study-out/unet`` and not done again. ``table`` writes docs/results/unet.csv and
docs/figures/unet.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from unet_study.conversions import CONVERSIONS, images_of, original, row_of, yardsticks
from unet_study.costs import stable_diffusion
from unet_study.kernels import print_errors
from unet_study.tables import picture, write

PICTURED = ("original", "transfer", "unet", "unet, trained on")
FIGURE = Path(__file__).resolve().parents[2] / "docs" / "figures" / "unet.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "part", nargs="?", choices=["run", "table", "costs", "kernels"], default="run"
    )
    names = [one.name for one in CONVERSIONS]
    parser.add_argument("--only", nargs="*", metavar="NAME", choices=names, default=names)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("study-out/unet"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part == "costs":
        stable_diffusion()
        return
    if options.part == "kernels":
        print_errors(original(options.out, options.seed, say))
        return
    rows = options.out / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    for conversion in CONVERSIONS:
        file = rows / f"{conversion.name} {options.seed}.json"
        if options.part == "table" or conversion.name not in options.only or file.exists():
            continue
        row = row_of(conversion, options.out, options.seed, say)
        file.write_text(json.dumps(row, indent=1))
        say(f"{file.stem}: distance {row['distance']:.2f}")
    done = {one.name: rows / f"{one.name} {options.seed}.json" for one in CONVERSIONS}
    write([json.loads(file.read_text()) for file in done.values() if file.exists()])
    if options.part == "table":
        print(yardsticks(options.out))
        files = [images_of(options.out, name, options.seed) for name in PICTURED]
        picture([np.load(file)[:24] for file in files if file.exists()], FIGURE)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
