"""The operators inside ``torch.func``, and the derivatives that they do not have."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

ONCE_ONLY = "no second derivative; dcnify.ops.reference.dcnv4 has"

_NO_FORWARD = "no forward-mode derivative; dcnify.ops.reference.dcnv4 has"


def refuse_forward_mode(name: str, tensors: Sequence[Tensor]) -> None:
    """Raise if a tensor carries a tangent, which the operator would silently drop."""
    if forward_ad._current_level < 0:
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError(f"dcnify.ops.{name} has {_NO_FORWARD}")


class _UnderTransforms(torch.autograd.Function):
    """Gradients under ``torch.func``, whose transforms do not see into an operator's own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(op: Any, op_backward: Any, how: dict[str, Any], *tensors: Tensor) -> Tensor:
        return op(*tensors, **how)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        op, ctx.op_backward, ctx.how, *tensors = inputs
        ctx.name = _public_name(op)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple:
        tensors = grad_output, *ctx.saved_tensors
        return None, None, None, *_Gradients.apply(ctx.op_backward, ctx.how, *tensors)

    @staticmethod
    def jvp(ctx, *_: Any) -> Tensor:
        raise NotImplementedError(f"{ctx.name} has {_NO_FORWARD}")


class _Gradients(torch.autograd.Function):
    """The gradients above, which have none of their own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(op_backward: Any, how: dict[str, Any], *tensors: Tensor) -> tuple:
        return op_backward(*tensors, **how)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        ctx.name = _public_name(inputs[0]).removesuffix("_backward")

    @staticmethod
    def backward(ctx, *_: Tensor) -> tuple:
        raise NotImplementedError(f"{ctx.name} has {ONCE_ONLY}")

    @staticmethod
    def jvp(ctx, *_: Any) -> tuple:
        raise NotImplementedError(f"{ctx.name} has {ONCE_ONLY}")


def _public_name(op: Any) -> str:
    """Such as ``dcnify.ops.dcnv4``."""
    return "dcnify.ops." + str(op).rpartition(".")[2]


def call(op: Any, op_backward: Any, tensors: Sequence[Tensor], how: dict[str, Any]) -> Tensor:
    """The operator on tensors, also inside ``torch.func``: grad, vjp, jacrev, vmap of those."""
    if _needs_rules():
        return _UnderTransforms.apply(op, op_backward, how, *tensors)
    return op(*tensors, **how)


def _needs_rules() -> bool:
    """Whether a transform is active that wants an ``autograd.Function``; functionalize does not."""
    if not torch._C._are_functorch_transforms_active():
        return False
    innermost = torch._C._functorch.peek_interpreter_stack()
    return innermost.key() != torch._C._functorch.TransformType.Functionalize
