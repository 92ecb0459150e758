"""Isolate the regions that finders ask for, on a copy of the model, so that they can be sites."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from dcnify.graph.calls import Call
from dcnify.graph.capture import Capture, stack_of, twin_of
from dcnify.graph.evaluate import evaluate, evaluate_all
from dcnify.graph.isolate import isolate
from dcnify.graph.isolation.locate import Wanted, locate
from dcnify.graph.isolation.record import Isolation
from dcnify.graph.isolation.trace import CannotIsolate
from dcnify.graph.site import NearMiss
from dcnify.words import first_line


@dataclass(frozen=True)
class Candidate:
    """A near miss that would be a site if a part of its module's forward were a module."""

    miss: NearMiss
    name: str
    """For the region."""
    entry: fx.Node
    """Captured node whose value the region takes."""
    exit: fx.Node
    """Captured node whose value it returns."""


@dataclass(frozen=True)
class Isolated:
    """A copy of a model with regions isolated; it shares every tensor with the model."""

    model: nn.Module
    isolations: tuple[Isolation, ...]
    reasons: Mapping[NearMiss, str]
    """Why the others could not be, by what their finder said."""


def isolate_candidates(
    model: nn.Module,
    captured: Capture,
    candidates: Sequence[Candidate],
    prepare: Callable[[nn.Module], object],
) -> Isolated:
    """Isolate as many candidates as can be, on a copy of the model that was ``captured``.

    Candidates are in the order of the forward pass; ``prepare`` makes a copy of the model run here.
    """
    owners = {one: _owner(captured, one) for one in candidates}
    try:
        inputs = _inputs(captured)
        calls = _calls(model, captured, inputs, set(owners.values()), prepare)
        nodes = list(dict.fromkeys(n for one in candidates for n in (one.entry, one.exit)))
        values = dict(zip(nodes, evaluate_all(captured, nodes, inputs), strict=True))
    except Exception as error:  # a model is anybody's code
        reason = f"the model does not run on noise: {first_line(error)}"
        return Isolated(model, (), {one.miss: reason for one in candidates})
    twin = twin_of(model)
    isolations: list[Isolation] = []
    reasons: dict[NearMiss, str] = {}
    for candidate, path in owners.items():
        block = twin.get_submodule(path)
        wanted = _wanted(captured, candidate, inputs, values)
        name = _free_name(block, candidate.name)
        try:
            isolation = locate(block, path, name, calls.get(path), wanted)
            isolate(twin, isolation)
        except CannotIsolate as error:
            reasons.setdefault(candidate.miss, str(error))  # of its module's first call
        except Exception as error:  # a block, too
            reasons.setdefault(candidate.miss, f"{type(error).__name__}: {first_line(error)}")
        else:
            isolations.append(isolation)
    return Isolated(twin, tuple(isolations), reasons)


def _owner(captured: Capture, candidate: Candidate) -> str:
    """Path of the innermost module in whose one call the region lies."""
    entry, last = candidate.entry, candidate.exit
    for key, path in reversed(stack_of(last).items()):
        region = captured.region(key, path)
        if entry in region.nodes or entry in region.inputs:
            return path
    return ""


def _inputs(captured: Capture) -> dict[fx.Node, Any]:
    """The model's inputs by placeholder; the image is noise, to tell steps apart by value."""
    example = captured.example
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(example.shape, generator=generator).to(example.images)
    example = example.with_image(noise)
    known = {*captured.parameters, *captured.tensors}
    nodes = [n for n in captured.graph.nodes if n.op == "placeholder" and n not in known]
    return dict(zip(nodes, tree_leaves((example.args, dict(example.kwargs))), strict=True))


def _calls(
    model: nn.Module,
    captured: Capture,
    inputs: Mapping[fx.Node, Any],
    paths: set[str],
    prepare: Callable[[nn.Module], object],
) -> dict[str, Call]:
    """How each of the modules is called first."""
    runner = twin_of(model)
    runner.eval()
    prepare(runner)
    calls: dict[str, Call] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            calls.setdefault(path, Call(args, kwargs).map(torch.clone))

        return hook

    for path in paths:
        runner.get_submodule(path).register_forward_pre_hook(keep(path), with_kwargs=True)
    with torch.no_grad():
        captured.example.with_image(inputs[captured.image]).call(runner)
    return calls


def _wanted(
    captured: Capture,
    candidate: Candidate,
    inputs: Mapping[fx.Node, Any],
    values: Mapping[fx.Node, Tensor],
) -> Wanted:
    def function(x: Tensor) -> Tensor:
        return evaluate(captured, candidate.exit, {**inputs, candidate.entry: x})

    return Wanted(values[candidate.entry], values[candidate.exit], function)


def _free_name(block: nn.Module, name: str) -> str:
    taken, count = name, 1
    while hasattr(block, taken):
        count += 1
        taken = f"{name}_{count}"
    return taken
