"""What a trial is: the setting that all share, the changes to its recipe, and its seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from dcnify._version import __version__
from dcnify.pipeline.spec import RunSpec
from dcnify.recipe import Change, Recipe, resolved
from dcnify.recipe.reading.document import read_document
from dcnify.recipe.reading.origins import Origins
from dcnify.recipe.reading.override import apply_overrides
from dcnify.spec import Spec

TIMED = ("latency", "throughput", "memory")
"""Measurements that run the model against a clock."""


@dataclass(frozen=True, kw_only=True)
class Setting(Spec):
    """What all trials of a sweep share."""

    run: RunSpec
    """Source, images and options; its recipe, output and seed are each trial's own."""
    recipe: str
    """The base recipe, as text."""
    recipe_name: str
    """What errors call it."""
    changes: dict[str, Any]
    """Changes to the base that hold for every trial, by path."""
    measure: tuple[str, ...]
    source_sha256: str | None
    keep_models: bool = False

    @cached_property
    def sha256(self) -> str:
        """Equal for settings that give equal results."""
        return digest({**self.to_dict(), "keep_models": None})

    @cached_property
    def _run(self) -> dict[str, Any]:
        return self.run.to_dict()

    def document(self) -> tuple[dict[str, Any], Origins]:
        """The base recipe as plain data, changes applied, and the places of its values."""
        return _document(self.recipe, self.recipe_name, json.dumps(self.changes))

    def recipe_with(
        self, changes: Mapping[str, Any], labels: Mapping[str, str] | None = None
    ) -> Recipe:
        """The base recipe with more changes, each called by its label in errors.

        Raises:
            InputError: a change does not fit the recipe.
        """
        data, origins = self.document()
        labels = labels or {}
        told = [Change(path, one, labels.get(path, path)) for path, one in changes.items()]
        return Recipe.from_data(data, origins, told)

    def identity(
        self, recipe: Recipe, seed: int, images: str | None = None, trained_on: str | None = None
    ) -> tuple[str, str]:
        """The hashes of a trial and of its conversion: equal ones need to be done only once.

        Args:
            recipe: the trial's.
            seed: the trial's.
            images: the hash of those that are measured and calibrated on.
            trained_on: what the training images are called, and how many there are.
        """
        data = resolved(recipe)
        stages = data.pop("finetune", None)
        for words in ("name", "description"):
            data.pop(words, None)
        run = self._run
        part = filter(None, [run["source"]["part"]])  # trials of earlier versions had none
        shared = {
            "dcnify": __version__,
            "source": [self.source_sha256, run["source"]["input_size"], *part],
            "recipe": data,
            "images": [run["images"], images],
            "data": [run["data"], trained_on],
            "seed": seed,
        }
        own: dict[str, Any] = {"conversion": shared, "measure": self.measure}
        if "finetune" in self.measure:
            own |= {"finetune": stages, "options": run["options"]}
        if set(TIMED) & set(self.measure):
            own |= {"batch": run["batch"], "seconds": run["seconds"]}
        return digest(own), digest(shared)


@dataclass(frozen=True, kw_only=True)
class TrialSpec(Spec):
    """One trial as the storage has it."""

    hash: str
    """Equal for trials with equal results, whatever sweep they belong to."""
    setting: str
    """`Setting.sha256`, under which the storage has it."""
    changes: dict[str, Any]
    """Changes to the base recipe, by path."""
    seed: int
    conversion: str
    """Equal for trials that convert alike."""
    kills: int = 0
    """Workers that were killed over it."""

    @property
    def name(self) -> str:
        """The beginning of the hash, which names files."""
        return self.hash[:12]


def digest(data: Any) -> str:
    """SHA-256 of JSON-ready data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=list).encode()).hexdigest()


@cache
def _document(text: str, name: str, changes: str) -> tuple[dict[str, Any], Origins]:
    data, origins = read_document(text, name)
    told = [Change(path, value, path) for path, value in json.loads(changes).items()]
    return apply_overrides(data, origins, told, Recipe)
