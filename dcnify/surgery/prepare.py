"""Prepare a model: give it the structure that a plan's swaps stand in, and let it run here.

A plan's sites are paths of modules. Where the code that a swap replaces is a part of a module's
forward, it becomes a submodule first. Teacher, verification, timing and loading all go through
`prepare`, so that a path means the same layer everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dcnify.graph.example import Example
from dcnify.graph.isolate import isolate, undo
from dcnify.graph.isolation.record import Isolation, needed
from dcnify.roles import ROLES
from dcnify.surgery.plan import Plan
from dcnify.words import first_line


def prepare(model: nn.Module, plan: Plan) -> tuple[Isolation, ...]:
    """Isolate in ``model`` what ``plan`` says, in place; return what was not isolated before.

    The model computes the same as before.

    Raises:
        InputError: the code of a block is not what the plan was made for.
    """
    wanted = tuple(one for one in plan.isolations if not _has(model, one.path))
    for isolation in wanted:
        isolate(model, isolation)
    return wanted


@contextmanager
def isolating(model: nn.Module, plan: Plan) -> Iterator[tuple[Isolation, ...]]:
    """As `prepare`; if what is done within this fails, the model is as it was."""
    done = prepare(model, plan)
    try:
        yield done
    except BaseException:
        undo(model, done)
        raise


def without_unused(model: nn.Module, plan: Plan) -> Plan:
    """The plan without the isolations that no swap is left for; those are undone in ``model``."""
    kept = needed(plan.isolations, [swap.site.path for swap in plan.swaps])
    undo(model, [one for one in plan.isolations if one not in kept])
    return dataclasses.replace(plan, isolations=kept)


@contextmanager
def runnable(model: nn.Module, example: Any) -> Iterator[str]:
    """Let layers whose own kernel is not here run on our operators for a while.

    Nothing is done to a model that runs as it is, or has no such layer. A model that fails for
    another reason fails again, with its own error, when it is used.

    Args:
        model: its layers' own forwards are back afterwards.
        example: what to try it on; see `Example.of`.

    Yields:
        Why the model does not run as it is; nothing if it does.
    """
    before = {module: vars(module).get("forward") for module in model.modules()}
    _prepare_layers(model)
    changed = {m: f for m, f in before.items() if vars(m).get("forward") is not f}
    reason = ""
    if changed:
        _put_back(changed)
        reason = _why_it_fails(model, Example.of(example))
    if reason:
        _prepare_layers(model)
    try:
        yield reason
    finally:
        if reason:
            _put_back(changed)


def _prepare_layers(model: nn.Module) -> None:
    for role in ROLES.values():
        if role.prepare is not None:
            role.prepare(model)


def _put_back(forwards: dict[nn.Module, Any]) -> None:
    for module, forward in forwards.items():
        vars(module).pop("forward", None)
        if forward is not None:
            module.forward = forward


def _why_it_fails(model: nn.Module, example: Example) -> str:
    try:
        with torch.no_grad():
            example.call(model)
    except Exception as error:  # whatever a model may raise
        return first_line(error)
    return ""


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True
