"""Explains a swap that takes no site: which condition emptied it, and what there is instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from dcnify.errors import InputError
from dcnify.recipe.model import Swap
from dcnify.recipe.reading.origins import DataPath
from dcnify.recipe.selection import patterns
from dcnify.recipe.selection.conditions import Condition, names_of, show

if TYPE_CHECKING:
    from dcnify.graph.site import Site, Sites


class NoSitesError(InputError):
    """A swap of a recipe selects nothing in a model."""


def nothing_selected(
    swap: Swap, conditions: list[Condition], sites: Sites, earlier: list[str], wanted: int
) -> tuple[str, DataPath]:
    """The cause in words, and the path below the swap of the condition that is to blame.

    Args:
        earlier: names of the swaps that took what this one would have selected.
        wanted: how many sites pass all its conditions.
    """
    if wanted:
        names = " and ".join(map(repr, earlier))
        return f"all {wanted} that it would take went to {names}, which comes first", ()
    left: list[Site] = list(sites)
    for condition in conditions:
        passed = [site for site in left if not condition.refuse(site)]
        if not passed:
            return _cause(swap, condition.key, left, sites), condition.key
        left = passed
    raise AssertionError("some site passes every condition")


def _cause(swap: Swap, key: DataPath, left: list[Site], sites: Sites) -> str:
    """Why ``key`` lets none of the sites pass that came through every condition before it."""
    role = swap.select.role
    match key[-1]:
        case "role":
            return _no_role(role, sites)
        case "modules":
            return _no_module(swap.select.modules or (), role, left, sites)
        case "exclude":
            used = [p for p in swap.exclude if any(_covers(p, site) for site in left)]
            return f"{_these(left, role)} excluded by {', '.join(map(repr, used[:3]))}"
        case "stages":
            stages = sorted({site.stage for site in left})
            here = f"stage{'s' if len(stages) > 1 else ''} {', '.join(map(str, stages))}"
            wanted = list(swap.select.stages or ())
            return f"{_none_of(left, role, sites)} is in stages {wanted}; found in {here}"
        case fact:
            value = getattr(swap.select.where, str(fact))
            name = str(fact).replace("_", " ")
            found = [getattr(site, str(fact)) for site in left]
            if all(v is None for v in found):
                return f"{role} sites have no {name}"
            given = show(value, short=True)
            return f"{_none_of(left, role, sites)} has {name} {given}; found {_tally(found)}"


def _no_role(role: str, sites: Sites) -> str:
    misses = [miss for miss in sites.near_misses if miss.role == role]
    if misses:
        return (
            f"the model has no {role} site that can be swapped; "
            f"nearest is {misses[0].path!r}: {misses[0].reason}"
        )
    roles = Counter(site.role for site in sites)
    if not roles:
        return f"the model has no {role} site, nor a site of any other role"
    held = ", ".join(f"{count} of role {name}" for name, count in sorted(roles.items()))
    return f"the model has no {role} site; it has {held}"


def _no_module(given: tuple[str, ...], role: str, left: list[Site], sites: Sites) -> str:
    some = ", ".join(map(repr, given[:3])) + (", ..." if len(given) > 3 else "")
    covered = [path for path in sites.module_paths if patterns.first_cover(given, [path])]
    near = nearest(given, [name for site in left for name in names_of(site)])
    if covered:
        return (
            f"{some} matches {_count(len(covered), 'module')}, such as {covered[0]!r}, "
            f"but none is a {role} site; nearest of those: {', '.join(near)}"
        )
    near += [path for path in nearest(given, sites.module_paths) if path not in near]
    return f"no module path matches {some}; nearest: {', '.join(near[:4])}"


def nearest(given: Sequence[str], paths: Iterable[str], count: int = 2) -> list[str]:
    """The paths that look most like one of the patterns, the likest first."""
    wanted = [pattern.removeprefix(patterns.REGEX) for pattern in given]
    likeness: dict[str, float] = {}
    for pattern in wanted[:8]:
        matcher = SequenceMatcher(a="", b=pattern, autojunk=False)
        for path in paths:
            matcher.set_seq1(path)
            likeness[path] = max(likeness.get(path, 0.0), matcher.ratio())
    return sorted(likeness, key=lambda path: -likeness[path])[:count]


def _covers(pattern: str, site: Site) -> bool:
    return patterns.first_cover([pattern], names_of(site)) is not None


def _tally(values: Iterable[object]) -> str:
    counts = Counter(show(v) if v is not None else "none" for v in values)
    common = ", ".join(f"{value} ({_count(n, 'site')})" for value, n in counts.most_common(5))
    return common + (f" and {len(counts) - 5} more" if len(counts) > 5 else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _none_of(left: list[Site], role: str, sites: Sites) -> str:
    of_role = sum(site.role == role for site in sites)
    if len(left) == of_role:
        return f"no {role} site"
    return f"none of the {_count(len(left), f'{role} site')} that pass its other conditions"


def _these(left: list[Site], role: str) -> str:
    if len(left) == 1:
        return f"its one {role} site, {left[0].path!r}, is"
    return f"all {len(left)} {role} sites are"
