"""Capture: one model, one example, one FX graph with shapes, owners and data flow.

`torch.export` records what a forward pass does as normalised ATen operations; for every node it
keeps the stack of modules that were running. The capture adds what the graph alone does not say:
how each module was called from Python, and which nodes depend on the image.
"""

import copy
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import cached_property
from io import StringIO
from types import MethodType
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind

from dcnify.errors import DcnifyError, InputError
from dcnify.graph.call_shape import CallShape, record_shapes
from dcnify.graph.calls import evaluating, output_tensor, tensors_in
from dcnify.graph.effects import base_of, late_writes, reads_no_value
from dcnify.graph.example import Example
from dcnify.graph.given_model import check_sizes, why_not_captured
from dcnify.graph.inlined import inline_wrapped
from dcnify.graph.part import part_called


@dataclass(frozen=True)
class Region:
    """The nodes that ran while one call of one module was on the stack."""

    path: str
    nodes: frozenset[fx.Node]
    inputs: tuple[fx.Node, ...]
    """Nodes outside that depend on the image and are read inside."""
    outputs: tuple[fx.Node, ...]
    """Nodes inside that depend on the image and are read outside."""


@dataclass(frozen=True)
class Capture:
    """The captured forward pass: all that the search for sites reads."""

    graph: fx.Graph
    example: Example
    image: fx.Node
    """The placeholder that holds the image."""
    parameters: dict[fx.Node, str]
    """Placeholders that hold a parameter, with its name in the model."""
    buffers: dict[fx.Node, str]
    """Placeholders that hold a buffer, with its name in the model."""
    calls: dict[str, tuple[CallShape, ...]]
    aliases: dict[str, tuple[str, ...]]
    """Other paths of the same module object, by each path that the graph may name."""
    parameter_count: dict[str, int]
    tensors: dict[fx.Node, torch.Tensor] = field(repr=False)
    """The live tensor behind each placeholder or attribute that is not an input."""

    @cached_property
    def image_dependent(self) -> frozenset[fx.Node]:
        """Nodes whose value depends on the image; weights made from weights are not among them."""
        return self._depending_on({self.image})

    @cached_property
    def input_dependent(self) -> frozenset[fx.Node]:
        """Nodes whose value depends on any input: the image, a time step, a text."""
        known = {*self.parameters, *self.tensors}
        inputs = {n for n in self.graph.nodes if n.op == "placeholder" and n not in known}
        return self._depending_on(inputs)

    @cached_property
    def parameter_dependent(self) -> frozenset[fx.Node]:
        """Nodes whose value depends on a parameter of the model."""
        return self._depending_on(set(self.parameters))

    def _depending_on(self, seen: set[fx.Node]) -> frozenset[fx.Node]:
        for node in self.graph.nodes:
            if node.op == "output" or reads_no_value(node):
                continue
            if any(arg in seen for arg in node.all_input_nodes):
                seen.add(node)
        return frozenset(seen)

    @cached_property
    def order(self) -> dict[fx.Node, int]:
        """The place of each node in the order of execution."""
        return {node: index for index, node in enumerate(self.graph.nodes)}

    @cached_property
    def late_writes(self) -> dict[fx.Node, list[fx.Node]]:
        """See `dcnify.graph.effects.late_writes`."""
        return late_writes(self.order)

    @cached_property
    def unwritten(self) -> dict[fx.Node, torch.Tensor]:
        """Those of ``tensors`` that nothing is written into before they are read again."""
        written = {base_of(node) for node in self.late_writes}
        return {node: tensor for node, tensor in self.tensors.items() if node not in written}

    @cached_property
    def _nodes_by_call(self) -> dict[str, list[fx.Node]]:
        found: dict[str, list[fx.Node]] = defaultdict(list)
        for node in self.graph.nodes:
            for key in stack_of(node):
                found[key].append(node)
        return found

    def region(self, key: str, path: str) -> Region:
        """The region of one module call; ``key`` and ``path`` come from `stack_of`."""
        nodes = frozenset(self._nodes_by_call[key])
        dependent = self.image_dependent
        inputs: dict[fx.Node, None] = {}
        outputs: dict[fx.Node, None] = {}
        for node in self._nodes_by_call[key]:
            for arg in node.all_input_nodes:
                if arg not in nodes and arg in dependent:
                    inputs[arg] = None
            if node in dependent and any(user not in nodes for user in node.users):
                outputs[node] = None
        return Region(path, nodes, tuple(inputs), tuple(outputs))

    def region_at(self, node: fx.Node, path: str) -> Region:
        """The region of the call of the module at ``path`` that ``node`` ran in."""
        key = next(key for key, owner in stack_of(node).items() if owner == path)
        return self.region(key, path)

    def is_called(self, path: str) -> bool:
        """Whether the module at ``path`` was called, under any of its names."""
        return any(self.calls.get(one) for one in (path, *self.aliases.get(path, ())))

    @property
    def classes(self) -> int:
        """How many classes the model tells apart; 0 unless it returns logits (B, classes)."""
        outputs: Any = self.graph.output_node().args[0]
        given = next(iter(outputs), None)
        value = given.meta.get("val") if isinstance(given, fx.Node) else None
        return int(value.shape[1]) if isinstance(value, torch.Tensor) and value.dim() == 2 else 0

    def operations(self) -> Iterator[fx.Node]:
        """Nodes that compute something, in the order of execution."""
        return (node for node in self.graph.nodes if node.op == "call_function")


def stack_of(node: fx.Node) -> dict[str, str]:
    """Module calls that were running at ``node``, outermost first: call key -> module path."""
    stack = node.meta.get("nn_module_stack") or {}
    return {key: path for key, (path, _type) in stack.items() if path}


def capture(
    model: nn.Module, example: Any, prepare: Callable[[nn.Module], object] | None = None
) -> Capture:
    """Capture ``model`` on an example (see `Example.of`) in eval mode; it is left as it was.

    ``prepare`` makes layers of the twin that is traced traceable, in place.

    Raises:
        InputError: the model refuses the example, or cannot be exported.
    """
    example = Example.of(example)
    twin = twin_of(model)
    twin.eval()  # not chained: some classes' own train() returns nothing
    part = example.called(twin)
    if prepare is not None:
        prepare(twin)
    _put_forwards_into_classes(twin)
    calls: dict[str, list[CallShape]] = defaultdict(list)
    for path, module in twin.named_modules():
        record_shapes(module, calls[path])
    if part is not twin:  # what the graph says of its layers goes by their paths in the model
        twin.forward = part.__call__
    twin.register_forward_hook(lambda _module, _args, output: _plain_output(output))
    logged = logging.root.manager.disable
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # Where it fails it prints graphs and stacks; the error says it in one line.
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            kwargs = dict(example.kwargs)
            logging.disable(logging.ERROR)
            program = torch.export.export(twin, example.args, kwargs, strict=False)
            inline_wrapped(program.graph_module)
            check_sizes(program.graph)
    except Exception as error:
        raise InputError(
            f"the model does not run on a {example.describe()} input: {why_not_captured(error)}"
            f"{other_part(model, example)}"
        ) from error
    finally:
        logging.disable(logged)
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return _assemble(model, program, example, calls)


def other_part(model: nn.Module, example: Example) -> str:
    """Name the part of the model that is given the images, if there is one and it runs on them."""
    try:
        found = None if example.part else part_called(model, example.args, example.kwargs)
        if found is None:
            return ""
        with torch.no_grad(), evaluating(model):
            found.call(model)
    except Exception:  # whatever a model may raise; the part is no way out
        return ""
    return f"; look at {found.part} alone: --part {found.part}, Example(..., part={found.part!r})"


def _plain_output(output: Any) -> tuple[torch.Tensor, ...]:
    """The tensors of an output of any type, those by which outputs are compared first."""
    tensors = tuple(tensors_in(output))
    try:
        main = output_tensor(output)
    except DcnifyError:  # nothing to compare by; there may be sites all the same
        return tensors
    return (main, *(tensor for tensor in tensors if tensor is not main))


def _assemble(
    model: nn.Module, program: Any, example: Example, calls: dict[str, list[CallShape]]
) -> Capture:
    by_name = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    parameters: dict[fx.Node, str] = {}
    buffers: dict[fx.Node, str] = {}
    tensors: dict[fx.Node, torch.Tensor] = {}
    inputs: list[fx.Node | None] = []
    for spec in program.graph_signature.input_specs:
        node = by_name.get(getattr(spec.arg, "name", ""))
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(node)
        if node is None or spec.kind == InputKind.USER_INPUT:
            continue
        value = program.state_dict.get(spec.target, program.constants.get(spec.target))
        if isinstance(value, torch.Tensor):
            tensors[node] = value
        if spec.kind == InputKind.PARAMETER:
            parameters[node] = spec.target
        if spec.kind == InputKind.BUFFER:
            buffers[node] = spec.target
    for node in program.graph.nodes:
        if node.op == "get_attr":
            tensors[node] = getattr(program.graph_module, node.target)
    image = inputs[example.image_leaf]
    if image is None:
        raise InputError("the model's output does not depend on its input")
    paths_of: dict[int, list[str]] = defaultdict(list)
    for path, module in model.named_modules(remove_duplicate=False):
        paths_of[id(module)].append(path)
    modules = dict(model.named_modules(remove_duplicate=False))
    return Capture(
        graph=program.graph,
        example=example,
        image=image,
        parameters=parameters,
        buffers=buffers,
        calls={path: tuple(seen) for path, seen in calls.items() if seen},
        aliases={p: tuple(q for q in same if q != p) for same in paths_of.values() for p in same},
        parameter_count={
            path: sum(p.numel() for p in module.parameters()) for path, module in modules.items()
        },
        tensors=tensors,
    )


def twin_of(model: nn.Module) -> nn.Module:
    """A copy of the module tree that shares every tensor with the original.

    Tracing may write to a module (caches of position biases, for one); it shall not be the user's.
    """
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for module in model.modules():  # a remembered activation cannot be copied either
        shared |= {id(v): v for v in vars(module).values() if isinstance(v, torch.Tensor)}
    return copy.deepcopy(model, memo=shared)


def _put_forwards_into_classes(twin: nn.Module) -> None:
    """Give modules with a forward of their own a class of their own that has it.

    Where a model holds one module twice, `torch.export` passes stand-ins for modules to forwards
    and follows paths through them; a method that is bound to the module itself would lose the path.
    """
    for module in twin.modules():
        own = vars(module).get("forward")
        if isinstance(own, MethodType) and own.__self__ is module:
            kind = type(module)
            names = {name: getattr(kind, name) for name in ("__module__", "__qualname__")}
            module.__class__ = type(kind.__name__, (kind,), {**names, "forward": own.__func__})
            del module.forward
