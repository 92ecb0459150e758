"""Move the choice of offsets and weights into the projection that makes them.

A translated operator takes its numbers from the channels of ``offset_mask`` in an order of its own,
with ``offset_scale`` applied. Where a linear layer makes those channels, it may as well make them
in that order: its columns are taken, scaled and shifted once, at export.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
from onnxscript import ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase, RewriteRuleSet, rewrite


def fold_projections(model: ir.Model) -> ir.Model:
    """Fold every ``Gather`` of a linear layer's channels, and what scales and shifts them."""
    names = count()
    for rule in (_Scaled, _Taken):  # one after the other: the second is a part of the first
        model = rewrite(model, RewriteRuleSet([rule.rule(names)]))
    return model


class _Taken(RewriteRuleClassBase):
    """``Gather(x·W + b, index)`` becomes ``x·W[:, index] + b[index]``."""

    def __init__(self, names: count[int]) -> None:
        super().__init__(remove_nodes=False)  # two operands are taken from one projection
        self.names = names

    def pattern(self, op: Any, x: Any, weight: Any, bias: Any, index: Any) -> Any:
        return op.Gather(op.Add(op.MatMul(x, weight), bias), index, axis=3)

    def check(self, op: Any, *_: Any, **matched: Any) -> MatchResult:
        found = MatchResult()
        dimensions = {"weight": 2, "bias": 1, "index": 1, "scale": 1, "shift": 1}
        for name in dimensions.keys() & matched.keys():
            tensor = ir.convenience.get_const_tensor(matched[name])
            if tensor is None or len(tensor.shape) != dimensions[name]:
                return found.fail(f"{name} is not a constant")
        return found

    def rewrite(self, op: Any, x: Any, weight: Any, bias: Any, index: Any, **affine: Any) -> Any:
        matrix, vector = (np.take(_array(one), _array(index), axis=-1) for one in (weight, bias))
        if affine:
            scale, shift = _array(affine["scale"]), _array(affine["shift"])
            matrix, vector = matrix * scale, vector * scale + shift
        number = next(self.names)
        folded = (
            op.initializer(ir.tensor(array), name=f"points.{number}.{part}")
            for array, part in ((matrix, "weight"), (vector, "bias"))
        )
        weight, bias = folded
        return op.Add(op.MatMul(x, weight), bias)


class _Scaled(_Taken):
    """The same with ``· scale + shift`` behind it."""

    def pattern(  # type: ignore[override]  # a pattern's variables are its parameters
        self, op: Any, x: Any, weight: Any, bias: Any, index: Any, scale: Any, shift: Any
    ) -> Any:
        taken = op.Gather(op.Add(op.MatMul(x, weight), bias), index, axis=3)
        return op.Add(op.Mul(taken, scale), shift)


def _array(value: Any) -> np.ndarray:
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None  # `check` has seen it
    return tensor.numpy()
