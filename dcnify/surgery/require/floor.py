"""The floor of a conversion: what a recipe requires of the converted model's output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcnify.errors import CheckError
from dcnify.surgery.plan import Plan
from dcnify.surgery.require.revert import output_without, revert, worst_first
from dcnify.surgery.result import OutputFidelity, OutputRequirement

if TYPE_CHECKING:
    from dcnify.recipe import Recipe
    from dcnify.surgery.fidelity.measurements import Measurements

RUIN = 0.5
"""Agreement below which a conversion is warned of although its recipe requires nothing."""


def hold_floor(
    recipe: Recipe,
    measurements: Measurements,
    *,
    given_images: bool,
    held_out: bool = True,
    broken: str | None = None,
) -> OutputRequirement | None:
    """Act on the recipe's ``require`` of the output: keep the model, warn, revert layers, or fail.

    Args:
        recipe: what it requires.
        measurements: of a conversion that is complete but for this.
        given_images: the user gave the images; the advice depends on it.
        held_out: the images that are measured are not those that were calibrated on. If they are,
            what is measured shows nothing, and counts as missed.
        broken: name of a weight of the original that is NaN or infinite.

    Returns:
        What was required and whether it is met; None if nothing is required.

    Raises:
        CheckError: the output misses it, and the recipe says ``fail``; or the original is broken,
            unless the recipe says ``warn``.
    """
    if broken is not None:
        _refuse_broken(recipe, measurements, broken)
    transaction = measurements.transaction
    exempt = exemption(transaction.plan, measurements.untrained)
    advice = next_step(recipe, given_images)
    if recipe.require is None:
        if not exempt and (words := _ruined(measurements.output)):
            measurements.warnings += (f"{words}: {advice}, or fine-tune it",)
        return None
    asked = recipe.require.model_dump()
    exempt = exempt or unmeasured(asked, measurements.output)
    if exempt:
        if measurements.seems_untrained and (missed := shortfall(asked, measurements.output)):
            measurements.warnings += (f"require not checked, and would not be met: {missed}",)
        return OutputRequirement(asked, None, exempt)
    if not held_out:
        return _not_measured(recipe, measurements)
    missed = shortfall(asked, measurements.output)
    while missed and asked["on_violation"] == "revert" and transaction.plan.swaps:
        _revert_until_met(asked, measurements, missed)
        missed = shortfall(asked, measurements.output)
    if not missed:
        return OutputRequirement(asked, True)
    if asked["on_violation"] == "fail":
        where = recipe.origins.prefix(("require",))
        raise CheckError(
            f"{where}require not met: {missed}; the model is unchanged: {advice}, put the worst "
            "layers back (--set require.on_violation=revert), or take it as it is, to fine-tune it "
            "(--set require.on_violation=warn)"
        )
    measurements.warnings += (f"require not met: {missed}: {advice}, or fine-tune it",)
    return OutputRequirement(asked, False, missed)


def _refuse_broken(recipe: Recipe, measurements: Measurements, broken: str) -> None:
    words = f"the original's {broken} holds NaN or infinite values"
    if recipe.require is None or recipe.require.on_violation != "warn":
        raise CheckError(
            f"{words}: take weights from before that happened; the model is unchanged (to convert "
            "it nevertheless: --set require.on_violation=warn)"
        )
    measurements.warnings += (words,)


def _not_measured(recipe: Recipe, measurements: Measurements) -> OutputRequirement:
    """Act on a ``require`` of an output that was measured on what it was calibrated on alone."""
    assert recipe.require is not None
    missed = "nothing was measured on images that were not calibrated on"
    words = f"{missed}: give two or more (--images DIR), or install 'dcnify[data]'"
    if recipe.require.on_violation != "warn":
        where = recipe.origins.prefix(("require",))
        raise CheckError(f"{where}require not met: {words}; the model is unchanged")
    measurements.warnings += (f"require not met: {words}",)
    return OutputRequirement(recipe.require.model_dump(), False, missed)


def exemption(plan: Plan, untrained: str | None) -> str | None:
    """Say why no output can be required of a conversion, or None.

    ``untrained`` is why the original is taken for untrained, if it is.
    """
    if any(swap.init[-1]["method"] == "paper" for swap in plan.swaps):
        return "init: paper starts at zero output on purpose"
    if plan.swaps and all(swap.handover for swap in plan.swaps):
        return "with handover the model starts as the original"
    return untrained


def unmeasured(asked: dict[str, Any], output: OutputFidelity) -> str | None:
    """Say why nothing of what is asked can be measured at this output, or None."""
    if asked["cosine"] is None and output.top1_agreement is None:
        return "the output is not (B, classes), and no cosine is asked for"
    return None


def shortfall(asked: dict[str, Any], output: OutputFidelity) -> str:
    """Say by what the output misses what is asked; empty if by nothing."""
    missed = []
    agreement, kl, cosine = (asked[key] for key in ("agreement", "kl", "cosine"))
    agreed = output.top1_agreement
    if agreement is not None and agreed is not None and not agreed >= agreement:
        missed.append(f"agreement {_percent(agreed)} is below {_percent(agreement)}")
    if kl is not None and output.kl is not None and not output.kl <= kl:
        missed.append(f"KL {output.kl:.3g} is above {kl:g}")
    if cosine is not None and not output.cosine >= cosine:
        missed.append(f"cosine {output.cosine:.3g} is below {cosine:g}")
    return ", ".join(missed)


def next_step(recipe: Recipe, given_images: bool) -> str:
    """Say what brings the converted model closer to the original."""
    from dcnify.recipe import builtins

    if any(step.method == "calibrate" for swap in recipe.swaps for step in swap.init):
        more = "calibrate on more images or for more steps (--image-count N, model_steps: N)"
        return more if given_images else "calibrate on images of yours (--images DIR)"
    calibrated = f"{recipe.name}-calibrated"
    how = f"-r {calibrated}" if calibrated in builtins() else "init: [fit, calibrate]"
    return f"calibrate with --images DIR ({how})"


def warn_of_worse_than_zero(measurements: Measurements) -> None:
    """Name every new layer whose output is farther from the old one's than zeros would be."""
    kept = [site for site in measurements.sites if not site.reverted]
    below = [f"{site.path} {site.sqnr_db:.1f} dB" for site in kept if not site.sqnr_db >= 0]
    if below:
        measurements.warnings += (
            f"{len(below)} of {len(kept)} new layers are worse than an output of zeros (SQNR below "
            f"0 dB): {', '.join(below)}",
        )


def _revert_until_met(asked: dict[str, Any], measurements: Measurements, missed: str) -> None:
    """Put back as few of the layers as it takes, the worst first, by bisection.

    Every number of layers that is tried is measured; with all of them back the model is the
    original.
    """
    plan = measurements.transaction.plan
    reasons = {
        site.path: f"{site.path}: SQNR {site.sqnr_db:.1f} dB, as the output's {missed}"
        for site in worst_first(plan, measurements.sites)
    }
    too_few, enough = 0, len(reasons)
    while enough - too_few > 1:
        count = (too_few + enough) // 2
        met = not shortfall(asked, output_without(measurements, _first(reasons, count)))
        too_few, enough = (too_few, count) if met else (count, enough)
    revert(measurements, _first(reasons, enough))


def _first(reasons: dict[str, str], count: int) -> dict[str, str]:
    return dict(list(reasons.items())[:count])


def _ruined(output: OutputFidelity) -> str:
    if output.top1_agreement is not None and output.top1_agreement < RUIN:
        return f"agreement {_percent(output.top1_agreement)}: little is left of the original"
    if not output.sqnr_db >= 0:
        return f"SQNR {output.sqnr_db:.1f} dB: the output is worse than zeros"
    return ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
