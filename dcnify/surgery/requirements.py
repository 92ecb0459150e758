"""What a recipe demands of a conversion: ``require`` of each layer, ``certify`` of the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from dcnify.errors import CheckError
from dcnify.surgery.plan import Plan, PlannedSwap, Skipped
from dcnify.surgery.result import OutputFidelity, SiteFidelity

if TYPE_CHECKING:
    from dcnify.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is left of a plan when its layers have been judged."""

    plan: Plan
    """Without the layers whose original stays."""
    warnings: tuple[str, ...]


def judge(plan: Plan, measured: Sequence[SiteFidelity]) -> Verdict:
    """Act on each swap's ``require``: keep, warn, take the site out of the plan, or fail.

    Args:
        plan: what was done.
        measured: the fidelity of each of its swaps, in order.

    Raises:
        CheckError: a layer misses what it must reach, and the recipe says ``fail``.
    """
    swaps: list[PlannedSwap] = []
    skipped = list(plan.skipped)
    reverted: list[str] = []
    warnings: list[str] = []
    failed: list[str] = []
    for swap, fidelity in zip(plan.swaps, measured, strict=True):
        wanted = swap.require and swap.require["sqnr_db"]
        if wanted is None or fidelity.sqnr_db >= wanted:
            swaps.append(swap)
            continue
        text = f"{fidelity.path}: SQNR {fidelity.sqnr_db:.1f} dB is below {wanted:g} dB"
        action = swap.require["on_violation"]
        if action == "revert":
            skipped.append(Skipped(swap.site.path, swap.site.role, f"reverted: {text}"))
            reverted.append(fidelity.path)
            warnings.append(f"reverted {text}")
            continue
        swaps.append(swap)
        warnings.append(text)
        failed += [text] if action == "fail" else []
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CheckError(f"require not met: {failed[0]}{more}; the model is unchanged")
    blocks = tuple(path.rpartition(".")[0] + "." for path in reverted)
    trims = tuple(path for path in plan.trims if not path.startswith(blocks))
    kept = dataclasses.replace(plan, swaps=tuple(swaps), skipped=tuple(skipped), trims=trims)
    return Verdict(kept, tuple(warnings))


def certify(recipe: Recipe, model: nn.Module, output: OutputFidelity) -> None:
    """Fail unless the output is what the recipe promises.

    Raises:
        CheckError: it is not.
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
    """The relative error that ``certify`` allows: what it says, or what rounding alone costs."""
    floats = (p.dtype for p in model.parameters() if p.is_floating_point())
    coarsest = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
    return max(wanted, 8 * coarsest) if coarsest > torch.finfo(torch.float32).eps else wanted
