"""The stages that a fine-tuning goes through."""

from collections.abc import Callable, Sequence

from torch import nn

from dcnify.artifact import Artifact
from dcnify.errors import InputError
from dcnify.recipe import Recipe, load_finetune
from dcnify.recipe.finetune.section import Finetune, HandOver
from dcnify.surgery.handover import handovers


def stages_of(
    record: Artifact,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
    usual: str = "align,recover",
) -> Finetune:
    """Load the stages: of ``recipe``, else of the artifact's recipe, else the ``usual`` presets.

    ``recipe`` and ``overrides`` are as `dcnify.recipe.load_finetune` takes them.
    """
    for one in overrides:
        if one.startswith("swaps"):
            raise InputError(f"--set {one}: the layers are swapped already; set finetune.stages...")
    if recipe is not None:
        return load_finetune(recipe, overrides)
    origin = f"{record.path}/recipe.yaml"
    replaced = any(one.startswith("finetune=") for one in overrides)
    if not replaced and Recipe.from_yaml(record.recipe, origin).finetune is None:
        say(f"the artifact's recipe has no fine-tuning: its stages are {usual}")
        return load_finetune(usual, overrides)
    changed = Recipe.from_yaml(record.recipe, origin, overrides).finetune
    if changed is None:
        raise InputError("--set finetune=null leaves no stage to train")
    return changed


def with_handover(plan: Finetune, model: nn.Module, say: Callable[[str], None]) -> Finetune:
    """Return the plan, with a handover in its last stage if layers hand over and no stage has one.

    Raises `InputError` if a stage has a handover, and no layer hands over.
    """
    layers = handovers(model)
    asked = [stage.name for stage in plan.stages if stage.handover is not None]
    if asked and not layers:
        raise InputError(
            f"stage {asked[0]}: handover: no layer of the artifact hands over; convert with "
            "'handover: true' on a swap"
        )
    if not layers or asked:
        return plan
    last = plan.stages[-1].name
    say(f"{len(layers)} layers hand over, in stage {last} (its handover: is not set)")
    return handing_over(plan)


def handing_over(plan: Finetune) -> Finetune:
    """Return the plan with the usual handover in its last stage."""
    *before, last = plan.stages
    handing = last.model_copy(update={"handover": HandOver()})
    return plan.model_copy(update={"stages": (*before, handing)})
