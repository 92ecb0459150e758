"""Carry out a plan on the live model, measured and all-or-nothing."""

from __future__ import annotations

import dataclasses
import platform
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import nn

from dcnify._version import __version__
from dcnify.errors import CheckError, InputError
from dcnify.graph.dcnv3 import running_here
from dcnify.graph.find import Found, find
from dcnify.graph.flops import node_flops
from dcnify.surgery.build import build, get, put
from dcnify.surgery.calibrate import batches_wanted, calibrate
from dcnify.surgery.fidelity import Progress, measure_output, measure_sites
from dcnify.surgery.handover import begin
from dcnify.surgery.images import Calibration, fidelity_images, held_out, with_held_out
from dcnify.surgery.init import initialise
from dcnify.surgery.plan import Plan, PlannedSwap, Skipped
from dcnify.surgery.planner import plan_found
from dcnify.surgery.result import ConvertResult, OutputFidelity, Report, SiteFidelity
from dcnify.surgery.trims import Taken, give_back, take_away

if TYPE_CHECKING:
    from dcnify.recipe import Recipe


def convert(
    model: nn.Module,
    recipe: Recipe,
    example: torch.Tensor,
    calibration: Calibration | None = None,
    seed: int = 0,
    *,
    progress: Progress | None = None,
) -> ConvertResult:
    """Swap what ``recipe`` selects on ``model`` itself, and measure what it cost.

    The model is changed in place, so that everything that holds it sees the new layers; keep a
    ``copy.deepcopy`` to compare with. If anything fails, the model is as it was.

    Where a swap says ``handover``, the new layers are initialised and measured like any others, as
    if the handover were over. Only then the old ones are put beside them, at blend 1: the model
    that is returned computes what it did before.

    Args:
        model: any module that takes one image tensor; training mode is kept.
        recipe: which sites become what, and how the new modules start.
        example: (B, C, H, W) input that sets the shapes.
        calibration: normalised images (N, C, H, W), batches of them or an
            `dcnify.data.ImageBatch`, on which fidelity is measured; by default photographs that
            ship with scikit-learn and scikit-image. Where the recipe calibrates, it does so on
            three quarters of them, and the others are measured.
        seed: of everything random; the same seed gives the same weights.
        progress: called with a description, steps done and steps in all.

    Raises:
        InputError: as `plan`.
        CheckError: an ``expect``, ``require`` or ``certify`` of the recipe is not met.
    """
    autocast = ExitStack()
    if torch.amp.is_autocast_available(example.device.type):
        autocast.enter_context(torch.autocast(example.device.type, enabled=False))
    with torch.inference_mode(False), autocast:  # whatever the caller has switched on
        return _convert(model, recipe, example, calibration, seed, progress)


def _convert(
    model: nn.Module,
    recipe: Recipe,
    example: torch.Tensor,
    calibration: Calibration | None,
    seed: int,
    progress: Progress | None,
) -> ConvertResult:
    clock = _Clock()
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        found = find(model, example)
        plan = plan_found(model, recipe, found)
        clock.lap("plan")
        before = _count(model)
        fresh, warnings = _new_modules(model, plan, found, seed, progress)
        clock.lap("init")
        wanted = with_held_out(batches_wanted(plan))
        batches, origin = fidelity_images(model, example, calibration, _flops(found), wanted)
        weights: dict[str, torch.Tensor] = {}
        with running_here(model, example) as reason:
            if reason:
                words = f"DCNv3 layers do not run here, our operator ran in their place: {reason}"
                warnings = (*warnings, words)
            if wanted:
                every = _images(batches)
                batches, others = held_out(batches)
                weights, more = calibrate(model, plan, fresh, others, progress)
                warnings = (*warnings, *more)
                origin |= {"count": _images(batches), "calibrated_on": _images(others)}
                origin["held_out"] = _images(batches) + _images(others) == every
                clock.lap("calibrate")
            measured, outputs = measure_sites(model, fresh, batches, progress)
        plan, measured, more = _judge(plan, measured)
        old = {swap.site.path: get(model, swap.site.path) for swap in plan.swaps}
        kept = {path: fresh[path] for path in old}
        taken: dict[str, Taken] = {}
        try:
            for swap in plan.swaps:
                put(model, swap, fresh[swap.site.path])
            taken = _trim(model, plan, weights)
            with running_here(model, example):
                output = _measured(model, outputs, batches, kept, progress)
            _certify(recipe, model, output)
        except BaseException:
            for swap in plan.swaps:
                put(model, swap, old[swap.site.path])
            give_back(model, taken)
            raise
        clock.lap("fidelity")
    finally:
        for module, mode in training.items():
            module.training = mode
    for path, module in old.items():
        fresh[path].train(module.training)
    if not all(torch.isfinite(y).all() for y in outputs):
        more = (*more, "the original model's output is not finite on these images")
    report = Report(
        seed=seed,
        versions=_versions(),
        images=origin,
        sites=tuple(measured),
        output=output,
        parameters=(before, _count(model)),
        warnings=(*plan.notes, *warnings, *more),
        seconds=clock.laps,
    )
    begin(model, plan, old, taken)
    return ConvertResult(model, plan, report, recipe)


def _trim(model: nn.Module, plan: Plan, weights: dict[str, torch.Tensor]) -> dict[str, Taken]:
    """Take the plan's biases away, with the weights that make up for them where there are some."""
    taken = take_away(model, plan.trims)
    with torch.no_grad():
        for path in taken:
            if path in weights:
                get(model, path).weight.copy_(weights[path])
    return taken


def _certify(recipe: Recipe, model: nn.Module, output: OutputFidelity) -> None:
    """Fail unless the output is what the recipe promises."""
    if recipe.certify is None:
        return
    floats = (p.dtype for p in model.parameters() if p.is_floating_point())
    coarsest = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
    bound = recipe.certify.relative_error
    if coarsest > torch.finfo(torch.float32).eps:
        bound = max(bound, 8 * coarsest)
    if not output.relative_error <= bound:
        where = recipe.origins.prefix(("certify", "relative_error"))
        raise CheckError(
            f"{where}not certified: the output's relative error is {output.relative_error:.2e}, "
            f"at most {bound:.2g} is allowed; the model is unchanged"
        )


def _measured(
    model: nn.Module,
    outputs: list[torch.Tensor],
    batches: list[torch.Tensor],
    kept: dict[str, nn.Module],
    progress: Progress | None,
) -> OutputFidelity:
    """The output's fidelity, or in words why the model does not run with its new layers."""
    try:
        return measure_output(model, outputs, batches, kept, progress)
    except AttributeError as error:
        raise InputError(
            f"the model reads something of a swapped layer that its replacement does not have: "
            f"{error}; exclude that layer"
        ) from error


def _new_modules(
    model: nn.Module, plan: Plan, found: Found, seed: int, progress: Progress | None
) -> tuple[dict[str, nn.Module], tuple[str, ...]]:
    """Every replacement with its initial weights, by site path; the model is not touched."""
    generator = torch.Generator().manual_seed(seed)
    fresh: dict[str, nn.Module] = {}
    warnings: tuple[str, ...] = ()
    for index, swap in enumerate(plan.swaps):
        old = get(model, swap.site.path)
        module = _materialise(build(swap.module, original=old), old, model)
        warnings = (*warnings, *initialise(module, swap, found, generator))
        fresh[swap.site.path] = module
        if progress is not None:
            progress("initialising replacements", index + 1, len(plan.swaps))
    return fresh, warnings


def _materialise(module: nn.Module, old: nn.Module, model: nn.Module) -> nn.Module:
    """Give a module built on the meta device memory, on the old layer's device and in its dtype."""
    sample = next((p for m in (old, model) for p in m.parameters() if p.is_floating_point()), None)
    device = sample.device if sample is not None else torch.device("cpu")
    dtype = sample.dtype if sample is not None else torch.get_default_dtype()
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_meta:
                real = torch.empty(parameter.shape, dtype=dtype, device=device)
                part._parameters[name] = nn.Parameter(real, parameter.requires_grad)
    return module


def _judge(
    plan: Plan, measured: list[SiteFidelity]
) -> tuple[Plan, list[SiteFidelity], tuple[str, ...]]:
    """Act on each swap's ``require``: keep, warn, take the site out of the plan, or fail."""
    swaps: list[PlannedSwap] = []
    skipped = list(plan.skipped)
    sites: list[SiteFidelity] = []
    warnings: list[str] = []
    failed: list[str] = []
    for swap, fidelity in zip(plan.swaps, measured, strict=True):
        wanted = swap.require and swap.require["sqnr_db"]
        if wanted is None or fidelity.sqnr_db >= wanted:
            swaps.append(swap)
            sites.append(fidelity)
            continue
        text = f"{fidelity.path}: SQNR {fidelity.sqnr_db:.1f} dB is below {wanted:g} dB"
        if swap.require["on_violation"] == "revert":
            skipped.append(Skipped(swap.site.path, swap.site.role, f"reverted: {text}"))
            sites.append(SiteFidelity(fidelity.path, fidelity.sqnr_db, fidelity.cosine, True))
            warnings.append(f"reverted {text}")
            continue
        if swap.require["on_violation"] == "fail":
            failed.append(text)
        warnings.append(text)
        swaps.append(swap)
        sites.append(fidelity)
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CheckError(f"require not met: {failed[0]}{more}; the model is unchanged")
    kept = dataclasses.replace(plan, swaps=tuple(swaps), skipped=tuple(skipped))
    reverted = [site.path.rpartition(".")[0] + "." for site in sites if site.reverted]
    trims = (path for path in plan.trims if not path.startswith(tuple(reverted)))
    kept = dataclasses.replace(kept, trims=tuple(trims))
    return kept, sites, tuple(warnings)


def _flops(found: Found) -> int:
    """Of one image's forward pass through the original model."""
    return node_flops(found.capture.operations()) // max(found.capture.example_shape[0], 1)


def _images(batches: list[torch.Tensor]) -> int:
    return sum(len(batch) for batch in batches)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _versions() -> dict[str, str]:
    import timm

    return {
        "dcnify": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }
