"""The base recipe, narrowed to some of its sites, and its init for measuring."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dcnify.errors import CheckError, InputError
from dcnify.graph.site import Sites
from dcnify.recipe import Init, Recipe, builtins, select
from dcnify.recipe.selection.no_sites import NoSitesError
from dcnify.roles import ROLES
from dcnify.surgery import Plan


def narrowed(recipe: Recipe, plan: Plan, paths: Collection[str]) -> Recipe:
    """The recipe with its swaps selecting some sites only, by their paths.

    Args:
        recipe: the base.
        plan: what it does to the model.
        paths: sites of the plan.
    """
    swaps = []
    for swap in recipe.swaps:
        own = tuple(
            one.site.path for one in plan.swaps if one.swap == swap.name and one.site.path in paths
        )
        if own:
            selected = swap.select.model_copy(update={"modules": own})
            swaps.append(swap.model_copy(update={"select": selected, "expect": None}))
    return recipe.model_copy(update={"swaps": tuple(swaps)})


def starting(recipe: Recipe, init: str) -> Recipe:
    """The recipe with the init that swaps are measured with.

    Args:
        recipe: the base.
        init: ``recipe`` for its own; ``closed`` for its own without gradient steps; or a method.

    Raises:
        InputError: a swap's replacement does not know the method.
    """
    if init == "recipe":
        return recipe
    swaps = []
    for swap in recipe.swaps:
        steps = tuple(_without_gradients(one) for one in swap.init)
        if init != "closed":
            known = ROLES[swap.select.role].replacements[swap.replace.with_].methods
            if init not in known:
                words = f"swap {swap.name!r} knows only {', '.join(known)}"
                raise InputError(f"--init {init}: {words}")
            steps = (Init(method=init),)  # type: ignore[arg-type]  # one of the known
        swaps.append(swap.model_copy(update={"init": steps, "handover": False}))
    return recipe.model_copy(update={"swaps": tuple(swaps)})


def unconditional(recipe: Recipe) -> Recipe:
    """The recipe without what it requires of the output; the budget is what holds."""
    return recipe.model_copy(update={"require": None, "certify": None})


def usual_recipe(sites: Sites, overrides: Iterable[str]) -> Recipe:
    """The built-in recipe that selects most sites; of equals the first by name.

    Raises:
        InputError: none selects anything.
    """
    best: tuple[int, str] | None = None
    for name in builtins():
        try:
            count = len(select(Recipe.load(name), sites).chosen)
        except (NoSitesError, CheckError):
            continue
        if best is None or count > best[0]:
            best = count, name
    if best is None:
        raise InputError("no built-in recipe selects a layer of this model: name one with -r")
    return Recipe.load(best[1], overrides)


def _without_gradients(step: Init) -> Init:
    if step.method != "calibrate":
        return step
    return step.model_copy(update={"steps": 0, "model_steps": 0})
