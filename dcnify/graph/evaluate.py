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

from dcnify.graph.capture import Capture


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
        if missing:
            pending.extend(missing)
            continue
        if node.op != "call_function":
            raise UndeterminedError(f"{node.name} depends on more than was given")
        run: Any = node.target
        given_args: Any = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        args, kwargs = given_args
        if getattr(run, "_schema", None) is not None and run._schema.is_mutable:
            args = (args[0].clone(), *args[1:])
        # What is given need not have the captured strides, on which a view would insist.
        run = torch.reshape if run is torch.ops.aten.view.default else run
        known[node] = run(*args, **kwargs)
        pending.pop()
    return [known[target] for target in targets]


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Run small operations on this thread alone: to wake others would take longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
