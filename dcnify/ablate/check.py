"""Check a sweep whole, before anything runs: every recipe is built, every point planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dcnify.ablate.points import Point, expand, level_text, short_names
from dcnify.ablate.sweep import Sweep
from dcnify.ablate.trial import Setting, TrialSpec, digest
from dcnify.ablate.workplace import UnfitStagesError
from dcnify.artifact import Source
from dcnify.errors import DcnifyError, InputError
from dcnify.progress import Progress, silent
from dcnify.recipe import Change, Recipe, source_text
from dcnify.recipe.reading.document import read_document
from dcnify.recipe.reading.override import apply_overrides
from dcnify.recipe.selection.no_sites import NoSitesError
from dcnify.roles.find import find
from dcnify.surgery.fits import Fits


@dataclass(frozen=True)
class PlannedPoint:
    """A point, its recipe and its trials, one for each seed."""

    point: Point
    recipe: Recipe
    trials: tuple[TrialSpec, ...]


@dataclass(frozen=True)
class Checked:
    """A sweep that can run."""

    sweep: Sweep
    setting: Setting
    points: tuple[PlannedPoint, ...]
    base: int
    """Index of the point that the others are compared with."""
    without_sites: int
    """Points that were dropped because their selectors hit nothing."""

    @property
    def trials(self) -> dict[str, TrialSpec]:
        """The distinct trials by hash, in order: the first seed of every point comes first."""
        rounds = zip(*(one.trials for one in self.points), strict=True)
        return {trial.hash: trial for some in rounds for trial in some}


def base_setting(
    sweep: Sweep, setting: Mapping[str, Any], recipe: str | None, overrides: tuple[str, ...]
) -> Setting:
    """The setting of a sweep, whose base recipe is read and changed here.

    Raises:
        InputError: the recipe or a change to it is not valid.
    """
    try:
        text, name = source_text(recipe or sweep.recipe)
    except InputError as error:
        where = "" if recipe else sweep.origins.prefix(("recipe",))
        raise InputError(f"{where}{error}") from None
    told = [
        Change(path, value, f"{sweep.origins.key(('set', path))}: {path}")
        for path, value in sweep.set.items()
    ]
    for one in overrides:
        change = Change.parse(one)
        if change.path in sweep.factors:
            place = sweep.origins.key(("factors", change.path))
            raise InputError(f"{change.label}: it is a factor of the sweep ({place})")
        told.append(change)
    data, origins = read_document(text, name)
    apply_overrides(data, origins, told, Recipe)  # refused by the words of each
    changes = {change.path: change.value for change in told}
    made = Setting(
        recipe=text, recipe_name=name, changes=changes, measure=sweep.measured, **setting
    )
    Recipe.from_data(data, origins, told)
    return made


MeasuredOn = Callable[[Recipe], tuple[str | None, str | None]]
"""The hash of the images of a recipe, and what its training images are called."""


def check(
    sweep: Sweep,
    setting: Setting,
    source: Source,
    measured_on: MeasuredOn,
    progress: Progress = silent,
) -> Checked:
    """Expand a sweep, build every recipe and plan every point; the model is captured once.

    Args:
        sweep: what to try.
        setting: what all trials share.
        source: the model.
        measured_on: opens the images of a recipe, once all of them are planned.
        progress: progress callback.

    Raises:
        InputError: a point cannot be tried; the line names the file, the line, and the point.
    """
    points, base = expand(sweep)
    planner = _Planner(sweep, setting, source)
    kept: list[tuple[Point, Recipe]] = []
    index, without_sites = 0, 0
    for done, point in enumerate(points):
        if done % 100 == 0:
            progress("planning", done, len(points))
        recipe = planner.plan(point)
        if recipe is None:
            without_sites += 1
            continue
        if point is base:
            index = len(kept)
        kept.append((point, recipe))
    if not kept:
        where = sweep.origins.prefix(("factors",))
        raise InputError(f"{where}the selectors of no point hit anything in {source.spec}")
    planned = []
    for point, recipe in kept:
        try:
            images = measured_on(recipe)
        except UnfitStagesError as error:
            raise InputError(planner.at(point, error)) from error
        planned.append(PlannedPoint(point, recipe, _trials(sweep, setting, point, recipe, *images)))
    return Checked(sweep, setting, tuple(planned), index, without_sites)


def _trials(
    sweep: Sweep,
    setting: Setting,
    point: Point,
    recipe: Recipe,
    images: str | None,
    trained_on: str | None,
) -> tuple[TrialSpec, ...]:
    made = []
    for seed in sweep.seeds:
        whole, conversion = setting.identity(recipe, seed, images, trained_on)
        made.append(
            TrialSpec(
                hash=whole,
                setting=setting.sha256,
                changes=point.values,
                seed=seed,
                conversion=conversion,
            )
        )
    return tuple(made)


class _Planner:
    """Plans points on one model; what two points share is done once."""

    def __init__(self, sweep: Sweep, setting: Setting, source: Source) -> None:
        self._sweep, self._setting, self._source = sweep, setting, source
        self._found: dict[tuple[int, ...], Fits] = {}
        self._planned: set[str] = set()

    def plan(self, point: Point) -> Recipe | None:
        """The recipe of a point, once its plan was made; None for one to drop, without sites."""
        labels = self._labels(point)
        try:
            recipe = self._setting.recipe_with(point.values, labels)
        except InputError as error:
            raise InputError(self.at(point, error)) from error
        swaps = recipe.model_dump(mode="json", include={"swaps", "input", "require"})
        key = digest(swaps)
        if key not in self._planned:
            try:
                self._look(recipe).check(recipe)
            except NoSitesError as error:
                if self._sweep.no_sites == "drop":
                    return None
                hint = "; 'no_sites: drop' leaves such points out"
                raise InputError(self.at(point, error) + hint) from error
            except DcnifyError as error:
                raise InputError(self.at(point, error)) from error
            self._planned.add(key)
        return recipe

    def _look(self, recipe: Recipe) -> Fits:
        shape = self._setting.run.source.input_shape(self._source.input_size, recipe.input)
        if shape not in self._found:
            found = find(self._source.model, self._source.example(shape))
            self._found[shape] = Fits(found)
        return self._found[shape]

    def _labels(self, point: Point) -> dict[str, str]:
        """By path, where the sweep says a value, and what it says."""
        return {path: self._label(point, path) for path in point.values}

    def _label(self, point: Point, path: str) -> str:
        """Where the sweep says a value, and what it says."""
        at: tuple[str | int, ...] = (*point.at, path)
        if point.at[0] != "points" and path in self._sweep.factors:
            levels = self._sweep.factors[path]
            value = point.values[path]
            if value in levels:
                at = ("factors", path, levels.index(value))
        return f"{self._sweep.origins.value(at)}: {path}={level_text(point.values[path])}"

    def at(self, point: Point, error: Exception) -> str:
        """An error with the point that it is about, and the place of the value where it is not
        said yet."""
        text, labels = str(error), self._labels(point)
        names = short_names(list(point.values))
        shown = ", ".join(f"{names[path]}={level_text(v)}" for path, v in point.values.items())
        said = any(text.startswith(label) for label in labels.values())
        where = "" if said else self._sweep.origins.prefix(point.at)
        return f"{where}{text} (point {shown})"
