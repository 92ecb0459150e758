"""Requirements of a recipe: ``require`` for each layer, ``certify`` for the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dcnify.errors import CheckError
from dcnify.surgery.require.revert import revert
from dcnify.surgery.result import OutputFidelity, SiteFidelity

if TYPE_CHECKING:
    from dcnify.recipe import Recipe
    from dcnify.surgery.fidelity.measurements import Measurements


def apply_requirements(measurements: Measurements) -> None:
    """Act on each swap's ``require``: keep the new layer, warn, put the old one back, or fail.

    Raises:
        CheckError: a layer misses what it must reach, and the recipe says ``fail``.
    """
    reverted: dict[str, str] = {}
    warnings: list[str] = []
    failed: list[str] = []
    plan = measurements.transaction.plan
    for swap, fidelity in zip(plan.swaps, measurements.sites, strict=True):
        if swap.require is None or fidelity.sqnr_db >= swap.require["sqnr_db"]:
            continue
        text = below_required(fidelity, swap.require)
        action = swap.require["on_violation"]
        if action == "revert":
            reverted[fidelity.path] = text
            continue
        warnings.append(text)
        failed += [text] if action == "fail" else []
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CheckError(f"require not met: {failed[0]}{more}; the model is unchanged")
    measurements.warnings += tuple(warnings)
    revert(measurements, reverted)


def below_required(fidelity: SiteFidelity, require: Mapping[str, Any]) -> str:
    """Say how a layer misses its ``require``."""
    return f"{fidelity.path}: SQNR {fidelity.sqnr_db:.1f} dB is below {require['sqnr_db']:g} dB"


def certify(recipe: Recipe, model: nn.Module, output: OutputFidelity) -> None:
    """Check the output against the ``certify`` of the recipe, if there is one.

    Raises:
        CheckError: the output errs more than it allows.
    """
    if recipe.certify is None:
        return
    bound = allowed_error(recipe.certify.relative_error, model)
    if not output.relative_error <= bound:
        where = recipe.origins.prefix(("certify", "relative_error"))
        raise CheckError(
            f"{where}not certified: the output's relative error is {output.relative_error:.2e}, "
            f"at most {bound:.2g} is allowed; the model is unchanged"
        )


def allowed_error(wanted: float, model: nn.Module) -> float:
    """The relative error that ``certify`` allows; never less than rounding alone costs."""
    floats = (p.dtype for p in model.parameters() if p.is_floating_point())
    coarsest = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
    return max(wanted, 8 * coarsest) if coarsest > torch.finfo(torch.float32).eps else wanted
