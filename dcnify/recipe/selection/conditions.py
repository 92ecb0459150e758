"""The conditions a site must pass for a swap to take it, each with its refusal in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dcnify.recipe.model import Range, Swap
from dcnify.recipe.reading.origins import DataPath
from dcnify.recipe.selection import patterns

if TYPE_CHECKING:
    from dcnify.graph.site import Site


@dataclass(frozen=True)
class Condition:
    """One condition of a swap, and where in the recipe it stands."""

    key: DataPath
    """Path below the swap, such as ``("select", "where", "kernel")``."""
    refuse: Callable[[Site], str | None]
    """Why the site fails the condition, or None when it passes."""


def swap_conditions(swap: Swap) -> list[Condition]:
    """What a site must pass for ``swap`` to take it, in the order it is tested."""
    wanted = swap.select
    found = [Condition(("select", "role"), lambda site: _wrong_role(site, wanted.role))]
    if (modules := wanted.modules) is not None:
        found.append(Condition(("select", "modules"), lambda site: _unmatched(site, modules)))
    if swap.exclude:
        found.append(Condition(("exclude",), lambda site: _excluded(site, swap.exclude)))
    if (stages := wanted.stages) is not None:
        found.append(Condition(("select", "stages"), lambda site: _outside(site, stages)))
    for fact, value in wanted.where.conditions().items():
        found.append(Condition(("select", "where", fact), partial(_unmet_at, fact, value)))
    return found


def _unmet_at(fact: str, condition: tuple[int, int] | int | Range, site: Site) -> str | None:
    return unmet(fact, getattr(site, fact), condition)


def names_of(site: Site) -> tuple[str, ...]:
    """Every path under which the model holds the site's module."""
    return (site.path, *site.aliases)


def unmet(fact: str, value: object, condition: tuple[int, int] | int | Range) -> str | None:
    """Why a fact's value does not meet a condition, or None when it does."""
    name = fact.replace("_", " ")
    if value is None:
        return f"it has no {name}"
    if isinstance(condition, Range):
        numbers = value if isinstance(value, tuple) else (value,)
        if condition.min is not None and min(numbers) < condition.min:
            return f"{name} {show(value)} is below {condition.min}"
        if condition.max is not None and max(numbers) > condition.max:
            return f"{name} {show(value)} is above {condition.max}"
        return None
    same = value == condition or value == (condition, condition)
    return None if same else f"{name} {show(value)} is not {show(condition, short=True)}"


def show(value: object, *, short: bool = False) -> str:
    """A fact for a person: ``7x7``, or ``7`` where short; a range as ``3 to 5``."""
    if isinstance(value, tuple):
        height, width = value
        return str(height) if short and height == width else f"{height}x{width}"
    if isinstance(value, Range):
        if value.max is None:
            return f"{value.min} or more"
        return f"{value.max} or less" if value.min is None else f"{value.min} to {value.max}"
    return str(value)


def _wrong_role(site: Site, role: str) -> str | None:
    return None if site.role == role else f"role {site.role} is not {role}"


def _unmatched(site: Site, modules: tuple[str, ...]) -> str | None:
    if patterns.first_cover(modules, names_of(site)):
        return None
    some = ", ".join(map(repr, modules[:3])) + (", ..." if len(modules) > 3 else "")
    return f"path does not match {some}"


def _excluded(site: Site, exclude: tuple[str, ...]) -> str | None:
    pattern = patterns.first_cover(exclude, names_of(site))
    return f"excluded by {pattern!r}" if pattern else None


def _outside(site: Site, stages: tuple[int, ...]) -> str | None:
    return None if site.stage in stages else f"stage {site.stage} not in {list(stages)}"
