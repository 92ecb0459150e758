"""Find the steps of a block's traced forward that compute two given tensors, and prove the cut.

Tensors are recognised by their values: the block's trace is run on what the block was called with.
A region is accepted if it is the wanted function, and if the block with the region cut out computes
the same bits as before, in evaluation and, from the same random state, in training mode.
"""

import contextlib
import inspect
import itertools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

from dcnify.graph.calls import Call
from dcnify.graph.capture import twin_of
from dcnify.graph.isolate import isolate_traced
from dcnify.graph.isolation.concern import own_decisions
from dcnify.graph.isolation.cut import WHOLE, Cut, find_cut, is_size
from dcnify.graph.isolation.decide import decide
from dcnify.graph.isolation.fingerprint import fingerprint
from dcnify.graph.isolation.graphs import Graphs, forward_of, trace
from dcnify.graph.isolation.record import EVALUATION, TRAINING, Assumed, Isolation
from dcnify.graph.isolation.region import Region
from dcnify.graph.isolation.trace import CannotIsolate

_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Wanted:
    """A region, by what it computes in one call of its block."""

    entry: Tensor
    """Its input."""
    exit: Tensor
    """Its output for that input."""
    function: Callable[[Tensor], Tensor]
    """Maps another tensor of the entry's shape to the region's output."""


def locate(block: nn.Module, path: str, name: str, call: Call | None, wanted: Wanted) -> Isolation:
    """How to isolate the wanted region in ``block``; the block is not changed.

    Args:
        block: the innermost module that computes all of the region.
        path: of the block in the model.
        name: for the region.
        call: in which ``wanted`` was seen, in evaluation mode; None if there was none.
        wanted: what to look for.
    """
    if call is None:
        raise CannotIsolate("its code runs without a call of the module")
    arguments, keywords = _arguments(block, call)
    constants = {n: v for n, v in arguments.items() if v is None or isinstance(v, bool | str)}
    twin = twin_of(block)
    twin.eval()
    assumed = decide(twin, Assumed(constants, keywords), Call(tuple(arguments.values())))
    traces = trace(twin, assumed)
    seen = _Watcher(twin, traces.evaluation, wanted)
    with torch.no_grad():
        seen.run(*arguments.values())
    found = Isolation(path, name, "", "", fingerprint(traces), **vars(assumed))
    problem = CannotIsolate("no steps of its traced forward compute the region's input and output")
    for first, last in itertools.product(seen.entries, seen.exits):
        try:
            cut = find_cut(traces.evaluation, first.name, last.name)
            found = replace(
                found, entry=cut.entry.name, exit=cut.exit.name, sizes=_sizes(cut, seen.values)
            )
            found = replace(found, own=_own(twin, assumed, cut, _in_training(traces, cut)))
            _prove(block, found, call, wanted)
        except CannotIsolate as error:
            problem = error
        else:
            return found
    raise problem


def _arguments(block: nn.Module, call: Call) -> tuple[dict[str, Any], tuple[str, ...]]:
    """By name, in the order of the forward's parameters, and the names that it does not name."""
    signature = inspect.signature(forward_of(block))
    bound = signature.bind(block, *call.args, **call.kwargs)
    bound.apply_defaults()
    given = dict(list(bound.arguments.items())[1:])
    more: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            more = given.pop(parameter.name)
        elif parameter.kind is parameter.VAR_POSITIONAL and given.pop(parameter.name):
            raise CannotIsolate("it is called with more arguments than its forward names")
    return {**given, **more}, tuple(more)


class _Shape(tuple[int, ...]):
    """Of a tensor; a `torch.Size` is one that the block's code has read."""


class _Watcher(fx.Interpreter):
    """Runs a trace, and notes which steps compute the wanted tensors, and every size."""

    def __init__(self, block: nn.Module, graph: fx.Graph, wanted: Wanted) -> None:
        super().__init__(block, graph=graph)
        self.wanted = wanted
        self.entries: list[fx.Node] = []
        self.exits: list[fx.Node] = []
        self.values: dict[fx.Node, Any] = {}
        """Shapes of tensors; anything else as it is."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        is_tensor = isinstance(value, Tensor)
        self.values[n] = _Shape(value.shape) if is_tensor else value
        if is_tensor and n.op != "output":
            for tensor, steps in (
                (self.wanted.entry, self.entries),
                (self.wanted.exit, self.exits),
            ):
                if value.shape == tensor.shape and torch.equal(value, tensor):
                    steps.append(n)
        return value


def _sizes(cut: Cut, values: Mapping[fx.Node, Any]) -> dict[str, int]:
    """Which axis of the entry each size is that the region reads; see `cut_out`."""
    shape = tuple(values[cut.entry])
    sizes = _shaped_by(cut)
    for node in cut.outside:
        sizes |= _size(node, values, shape, sizes)
    for node in cut.asked:
        if _is_read(node, values) and not cut.knows(node):
            with contextlib.suppress(CannotIsolate):
                sizes |= _size(node, values, shape, sizes)
    return sizes


def _shaped_by(cut: Cut) -> dict[str, int]:
    """Which axis of the entry each step is that its code names in ``view(batch, height, ...)``."""
    if cut.entry.op != "call_method" or cut.entry.target not in ("view", "reshape"):
        return {}
    sizes: dict[str, int] = {}
    for axis, size in enumerate(cut.entry.args[1:]):
        if isinstance(size, fx.Node):
            for node in cut.graph.nodes:
                if _step(node) == _step(size):
                    sizes.setdefault(node.name, axis)
    return sizes


def _step(node: fx.Node) -> tuple[Any, ...]:
    return (node.op, node.target, node.args, node.kwargs) if node.args else (node,)


def _size(
    node: fx.Node, values: Mapping[fx.Node, Any], shape: tuple[int, ...], known: Mapping[str, int]
) -> dict[str, int]:
    """How a size follows from ``shape``: itself, or through what it is computed from."""
    if node.name in known:
        return {node.name: known[node.name]}
    value, inputs = values[node], node.all_input_nodes
    is_read = _is_read(node, values)
    if isinstance(value, torch.Size) and is_read and tuple(value) == shape:
        return {node.name: WHOLE}
    computed = node.op == "call_function" and not is_size(node)  # an item of a shape, for one
    if computed and not isinstance(value, _Shape):
        try:
            parts = [_size(one, values, shape, known) for one in inputs]
            return {name: axis for part in parts for name, axis in part.items()}
        except CannotIsolate:
            pass  # rows times columns may be an axis, though neither is
    axes = [axis for axis, size in enumerate(shape) if type(value) is int and size == value]
    if is_read and len(axes) > 1:
        own = node.args[1] if len(node.args) > 1 else None
        axes = [axis for axis in axes if axis == own and (axis == 0 or values[inputs[0]] == shape)]
    if len(axes) != 1:
        raise CannotIsolate(f"the region reads {node.name} besides its input")
    return {node.name: axes[0]}


def _is_read(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Whether a step reads the shape of a tensor, or a part of it."""
    sources = [values[one] for one in node.all_input_nodes[:1]]
    return is_size(node) or (
        node.target is operator.getitem and any(isinstance(one, torch.Size) for one in sources)
    )


def _own(block: nn.Module, assumed: Assumed, *cuts: Cut) -> tuple[str, ...]:
    """The decisions that concern the region alone, in both modes."""
    modes = zip((EVALUATION, TRAINING), cuts, strict=True)
    answers = [own_decisions(block, assumed, mode, cut) for mode, cut in modes]
    names = {name for one in answers for name in one}
    return tuple(sorted(name for name in names if all(one.get(name, True) for one in answers)))


def _in_training(traces: Graphs, cut: Cut) -> Cut:
    """The same region of the trace in training mode."""
    try:
        other = find_cut(traces.training, cut.entry.name, cut.exit.name)
    except CannotIsolate as error:
        raise CannotIsolate(f"in training mode, {error}") from None
    steps = [[(node.op, node.target) for node in one.inside] for one in (cut, other)]
    if steps[0] != steps[1]:
        raise CannotIsolate("in training mode the region takes other steps")
    return other


def _prove(block: nn.Module, isolation: Isolation, call: Call, wanted: Wanted) -> None:
    before, after = _copy(block), _copy(block)
    region = isolate_traced(after, trace(after, isolation.assumed), isolation)
    if sum(isinstance(module, Region) for module in region.modules()) > 1:
        raise CannotIsolate("a part of the region is isolated already")
    for module in region.modules():
        module.training = False
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(wanted.entry.shape, generator=generator).to(wanted.entry)
    noise = torch.empty_like(wanted.entry).copy_(noise)  # with its strides
    with torch.no_grad():
        expected, seen = wanted.function(noise), region(noise)
    if not (seen - expected).norm() <= _TOLERANCE * expected.norm():
        raise CannotIsolate("several of its steps have the same value, and none is the region")
    for training in (False, True):
        for module in (*before.modules(), *after.modules()):
            module.training = training
        if not _same(_run(before, call, ""), _run(after, call, isolation.name)):
            mode = "training" if training else "evaluation"
            raise CannotIsolate(f"it would compute something else in {mode} mode")


def _copy(block: nn.Module) -> nn.Module:
    """A copy that shares the parameters, and has buffers of its own."""
    twin = twin_of(block)
    for module in twin.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
    return twin


def _run(block: nn.Module, call: Call, region: str) -> list[Any]:
    """The results and side effects of a call; of one that fails, the type of its error.

    Buffers come in the order of their names in a block without ``region``.
    """
    devices = sorted({p.device.index or 0 for p in block.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(0)
        try:
            given = call.map(torch.clone)  # which it may change
            output = block(*given.args, **given.kwargs)
        except Exception as error:  # batch norm of one value, for one
            return [type(error)]
        leaves, spec = tree_flatten(output)
        named = {name.removeprefix(f"{region}."): b for name, b in block.named_buffers()}
        buffers = [named[name] for name in sorted(named)]
        return [spec, *leaves, *buffers, torch.random.get_rng_state()]


def _same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        for a, b in zip(left, right, strict=True)
    )
