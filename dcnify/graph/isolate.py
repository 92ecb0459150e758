"""Isolate: turn what a block does between two of its tensors into a submodule of the block.

Sites are modules, so that a swap is an assignment. Where the code that a swap would replace is a
part of a larger forward, the forward is traced symbolically and cut in two; the function of the
model does not change. A plan records the isolation as plain data, and a loaded model repeats it.
"""

from collections.abc import Iterable

from torch import nn

from dcnify.errors import InputError
from dcnify.graph.isolation.cut import cut_out, find_cut
from dcnify.graph.isolation.fingerprint import fingerprint
from dcnify.graph.isolation.graphs import Graphs, trace
from dcnify.graph.isolation.record import Isolation
from dcnify.graph.isolation.region import Region, install, release
from dcnify.graph.isolation.trace import CannotIsolate, Undecided


def isolate(model: nn.Module, isolation: Isolation) -> Region:
    """Carry out ``isolation`` on ``model``, in place, on any device; return the new submodule.

    Raises `InputError` if the model has no such block, or its code is not what was planned for.
    """
    where = f"plan: {isolation.block or 'the model'} cannot be isolated as planned"
    try:
        block = model.get_submodule(isolation.block)
        traces = trace(block, isolation.assumed)
        if fingerprint(traces) != isolation.fingerprint:
            raise CannotIsolate(
                f"the forward of {type(block).__name__} is not the one that the plan was made for "
                "(another version of its package?)"
            )
        return isolate_traced(block, traces, isolation)
    except (AttributeError, CannotIsolate, Undecided) as error:
        raise InputError(f"{where}: {error}") from None


def isolate_traced(block: nn.Module, traces: Graphs, isolation: Isolation) -> Region:
    """As `isolate`, with the block and its fresh traces at hand; the traces are used up."""
    if isolation.name in block._modules:
        raise CannotIsolate(f"it has a submodule {isolation.name} already")
    parts = [
        cut_out(
            find_cut(graph, isolation.entry, isolation.exit, isolation.own),
            isolation.name,
            isolation.sizes,
        )
        for graph in traces
    ]
    outer, inner = (Graphs(*graphs) for graphs in zip(*parts, strict=True))
    return install(block, isolation.name, outer, inner)


def undo(model: nn.Module, isolations: Iterable[Isolation]) -> None:
    """Give blocks their own forward back; of several in one block, all have to be given."""
    for isolation in reversed(tuple(isolations)):
        release(model.get_submodule(isolation.block), isolation.name)
