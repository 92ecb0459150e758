"""What each candidate adds to the model's latency, FLOPs and parameters."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from dcnify.bench import settle_models
from dcnify.bench.machine import describe
from dcnify.errors import InputError
from dcnify.files import read_json, write_file
from dcnify.search.choose.prediction import Cost
from dcnify.search.place import Place

FILE = "timings.json"
_PLAUSIBLE = (0.25, 4.0)


def costs_of(place: Place, folder: Path) -> tuple[dict[str, Cost], str]:
    """Costs of the model and of each swap, by name; and the machine on which latency was measured.

    FLOPs and parameters are the plan's. Latency is measured, and kept in ``folder``.
    """
    plan = place.plan
    flops = np.array([float(one.flops - one.site.flops) for one in plan.swaps])
    params = np.array([float(one.parameters - one.site.parameters) for one in plan.swaps])
    timings = _timings(place, folder)
    return {
        "latency": latency_cost(place.paths, timings),
        "flops": Cost(float(plan.model_flops), flops),
        "params": Cost(float(plan.model_parameters), params),
    }, timings["machine"]


def latency_cost(paths: tuple[str, ...], timings: dict[str, Any]) -> Cost:
    """Latency in milliseconds from the times of single layers and of both whole models.

    A layer that is timed alone starts from an empty cache and on its own; in the model it does not.
    The model with all swaps was timed too, and differences are scaled so that they add up to its
    time, if that is a plausible factor.
    """
    layers = timings["layers"]
    added = np.array([layers[p][1] - layers[p][0] if p in layers else 0.0 for p in paths])
    whole, total = timings["converted"] - timings["original"], float(added.sum())
    factor = whole / total if total else 1.0
    if _PLAUSIBLE[0] <= factor <= _PLAUSIBLE[1]:
        added = added * factor
    return Cost(timings["original"], added)


def _timings(place: Place, folder: Path) -> dict[str, Any]:
    bench = settle_models(place.spec.bench)
    key = {
        "bench": {name: str(value) for name, value in vars(bench).items()},
        "machine": describe(bench.device).line,
        "source": place.source.sha256,
        "modules": [[one.site.path, dataclasses.asdict(one.module)] for one in place.plan.swaps],
        "shape": list(place.example.shape),
        **({"part": place.example.part} if place.example.part else {}),
    }
    path = folder / FILE
    try:
        known = read_json(path)
        if known["key"] == json.loads(json.dumps(key)):
            return known
    except (InputError, KeyError, TypeError):
        pass
    found = place.timings()
    # What other work on the machine adds is in the slower rounds: ratios are of the faster ones.
    original, ratio = found.original.p50_us / 1e3, found.converted.p20_us / found.original.p20_us
    timings = {
        "key": key,
        "machine": found.machine.line,
        "original": original,
        "converted": original * ratio,
        "layers": {one.path: [one.old.p20_us / 1e3, one.new.p20_us / 1e3] for one in found.swaps},
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(timings, indent=2) + "\n"
    write_file(path, lambda one: one.write_text(text, "utf-8"), True)
    return timings
