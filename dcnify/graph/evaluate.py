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
from dcnify.graph.effects import base_of, is_write, steps_to


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


def evaluate_all(
    captured: Capture, targets: Sequence[fx.Node], given: Mapping[fx.Node, Tensor]
) -> list[Tensor]:
    """As `evaluate`, for several nodes that share what they need."""
    known = ChainMap[fx.Node, Any](dict(given), captured.unwritten)
    return _run(
        captured, targets, known, *steps_to(targets, known, captured.order, captured.late_writes)
    )


def constant_value(captured: Capture, target: fx.Node) -> Tensor | None:
    """The value of a node that no input of the model can influence; None of any other.

    It is that with all that is written into it: a mask of ones in which rows are set to zero.
    """
    known = ChainMap[fx.Node, Any]({}, captured.unwritten)
    order, late = captured.order, captured.late_writes
    steps, written = steps_to([target], known, order, late, final=True)
    if not captured.input_dependent.isdisjoint((target, *steps)):
        return None
    try:
        return _run(captured, [target], known, steps, written, final=True)[0]
    except (RuntimeError, UndeterminedError):  # an operation that does not run here
        return None


@torch.no_grad()
def _run(
    captured: Capture,
    targets: Sequence[fx.Node],
    known: MutableMapping[fx.Node, Any],
    steps: Sequence[fx.Node],
    written: bool,
    *,
    final: bool = False,
) -> list[Tensor]:
    """The values of ``targets``, see `steps_to`."""
    before: dict[fx.Node, Any] = {}
    for node in steps:
        if node in captured.tensors:
            known[node] = captured.tensors[node].clone()  # the model's own, not to be written into
            continue
        if node.op != "call_function":
            raise UndeterminedError(f"{node.name} depends on more than was given")
        run: Any = node.target
        given_args: Any = fx.map_arg(
            (node.args, node.kwargs), lambda n: known[n] if n in known else _of_its_shape(n)
        )
        args, kwargs = given_args
        if is_write(node) and not (written and base_of(node) in steps):  # not into what is given
            args = (args[0].clone(), *args[1:])
        # What is given need not have the captured strides, on which a view would insist.
        run = torch.reshape if run is torch.ops.aten.view.default and not written else run
        known[node] = run(*args, **kwargs)
        if written and node in targets and not final:
            before[node] = known[node].clone()  # before anything is written into it
    return [before[target] if target in before else known[target] for target in targets]


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
