"""Tell what a file holds beside a model's weights from what makes its model another one.

`thop` adds counters to every layer, a trainer its losses, a masked autoencoder its decoder: the
model computes the same without them. A layer scale or a distillation token that the model lacks
does not: the file is of a variant, and must not open as what it is not.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterable
from functools import cache

from torch import nn

_ADDED = {
    *("total_ops", "total_params"),  # thop
    *("__flops__", "__params__", "__macs__"),  # ptflops
    *("n_averaged", "mask_token"),
}
"""Last parts of names that tools and training add anywhere."""
_DIGITS = re.compile(r"\d+")


def beside(unexpected: Iterable[str], model: nn.Module, head: Iterable[str] = ()) -> list[str]:
    """Those of the ``unexpected`` names that the function of ``model`` does not need.

    These are what known tools add, what lies under ``head``, the classifier that the model does
    without, and what no source file of its layers has a name for, as long as it stands outside
    of the model's own layers.
    """
    unexpected = list(unexpected)
    if not unexpected:
        return []
    own = {name.partition(".")[0] for name in model.state_dict()}
    heads = tuple(f"{name}." for name in head)
    known = _attributes_of(model)

    def is_foreign(name: str) -> bool:
        first, _, _ = name.partition(".")
        if name.rpartition(".")[2] in _ADDED or name.startswith(heads):
            return True
        return first not in own and "token" not in first and not _explained(first, known)

    return [name for name in unexpected if is_foreign(name)]


def _explained(part: str, known: set[str]) -> bool:
    return part in known or (bool(_DIGITS.search(part)) and _DIGITS.sub("", part) in known)


def _attributes_of(model: nn.Module) -> set[str]:
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    modules = {kind.__module__ for kind in kinds} - {"builtins"}
    own = [_attributes(name) for name in modules if not name.startswith("torch.")]
    return set().union(*own)


@cache
def _attributes(module: str) -> frozenset[str]:
    """Names that the classes of a source file give to attributes, or spell as text."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return frozenset()
    found = set()
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in (node for one in classes for node in ast.walk(one)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value.strip("_."))
    return frozenset(found)
