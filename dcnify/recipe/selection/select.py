"""Applies a recipe to the sites of a model: which swap takes which site, and why others stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dcnify.errors import CheckError
from dcnify.recipe.model import Recipe, Swap
from dcnify.recipe.reading.origins import DataPath
from dcnify.recipe.selection import patterns
from dcnify.recipe.selection.conditions import Condition, names_of, swap_conditions
from dcnify.recipe.selection.no_sites import NoSitesError, nothing_selected

if TYPE_CHECKING:
    from dcnify.graph.site import Site, Sites


@dataclass(frozen=True)
class Selection:
    """Which swap takes which site."""

    chosen: tuple[tuple[Site, Swap], ...]
    """In the order of the sites."""
    skipped: tuple[tuple[str, str, str], ...]
    """(path, role, reason) of every other site and of every near miss."""
    hits: dict[str, int]
    """Sites that each swap took, by name."""
    notes: tuple[str, ...] = ()
    """Patterns and stages that touched nothing, one line each, for a person to look at."""


def select(recipe: Recipe, sites: Sites) -> Selection:
    """Let each swap, in order, take the sites it selects that no earlier swap has.

    Raises:
        InputError: a swap takes nothing; says which condition emptied it and what there is.
        CheckError: a swap takes fewer or more sites than its ``expect``.
    """
    conditions = {swap.name: swap_conditions(swap) for swap in recipe.swaps}
    taker: dict[int, Swap] = {}
    for index, swap in enumerate(recipe.swaps):
        wanted = [i for i, site in enumerate(sites) if not _refusal(conditions[swap.name], site)]
        free = [i for i in wanted if i not in taker]
        if not free:
            earlier = sorted({taker[i].name for i in wanted})
            words, key = nothing_selected(swap, conditions[swap.name], sites, earlier, len(wanted))
            where = recipe.origins.prefix(("swaps", index, *key))
            raise NoSitesError(f"{where}swap {swap.name!r} selects nothing: {words}")
        taker.update(dict.fromkeys(free, swap))

    hits = {swap.name: sum(t is swap for t in taker.values()) for swap in recipe.swaps}
    _check_expectations(recipe, hits)
    skipped = [
        (site.path, site.role, _reason(site, recipe, conditions))
        for i, site in enumerate(sites)
        if i not in taker
    ]
    skipped += [(miss.path, miss.role, miss.reason) for miss in sites.near_misses]
    return Selection(
        chosen=tuple((sites[i], taker[i]) for i in sorted(taker)),
        skipped=tuple(skipped),
        hits=hits,
        notes=tuple(_idle(recipe, sites)),
    )


def _refusal(conditions: list[Condition], site: Site) -> str | None:
    return next((words for c in conditions if (words := c.refuse(site))), None)


def _reason(site: Site, recipe: Recipe, conditions: dict[str, list[Condition]]) -> str:
    said = [
        f"{_refusal(conditions[swap.name], site)} (swap {swap.name})"
        for swap in recipe.swaps
        if swap.select.role == site.role
    ]
    return "; ".join(said) or f"role {site.role}, no swap selects it"


def _check_expectations(recipe: Recipe, hits: dict[str, int]) -> None:
    for index, swap in enumerate(recipe.swaps):
        if swap.expect is None:
            continue
        least, most, count = swap.expect.min, swap.expect.max, hits[swap.name]
        if least is not None and count < least:
            bound, words = "min", f"at least {least}"
        elif most is not None and count > most:
            bound, words = "max", f"at most {most}"
        else:
            continue
        where = recipe.origins.prefix(("swaps", index, "expect", bound))
        sites = "1 site" if count == 1 else f"{count} sites"
        raise CheckError(f"{where}swap {swap.name!r} selects {sites}, expected {words}")


def _idle(recipe: Recipe, sites: Sites) -> list[str]:
    """Parts of a recipe that touched nothing although their swap selects something."""
    notes = []
    for index, swap in enumerate(recipe.swaps):
        ours = [site for site in sites if site.role == swap.select.role]
        what = f"no {swap.select.role} site"

        def note(key: DataPath, words: str, index: int = index, swap: Swap = swap) -> None:
            where = recipe.origins.prefix(("swaps", index, *key))
            notes.append(f"{where}swap {swap.name!r}: {words}")

        for key, given in (
            (("select", "modules"), swap.select.modules or ()),
            (("exclude",), swap.exclude),
        ):
            for i, pattern in enumerate(given):
                if not any(patterns.first_cover([pattern], names_of(site)) for site in ours):
                    note((*key, i), f"{key[-1]} pattern {pattern!r} matches {what}")
        for i, stage in enumerate(swap.select.stages or ()):
            if stage not in {site.stage for site in ours}:
                note(("select", "stages", i), f"{what} is in stage {stage}")
    return notes
