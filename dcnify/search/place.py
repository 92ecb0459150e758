"""The place of a search: the model, its sites and the images, opened once for all measurements."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.artifact import OpenedModel, open_source
from dcnify.bench import PlanTimings, settle_models, time_swaps
from dcnify.data import ImageBatch
from dcnify.digest import sha256_tensors
from dcnify.errors import InputError
from dcnify.graph.example import Example
from dcnify.graph.flops import node_flops
from dcnify.progress import Progress, silent
from dcnify.recipe import Recipe
from dcnify.roles.base import Found
from dcnify.roles.find import find
from dcnify.search.recipe import narrowed, starting, unconditional, usual_recipe
from dcnify.search.spec import SearchSpec
from dcnify.surgery import ConvertResult, Plan, convert, images_wanted
from dcnify.surgery.calibrate.layers import batches_wanted
from dcnify.surgery.changes.snapshot import Snapshot
from dcnify.surgery.fidelity.images import BATCH, ConversionImages, Images, conversion_images
from dcnify.surgery.fidelity.measure import run_all
from dcnify.surgery.planner import plan_found
from dcnify.surgery.prepare import prepare, runnable
from dcnify.words import first_line

_IMAGES = 128
"""Images that are measured on, where nobody says how many."""


@dataclass
class Place:
    """What all measurements of a search share."""

    spec: SearchSpec
    source: OpenedModel
    recipe: Recipe
    """The base."""
    example: Example
    found: Found
    plan: Plan
    """What the base recipe does, as swaps are measured: its sites are the candidates."""
    batch: ImageBatch
    images: Images
    """Those of the batch that are measured on: all that are not calibrated on."""
    few: ImageBatch
    """Those that are calibrated on, and as few of the others as a conversion has to report on."""
    model: nn.Module
    """The source's model in the structure of the plan, changed and put back again and again."""
    progress: Progress = silent

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the candidates, in the order in which they run."""
        return tuple(swap.site.path for swap in self.plan.swaps)

    @property
    def starts_as_recipe(self) -> bool:
        """Whether layers start as the recipe says when they are measured."""
        return starting(self.recipe, self.spec.init).swaps == self.recipe.swaps

    @property
    def identity(self) -> dict[str, Any]:
        """What every measurement depends on, JSON-ready."""
        return {
            "source": self.source.sha256,
            "images": sha256_tensors({"images": self.batch.tensor}),
            "measured": self.images.count,
            "seed": self.spec.seed,
        }

    def measuring(self, paths: Collection[str]) -> Recipe:
        """The recipe by which a set is converted to be measured."""
        recipe = starting(self.recipe, self.spec.init)
        return unconditional(narrowed(recipe, self.plan, paths))

    def final(self, paths: Collection[str]) -> Recipe:
        """The recipe of a set, to be written."""
        return narrowed(self.recipe, self.plan, paths)

    @contextmanager
    def converted(self, paths: Collection[str]) -> Iterator[ConvertResult]:
        """Have the model converted by the recipe of a set, to be measured, for a while."""
        before = Snapshot(self.model)
        result = convert(
            self.model,
            self.measuring(paths),
            self.example,
            calibration=self.few,
            seed=self.spec.seed,
            random_weights=self.source.random_weights,
            found=self.found,
        )
        try:
            yield result
        finally:
            before.restore()

    def convert(self, recipe: Recipe) -> ConvertResult:
        """Convert a copy of the source's model, as ``dcnify convert`` does."""
        return convert(
            _copy(self.source.model),
            recipe,
            self.example,
            calibration=self.batch,
            seed=self.spec.seed,
            progress=self.progress,
            random_weights=self.source.random_weights,
        )

    @torch.no_grad()
    def outputs(self, model: nn.Module) -> Tensor:
        """(N, D): what a model gives on the measured images."""
        with runnable(model, self.example):
            outputs = run_all(model, self.images.calls, "converted", silent)
        return torch.cat([one.flatten(2) if one.dim() > 3 else one for one in outputs])

    def timings(self) -> PlanTimings:
        """Times of all old and new layers, and of the model with each."""
        bench = settle_models(self.spec.bench)
        return time_swaps(self.source.model, self.plan, self.example, bench, self.progress)


def open_place(spec: SearchSpec, progress: Progress = silent) -> Place:
    """Open the model and the images, and plan the base recipe.

    Raises:
        InputError: something given is wrong.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are the same ones in every call
        source = open_source(spec.source, on_progress=progress).for_images(spec.images.statistics)
    recipe = Recipe.load(spec.recipe, spec.overrides) if spec.recipe else None
    shape = spec.source.input_shape(source.input_size, recipe.input if recipe else None)
    example = Example.of(source.example(shape))
    progress("planning", 0, 1)
    found = find(source.model, example)
    if recipe is None:
        recipe = usual_recipe(found.sites, spec.overrides)
    measured = starting(recipe, spec.init)
    plan = plan_found(source.model, measured, found)
    batches = batches_wanted(plan_found(source.model, recipe, found))  # what is written needs them
    count = max(images_wanted(measured) or 0, BATCH * batches + _IMAGES)
    batch = spec.images.load(shape, **source.statistics.known(), count=count, progress=progress)
    assert batch is not None  # a count was given
    flops = node_flops(found.capture.operations()) // max(example.shape[0], 1)
    images = conversion_images(source.model, example, batch, flops, batches, found.capture.classes)
    model = source.model
    if plan.isolations:
        source = replace(source, model=_copy(model))
        prepare(model, plan)
    few, apart = _few(batch, images), _not_calibrated_on(images, batch)
    return Place(spec, source, recipe, example, found, plan, batch, apart, few, model, progress)


def _not_calibrated_on(images: ConversionImages, batch: ImageBatch) -> Images:
    """What a conversion measures on, and what it leaves over: how far damages can be told apart
    depends on the number of images, and they cost no conversion."""
    measured = images.measured
    if images.calibrated is None or not images.measured_apart:
        return measured
    others = batch.tensor[measured.count :]
    over = others[torch.isfinite(others).flatten(1).all(1)][images.calibrated.count :]
    more = over.to(measured.example.images).split(BATCH) if len(over) else ()
    return Images(measured.example, (*measured.batches, *more))


def _few(batch: ImageBatch, images: ConversionImages) -> ImageBatch:
    """The images of a conversion that is measured elsewhere: it leaves a quarter out."""
    measured = torch.cat(images.measured.batches)
    fitted = torch.cat(images.calibrated.batches) if images.calibrated else measured[:0]
    count = -(-len(fitted) // 3) or BATCH
    kept = torch.cat((measured[:count], fitted)).to(batch.tensor)
    return replace(batch, tensor=kept, names=batch.names[: len(kept)], labels=None)


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a model may hold
        raise InputError(f"the model cannot be copied: {first_line(error)}") from error
