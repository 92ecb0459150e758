"""Time the check of a sweep of 10,000 points, no two alike, and their way into the queue.

    python studies/ablate_planning.py timm:convnext_tiny -r convnext

Half of the sweeps vary a number that changes no shape, the other half shapes alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from dcnify.ablate import AblateSpec, Sweep, prepare
from dcnify.recipe import Recipe
from dcnify.sources.spec import SourceSpec

SHAPES = {
    "kernel_size": [[height, width] for height in (3, 5, 7, 9, 11) for width in (3, 5, 7, 9, 11)],
    "group_channels": [4, 8, 16, 32, 64],
    "dw_kernel_size": [None, 1, 3, 5, 7],
    "softmax": [False, True],
    "remove_center": [False, True],
    "center_feature_scale": [False, True],
    "offset_rank": [None, 8],
}
SCALES = {
    "kernel_size": [3, 5],
    "offset_scale": [round(0.5 + number / 10_000, 4) for number in range(5000)],
}


def main() -> None:
    """Print seconds for each kind of sweep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("-r", "--recipe", required=True)
    given = parser.parse_args()
    swap = Recipe.load(given.recipe).swaps[0].name
    for name, choices in (("scales", SCALES), ("shapes", SHAPES)):
        factors: dict[str, Any] = {f"swaps.{swap}.replace.{key}": v for key, v in choices.items()}
        sweep = Sweep.of({"name": name, "recipe": given.recipe, "factors": factors})
        with tempfile.TemporaryDirectory() as folder:
            output = str(Path(folder) / "run")
            spec = AblateSpec(sweep=name, source=SourceSpec(given.source), output=output)
            began = time.perf_counter()
            prepared = prepare(spec, sweep)
            seconds = time.perf_counter() - began
        load = os.getloadavg()[0]
        points = len(prepared.record.points)
        print(f"{given.source}, {name}: {points} points in {seconds:.0f} s (load {load:.1f})")


if __name__ == "__main__":
    main()
