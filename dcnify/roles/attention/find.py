"""Role ``attention``: plain self-attention over all tokens of the image, found from data flow.

The site is the innermost module around its core that takes the tokens and returns tokens of the
same shape, and through which the image reaches the output by the core alone (no residual, no gate
beside it).
"""

from __future__ import annotations

from torch import fx

from dcnify.graph.axes import Axes, Axis, raster_grid
from dcnify.graph.axis_rules import AxesOf
from dcnify.graph.capture import Capture, stack_of
from dcnify.graph.isolation.candidates import Candidate
from dcnify.graph.site import NearMiss, Pair, Site
from dcnify.roles.attention import AttentionFacts
from dcnify.roles.attention.cores import MASKED, Core, Cores, paths_around
from dcnify.roles.attention.deformable import find_deformable
from dcnify.roles.attention.enclosing import RESHAPES, enclosing_module
from dcnify.roles.attention.layout import layout_of, shape_of
from dcnify.roles.attention.region import region_around
from dcnify.roles.base import Seen
from dcnify.roles.find import site_at

ROLE = "attention"


def find_attention(capture: Capture, axes: AxesOf) -> list[Seen]:
    """Sites of this role, and what only looked like one, with the node each was found at."""
    found = find_deformable(capture, ROLE)
    all_cores = Cores.of(capture, axes)
    on_windows = paths_around(all_cores.windows)
    for cores in all_cores.whole:
        node = cores[0].node
        problem = next(filter(None, (_core_problem(capture, core) for core in cores)), None)
        seen: Site | NearMiss | str = problem or _site_around(capture, axes, cores)
        if isinstance(seen, Site) and seen.path in on_windows:
            seen = NearMiss(seen.path, ROLE, "it is called on windows of the image, too")
        if not isinstance(seen, str):
            found.append((node, seen))
            continue
        miss = NearMiss(next(reversed(stack_of(node).values()), ""), ROLE, seen)
        # Without the projection that changes the channels it would be a site, but half a layer.
        whole = not problem and not seen.startswith(RESHAPES)
        parts = _parts(capture, axes, cores, miss) if whole else []
        found += parts or [(node, miss)]
    return found


def _parts(capture: Capture, axes: AxesOf, cores: list[Core], miss: NearMiss) -> list[Seen]:
    """The attention, or each of several, as a part of a larger forward: sites once isolated."""

    def fits(first: fx.Node, last: fx.Node) -> bool:
        if not (first in axes and last in axes and shape_of(first) == shape_of(last)):
            return False
        layout = layout_of(axes[first], axes[last])
        return layout is not None and _problem_with(cores, *layout[1:], axes[last]) is None

    ends = region_around(capture, [core.node for core in cores], fits)
    if ends is not None:
        return [(cores[0].node, Candidate(miss, "attention_region", *ends))]
    if len(cores) == 1:
        return []
    return [part for core in cores for part in _parts(capture, axes, [core], miss)]


def _core_problem(capture: Capture, core: Core) -> str | None:
    if core.problem is not None:
        return core.problem
    if core.hides(capture):
        return MASKED
    square = core.queries.size == core.keys.size
    if core.mixes_channels and square:  # else the queries of a decoder, which mask channels have
        if core.width.spatial:
            return "cross-covariance attention: it mixes channels, not tokens"
        return f"its {core.queries.size} queries are channels or those of a decoder, not tokens"
    if not core.queries.spatial:
        count = core.queries.size
        return f"its {count} queries are not the image's tokens (class, pooling or block attention)"
    if core.keys.spatial and (core.keys.after or core.keys.before > core.queries.before):
        more = core.keys.after + max(core.keys.before - core.queries.before, 0)
        return f"cross-attention: {more} of its keys are not among the tokens that ask"
    if raster_grid(core.queries) is None:
        return "its tokens are not in raster order (rows, then columns)"
    return None


def _site_around(capture: Capture, axes: AxesOf, cores: list[Core]) -> Site | str:
    """The site around ``cores``, or why there is none."""
    nodes = [core.node for core in cores]
    found = enclosing_module(capture, axes, nodes, lambda *given: _problem_with(cores, *given))
    if isinstance(found, str):
        return found
    facts = AttentionFacts(
        heads=sum(core.heads for core in cores),
        prefix_tokens=found.tokens.before,
        returns=found.returns,
    )
    return site_at(capture, found.region, ROLE, found.layout, facts, found.grid)


def _problem_with(cores: list[Core], tokens: Axis, grid: Pair, _made: Axes) -> str | None:
    """Why not all of a module's tokens are queries."""
    if tokens.after or tokens.before != cores[0].queries.before:
        return "some of its tokens are not queries, or come after the image's"
    if any(raster_grid(core.queries) != grid for core in cores):
        return "its queries are a part of its tokens: window or block attention"
    return None
