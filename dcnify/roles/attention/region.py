"""Where an attention begins and ends inside a forward that does more: the steps to isolate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import fx

from dcnify.graph.axis_rules import operation
from dcnify.graph.capture import Capture
from dcnify.graph.site import Pair

_PROJECTIONS = ("linear", "addmm", "matmul", "mm", "conv2d", "convolution")


def region_around(
    capture: Capture,
    cores: Sequence[fx.Node],
    fits: Callable[[fx.Node, fx.Node], bool],
    *,
    grid_of: Callable[[fx.Node], Pair | None] | None = None,
) -> tuple[fx.Node, fx.Node] | None:
    """The nodes between which the model does nothing but this attention, projections included.

    All that the cores know of the model's inputs comes through the first node, the nearest that
    fits; all that becomes of the cores goes through the second, their output projection if there is
    one. Dropout, layer scale, gates and residuals stay outside.

    Args:
        capture: of the model.
        cores: where the attention mixes its values.
        fits: whether two nodes have the same shape, and are images or their tokens.
        grid_of: rows and columns of a node that is a map, where more follows the output projection:
            what puts windows back in their place.
    """
    sources = _bottlenecks(_ancestors(capture, cores), leaks=False)
    targets = _alone(capture, cores)
    projected = [i for i, node in enumerate(targets) if operation(node) in _PROJECTIONS]
    if projected:
        targets = targets[projected[-1] :] if grid_of else targets[: projected[-1] + 1]
    if grid_of:  # as little as can be around the windows, their padding included
        pairs = [(f, last) for f in _near(sources, grid_of) for last in targets]
    else:
        pairs = [(f, last) for last in reversed(targets) for f in reversed(sources)]
    return next((one for one in pairs if one[0] not in cores and fits(*one)), None)


def _near(
    sources: Sequence[fx.Node], grid_of: Callable[[fx.Node], Pair | None]
) -> Iterator[fx.Node]:
    """The nearest sources first, up to a map of another size than the nearest map.

    That is of another layer, even if its shape is the wanted one by chance.
    """
    nearest: Pair | None = None
    for node in reversed(sources):
        if _pads(node):
            continue
        grid = grid_of(node)
        nearest = nearest or grid
        if grid not in (None, nearest):
            return
        yield node


def _pads(node: fx.Node) -> bool:
    return operation(node) in ("pad", "constant_pad_nd")


def _ancestors(capture: Capture, cores: Sequence[fx.Node]) -> list[fx.Node]:
    """The cores, and what they depend on of that which depends on an input; in order."""
    wanted = set(cores)
    for node in reversed(capture.graph.nodes):
        if node in wanted:
            wanted.update(n for n in node.all_input_nodes if n in capture.input_dependent)
    return [node for node in capture.graph.nodes if node in wanted]


def _alone(capture: Capture, cores: Sequence[fx.Node]) -> list[fx.Node]:
    """Nodes that all of the cores' effect goes through, until something else is mixed in."""
    after, order = set(cores), list(cores)
    for node in capture.operations():
        given = [n for n in node.all_input_nodes if n in capture.input_dependent]
        if node in after or not after.intersection(given):
            continue
        if not after.issuperset(given):
            break
        after.add(node)
        order.append(node)
    return _bottlenecks(order, leaks=True)[0 if len(cores) == 1 else 1 :]


def _bottlenecks(order: Sequence[fx.Node], *, leaks: bool) -> list[fx.Node]:
    """Of nodes in order, those after which none of the earlier ones is read any more.

    Args:
        order: the nodes.
        leaks: whether being read by other nodes counts, too.
    """
    position = {node: index for index, node in enumerate(order)}
    found, furthest = [], 0
    for index, node in enumerate(order):
        if furthest <= index:
            found.append(node)
        readers = [position.get(user, len(order) if leaks else 0) for user in node.users]
        furthest = max(furthest, *readers, 0)
    return found
