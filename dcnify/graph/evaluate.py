"""Run captured nodes to read what a layer computes, whatever its code looks like.

A weight may be standardised, re-parametrised, fused into one matrix with two others, or followed by
a folded normalisation. The graph knows; so weights are evaluated, not looked up by attribute name.
"""

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from dcnify.graph.capture import Capture, reads_no_value


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a captured operation by name, defaults among them."""
    target: Any = node.target
    given = {}
    for place, argument in enumerate(target._schema.arguments):
        value = argument.default_value if argument.has_default_value() else None
        value = node.args[place] if place < len(node.args) else value
        given[argument.name] = node.kwargs.get(argument.name, value)
    return given


class UndeterminedError(ValueError):
    """A node needs more than was given."""


def evaluate(captured: Capture, target: fx.Node, given: Mapping[fx.Node, Tensor]) -> Tensor:
    """Return the value of ``target`` when the nodes in ``given`` have these values.

    Only what ``target`` needs is run. Constants and parameters are the model's own tensors.
    """
    return evaluate_all(captured, [target], given)[0]


@torch.no_grad()
def evaluate_all(
    captured: Capture, targets: Sequence[fx.Node], given: Mapping[fx.Node, Tensor]
) -> list[Tensor]:
    """As `evaluate`, for several nodes that share what they need."""
    known: MutableMapping[fx.Node, Any] = ChainMap(dict(given), captured.tensors)
    pending = list(targets)
    while pending:
        node = pending[-1]
        if node in known:
            pending.pop()
            continue
        missing = [n for n in node.all_input_nodes if n not in known]
        if missing and not reads_no_value(node):
            pending.extend(missing)
            continue
        if node.op != "call_function":
            raise UndeterminedError(f"{node.name} depends on more than was given")
        run: Any = node.target
        given_args: Any = fx.map_arg(
            (node.args, node.kwargs), lambda n: known[n] if n in known else _of_its_shape(n)
        )
        args, kwargs = given_args
        if getattr(run, "_schema", None) is not None and run._schema.is_mutable:
            args = (args[0].clone(), *args[1:])
        # What is given need not have the captured strides, on which a view would insist.
        run = torch.reshape if run is torch.ops.aten.view.default else run
        known[node] = run(*args, **kwargs)
        pending.pop()
    return [known[target] for target in targets]


@torch.no_grad()
def constant_value(captured: Capture, target: fx.Node) -> Tensor | None:
    """The value of a node that no input of the model can influence; None of any other.

    Unlike `evaluate` it follows what is written into a tensor after it was made: a mask of ones in
    which rows are set to zero.
    """
    steps = _with_writes(captured, target)
    if target in captured.input_dependent or not captured.input_dependent.isdisjoint(steps):
        return None
    known: dict[fx.Node, Any] = {}
    for node in captured.graph.nodes:
        if node not in steps:
            continue
        if node in captured.tensors:
            known[node] = captured.tensors[node].clone()  # the model's own, not to be written to
        elif node.op == "call_function":
            args, kwargs = fx.map_arg(
                (node.args, node.kwargs), lambda n: known[n] if n in known else _of_its_shape(n)
            )
            try:
                known[node] = node.target(*args, **kwargs)
            except RuntimeError:  # an operation that does not run here
                return None
    return known.get(target)


def _with_writes(captured: Capture, target: fx.Node) -> set[fx.Node]:
    """What ``target`` is computed from, and all that writes into any of that."""
    writes = [node for node in captured.graph.nodes if _writes(node)]
    steps: set[fx.Node] = set()
    pending = [target]
    while pending:
        node = pending.pop()
        if node not in steps:
            steps.add(node)
            pending += [] if reads_no_value(node) else node.all_input_nodes
        if not pending:
            pending = [
                one for one in writes if one not in steps and _views(one).intersection(steps)
            ]
    return steps


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _views(write: fx.Node) -> set[fx.Node]:
    """What the tensor that is written to may be a view of."""
    found: set[fx.Node] = set()
    node: fx.Node | None = write
    while node is not None and node.all_input_nodes:
        node = node.all_input_nodes[0]
        found.add(node)
        if isinstance(node.target, torch._ops.OpOverload) and not node.target.is_view:
            break
    return found


def _of_its_shape(node: fx.Node) -> Tensor:
    value = node.meta["val"]
    return torch.empty(tuple(value.shape), dtype=value.dtype, device=value.device)


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Run small operations on this thread alone: to wake others would take longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
