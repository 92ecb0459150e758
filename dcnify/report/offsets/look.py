"""Let an artifact look at a photograph, and choose what is drawn of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnify.artifact import Artifact
from dcnify.artifact.load import load_record
from dcnify.data.decode import open_image, to_tensor
from dcnify.data.statistics import IMAGENET, Statistics
from dcnify.errors import InputError
from dcnify.graph.example import example_with
from dcnify.progress import Progress, silent
from dcnify.report.offsets.spec import OffsetsSpec
from dcnify.report.offsets.trace import Samples, trace
from dcnify.surgery.handover import finish, handovers
from dcnify.surgery.plan import Plan
from dcnify.surgery.prepare import runnable
from dcnify.words import did_you_mean

QUANTILES = (0.5, 0.9, 0.99)
_PANELS = 6
"""Sites that are drawn where nobody says which."""
_SHARP = 384
"""Pixels of the photograph's shorter side in the picture, however few the model sees."""


@dataclass(frozen=True, eq=False)
class Looked:
    """What a model did with a photograph."""

    photo: np.ndarray
    """(height, width, 3) of numbers from 0 to 1: the part that the model saw."""
    size: tuple[int, int]
    """Rows and columns of the model's input."""
    places: tuple[tuple[float, float], ...]
    """Where queries are drawn, (x, y) from 0 to 1."""
    sites: dict[str, Samples]
    """Every deformable layer."""
    drawn: tuple[str, ...]
    """Paths of the layers that are drawn on the photograph."""

    def pixels(self, place: tuple[float, float]) -> tuple[float, float]:
        """A place in pixels of the model's input."""
        return place[0] * self.size[1] - 0.5, place[1] * self.size[0] - 0.5

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the reach of each layer, and the points of the drawn ones."""
        return {
            "input_size": list(self.size),
            "at": [list(place) for place in self.places],
            "sites": [
                {
                    "path": path,
                    "grid": list(one.grid),
                    "kernel_size": list(one.sampling.kernel_size),
                    "groups": one.sampling.groups,
                    "reach": dict(zip(map(str, QUANTILES), one.reach(*QUANTILES), strict=True)),
                    "queries": [self._query(one, place) for place in self.places]
                    if path in self.drawn
                    else [],
                }
                for path, one in self.sites.items()
            ],
        }

    def _query(self, one: Samples, place: tuple[float, float]) -> dict[str, Any]:
        row, column = one.query_at(*self.pixels(place))
        return {
            "row": row,
            "column": column,
            "at": one.queries[row, column].tolist(),
            "points": one.places[row, column].tolist(),
            "weights": one.weights[row, column].tolist(),
        }


def look(
    record: Artifact, spec: OffsetsSpec, *, trust_code: bool = False, progress: Progress = silent
) -> Looked:
    """Call the model of an artifact with a photograph and record where its layers sample.

    Layers that hand over are shown in their final state.

    Args:
        record: what `dcnify.artifact.read_artifact` returned.
        spec: the photograph, places and sites.
        trust_code: import the code that the artifact names, if its base is ``python:``.
        progress: progress callback.

    Raises:
        InputError: the artifact does not load, has no deformable layer or none at a path; the
            photograph cannot be read.
    """
    swapped = [swap.site.path for swap in record.plan.swaps]
    for path in spec.site:
        if path not in swapped:
            first = f"; the first is {swapped[0]}" if swapped else ""
            hint = did_you_mean(path, swapped, otherwise=first)
            raise InputError(f"--site {path}: no layer was swapped there{hint}")
    channels, height, width = record.input_shape[1:]
    try:
        image = open_image(spec.image)
    except InputError as error:
        raise InputError(f"{spec.image}: {error}") from None
    progress("loading", 0, 1)
    model, expected = load_record(record, trust_code=trust_code)
    if handovers(model):
        finish(model, record.plan, force=True)
    reported = Statistics.of(record.report.get("images"))
    how = spec.statistics.over(reported).over(expected.statistics).over(IMAGENET)
    tensor = to_tensor(image, (channels, height, width), **how.known())
    times = max(1, -(-_SHARP // min(height, width)))
    shown = to_tensor(
        image, (3, height * times, width * times), mean=(0.0,), std=(1.0,), interpolation="bicubic"
    )
    call = example_with(tensor[None], record.example())
    progress("looking", 0, 1)
    with ExitStack() as stack:
        stack.enter_context(runnable(model, call))
        found = trace(model, call, swapped)
    if not found:
        raise InputError(f"{record.path} has no deformable layer: its plan swaps nothing")
    drawn = spec.site or _last_of_each_stage(record.plan, found)
    return Looked(
        photo=shown.permute(1, 2, 0).clamp(0, 1).numpy(),
        size=(height, width),
        places=spec.places,
        sites=found,
        drawn=tuple(drawn),
    )


def _last_of_each_stage(plan: Plan, found: Mapping[str, Samples]) -> list[str]:
    last = {swap.site.stage: swap.site.path for swap in plan.swaps if swap.site.path in found}
    paths = [last[stage] for stage in sorted(last)] or list(found)
    if len(paths) == 1:  # a plain ViT, whose stages are all one
        paths = [path for path in found if path in {swap.site.path for swap in plan.swaps}]
    step = max(1.0, (len(paths) - 1) / (_PANELS - 1))
    return list(dict.fromkeys(paths[round(n * step)] for n in range(min(_PANELS, len(paths)))))
