"""Convert a trained model in every way that the study compares, and say what is left of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import dcnify
from dcnify.surgery.calibrate import mixed_batches as draws
from dcnify.surgery.calibrate import train_whole_model as together
from dcnify.surgery.prepare import prepare
from inherit_study.models import Subject
from inherit_study.tasks import Task, pixels
from inherit_study.training import accuracy

UNLABELLED = 1000
"""Images a conversion may look at, a quarter of which it measures itself on."""
METHODS = {
    "paper": "paper",
    "transfer": "transfer",
    "fit": "fit",
    "calibrate, layers only": "[transfer, {calibrate}]",
    "calibrate": "[transfer, {calibrate}]",
    "fit+calibrate": "[fit, {calibrate}]",
}
"""``init`` by the name that the tables use."""
SITES = ("all", "half")


def images_of(task: Task) -> torch.Tensor:
    """(N, 3, H, W) what a conversion may look at: the first images of the training set."""
    return pixels(task.images[:UNLABELLED]).contiguous()


def chosen(model: nn.Module, subject: Subject, sites: str) -> list[str]:
    """Paths of all sites that the recipe takes, or of half of them."""
    example = images_of(subject.data())[:1]
    recipe = dcnify.Recipe.load(subject.recipe)
    paths = [swap.site.path for swap in dcnify.plan(model, recipe, example).swaps]
    half = subject.half or range(0, len(paths), 2)
    return paths if sites == "all" else [paths[index] for index in half]


def prepared(model: nn.Module, subject: Subject) -> nn.Module:
    """A copy in which every site is a module; it computes the same."""
    example = images_of(subject.data())[:1]
    plan = dcnify.plan(model, dcnify.Recipe.load(subject.recipe), example)
    model = copy.deepcopy(model)
    prepare(model, plan)
    return model


def zeroed(model: nn.Module, paths: list[str]) -> nn.Module:
    """A copy in which the layers at ``paths`` give nothing."""
    model = copy.deepcopy(model)
    for path in paths:
        model.get_submodule(path).register_forward_hook(lambda _m, _a, output: output * 0)
    return model


def converted(
    model: nn.Module,
    subject: Subject,
    paths: list[str],
    method: str,
    seed: int,
    options: dict[str, int] | None = None,
    replace: tuple[str, ...] = (),
    patch: dict[str, float] | None = None,
    within: Callable[[], AbstractContextManager[Any]] | None = None,
) -> dcnify.ConvertResult:
    """A converted copy, by the subject's recipe with another ``init``.

    Args:
        options: of ``calibrate``, where they differ from the subject's.
        replace: changes of the recipe's ``replace``.
        patch: other values of constants of `train_whole_model` or `mixed_batches`.
        within: what the conversion runs in: a trial that puts other code in place.
    """
    calibrate = subject.calibrate | (options or {})
    if method.endswith("layers only"):
        calibrate = calibrate | {"model_steps": 0}
    inside = ", ".join(f"{key}: {value}" for key, value in calibrate.items())
    init = METHODS[method].replace("{calibrate}", f"{{method: calibrate, {inside}}}")
    at = f"swaps.{subject.swap}"
    changes = [f"{at}.replace.{one}" for one in replace]
    changes += [f"{at}.init={init}", f"{at}.select.modules=[{', '.join(paths)}]"]
    images = images_of(subject.data())
    recipe = dcnify.Recipe.load(subject.recipe, changes)
    recipe = recipe.model_copy(update={"require": None})  # what is lost is what we measure
    with patched(patch or {}), within() if within else nullcontext():
        return dcnify.convert(copy.deepcopy(model), recipe, images[:1], images, seed=seed)


@contextmanager
def patched(constants: Mapping[str, float]) -> Iterator[None]:
    """Give constants of `train_whole_model` or `mixed_batches` other values."""
    with ExitStack() as patches:
        for name, value in constants.items():
            where = draws if hasattr(draws, name) else together
            patches.enter_context(mock.patch.object(where, name, value))
        yield


def row_of(
    model: nn.Module,
    subject: Subject,
    sites: str,
    method: str,
    seed: int,
    artifact: Path | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """What one conversion keeps: accuracies on the validation images, in shares of 1.

    The converted model is left in ``artifact``, for whoever trains it on.
    """
    task = subject.data()
    paths = chosen(model, subject, sites)
    original = accuracy(model, task)
    nothing = accuracy(zeroed(prepared(model, subject), paths), task)
    start = time.perf_counter()
    result = converted(model, subject, paths, method, seed, **changes)
    seconds = time.perf_counter() - start
    if artifact is not None:
        dcnify.save(result, artifact, overwrite=True)
    reached = accuracy(result.model, task)
    levels = [min(max(site.sqnr_db, -99.0), 99.0) for site in result.report.sites]
    return {
        "subject": subject.name,
        "sites": sites,
        "method": method,
        "seed": seed,
        "original": original,
        "zeroed": nothing,
        "accuracy": reached,
        "retention": (reached - nothing) / (original - nothing),
        "output SQNR dB": result.report.output.sqnr_db,
        "sites' mean SQNR dB": sum(levels) / len(levels),
        "sites' least SQNR dB": min(levels),
        "layers": len(paths),
        "seconds": seconds,
    }
