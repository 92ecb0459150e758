"""What may be given as a model, and why something else may not."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from dcnify.errors import InputError
from dcnify.words import first_line

_TORCH = Path(torch.__file__).parent
_OURS = Path(__file__).parents[1]
_BY_VALUE = ("data-dependent", ".numpy() is not supported")
"""In errors of `torch.export` about Python code that looks at the numbers in a tensor."""


def module_of(model: Any) -> nn.Module:
    """Return the module that ``model`` is, or that an exported program unflattens to.

    Raises:
        InputError: it is none, or holds code that cannot be looked into or changed.
    """
    if isinstance(model, torch.export.ExportedProgram):
        model = _unflattened(model)
    if not isinstance(model, nn.Module):
        hint = ": load the weights into their model first" if isinstance(model, dict) else ""
        raise InputError(f"a model is a torch.nn.Module, not of type {type(model).__name__}{hint}")
    if isinstance(model, fx.GraphModule):  # of an exported program, which has one mode alone
        for name in ("train", "eval"):
            vars(model).pop(name, None)
    for path, module in model.named_modules():
        where = path or "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{where} is TorchScript, which cannot be changed: convert the Python model that "
                "it was made from"
            )
        if ".quantized" in type(module).__module__ and "torch" in type(module).__module__:
            raise InputError(
                f"{where} is quantised ({type(module).__name__}): convert the model first, "
                "then quantise it"
            )
    return model


def _unflattened(program: torch.export.ExportedProgram) -> nn.Module:
    """The program with a module for every layer; in a flat graph there is none to replace."""
    model = torch.export.unflatten(program)
    for module in model.modules():
        graph = getattr(module, "graph", None)
        for node in graph.nodes if isinstance(graph, fx.Graph) else ():
            node.meta = {}  # holds tensors without memory, which cannot be copied
    return model


def check_sizes(graph: fx.Graph) -> None:
    """Raise `InputError` if the size of a tensor depends on values, as of a list of boxes."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and any(type(size) is not int for size in value.shape):
            lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
            line = f" ({lines[-1]})" if lines else ""
            raise InputError(f"the size of a tensor depends on the values of another{line}")


def why_not_captured(error: Exception) -> str:
    """The reason why a model could not be captured, in one line."""
    reason = first_line(error)
    if not any(words in reason for words in _BY_VALUE):
        return reason
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if not {_TORCH, _OURS} & {*Path(one.filename).parents}]
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno} ({own[-1].line})" if own else ""
    return f"its code depends on the values of a tensor{place}, which a capture does not have"
