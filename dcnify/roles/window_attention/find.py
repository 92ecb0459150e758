"""Role ``window_attention``: self-attention in windows of the image, found from data flow.

The windows may be shifted, padded, or spread over the image at a distance (a grid). The site is all
of it, from the map to the map: shift, pad, partition, attention, reverse, crop. It is a module of
its own, or a part of a block's forward that is isolated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, fx

from dcnify.graph.axes import COL, ROW, SPATIAL, Axes, Axis, Factor
from dcnify.graph.axis_rules import AxesOf
from dcnify.graph.capture import Capture, stack_of
from dcnify.graph.isolation.candidates import Candidate
from dcnify.graph.site import NearMiss, Pair, Site
from dcnify.roles.attention.cores import MASKED, Core, Cores, paths_around
from dcnify.roles.attention.enclosing import NO_MODULE, UNTRACED, enclosing_module
from dcnify.roles.attention.layout import layout_of, shape_of
from dcnify.roles.attention.masks import hides_nothing
from dcnify.roles.attention.region import region_around
from dcnify.roles.base import Seen
from dcnify.roles.find import site_at
from dcnify.roles.window_attention import WindowAttentionFacts

ROLE = "window_attention"
_STAYS = "its windows are not put back into the image before something else is computed of them"


def find_windows(capture: Capture, axes: AxesOf) -> list[Seen]:
    """Sites of this role, and what only looked like one, with the node each was found at."""
    found: list[Seen] = []
    all_cores = Cores.of(capture, axes)
    on_images = paths_around(all_cores.whole)
    for cores in all_cores.windows:
        node = cores[0].node
        problem = next(filter(None, (_core_problem(capture, core) for core in cores)), None)
        seen: Site | NearMiss | str = problem or _site_around(capture, axes, cores)
        if isinstance(seen, Site) and seen.path in on_images:
            seen = NearMiss(seen.path, ROLE, "it is called on whole images, too")
        if not isinstance(seen, str):
            found.append((node, seen))
            continue
        ends = None if problem else _ends(capture, axes, cores)
        stays = problem is None and ends is None and seen.endswith((UNTRACED, NO_MODULE))
        reason = f"{_text(cores[0])}: {_STAYS if stays else seen}"
        miss = NearMiss(next(reversed(stack_of(node).values()), ""), ROLE, reason)
        found.append((node, miss if ends is None else Candidate(miss, f"{ROLE}_region", *ends)))
    return found


def _core_problem(capture: Capture, core: Core) -> str | None:
    if core.problem is not None:
        return core.problem
    if core.hides(capture, _only_parts):
        return MASKED
    if _places(core.keys) != _places(core.queries):
        asked, seen = core.queries.size, core.keys.size
        return f"its {asked} queries and {seen} keys are not the same places (pooled, or a halo)"
    if window_of(core) is None:
        return "its tokens are not in raster order (rows, then columns)"
    return None


def _only_parts(mask: Tensor | None) -> bool:
    """Whether a mask does no more than divide windows into parts that do not see each other.

    So do the masks of shifted windows: whoever is seen sees, too.
    """
    if hides_nothing(mask):
        return True
    if mask is None or mask.is_meta or mask.dim() < 2 or mask.shape[-1] != mask.shape[-2]:
        return False
    return bool((mask == mask.mT).all())


def _places(axis: Axis) -> list[Factor]:
    return [factor for factor in axis.factors if factor.kind in SPATIAL]


def window_of(core: Core) -> tuple[Pair, Pair] | None:
    """(rows, columns) of a core's windows, and how far apart in the map; None if not in order."""
    sides: dict[str, tuple[int, int]] = {}
    for factor in core.queries.factors:
        if factor.kind not in SPATIAL or factor.kind in sides or COL in sides:
            return None
        sides[factor.kind] = factor.size, factor.stride
    (height, rows), (width, columns) = sides.get(ROW, (1, 1)), sides.get(COL, (1, 1))
    return (height, width), (rows, columns)


def _site_around(capture: Capture, axes: AxesOf, cores: list[Core]) -> Site | str:
    """The site around ``cores``, or why there is none."""
    nodes = [core.node for core in cores]
    found = enclosing_module(capture, axes, nodes, lambda *given: _problem_with(cores, *given))
    window = window_of(cores[0])
    if isinstance(found, str) or window is None:
        return str(found)
    facts = WindowAttentionFacts(
        heads=sum(core.heads for core in cores),
        window=window[0],
        dilation=window[1],
        returns=found.returns,
    )
    return site_at(capture, found.region, ROLE, found.layout, facts, found.grid)


def _problem_with(cores: Sequence[Core], tokens: Axis, grid: Pair, made: Axes) -> str | None:
    """Why the windows do not cover a module's tokens, from their places to their places."""
    if not tokens.plain:
        return "class or register tokens stand beside its windows"
    if not all(axis.in_place for axis in made if axis.spatial) or not any(a.spatial for a in made):
        return "what it returns is not in the place of what it takes (rolled, or in windows)"
    count = min(_covered(core) for core in cores)
    if count < math.prod(grid):
        return f"its windows hold {count} of {math.prod(grid)} tokens"
    return None


def _covered(core: Core) -> int:
    return math.prod(f.size for a in (core.queries, *core.others) for f in _places(a))


def _ends(capture: Capture, axes: AxesOf, cores: Sequence[Core]) -> tuple[fx.Node, fx.Node] | None:
    """The maps between which the model does nothing but this attention in windows."""

    def fits(first: fx.Node, last: fx.Node) -> bool:
        if not (first in axes and last in axes and shape_of(first) == shape_of(last)):
            return False
        layout = layout_of(axes[first], axes[last])
        return layout is not None and _problem_with(cores, *layout[1:], axes[last]) is None

    def grid_of(node: fx.Node) -> Pair | None:
        layout = layout_of(axes.get(node, ()), axes.get(node, ()))
        return layout[2] if layout else None

    return region_around(capture, [core.node for core in cores], fits, grid_of=grid_of)


def _text(core: Core) -> str:
    count = math.prod(f.size for axis in core.others for f in _places(axis))
    windows = "one window" if count == 1 else f"{count} windows"
    return f"window attention, {windows} of {core.queries.size} tokens"
