"""Count the layers that mix space while a model runs, by its modules and function calls."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dcnify.graph.example import Example

_MOST_CHANNELS_OF_A_STEM = 4


def counted(model: nn.Module, example: Example) -> dict[str, int]:
    """How many convolutions and attentions run, without a graph and without the roles' code.

    A convolution counts that sees neighbours; an attention is a softmax over four keys or more
    for as many queries, or a call of PyTorch's attention.
    """
    seen: Counter[str] = Counter()
    done: set[int] = set()

    def convolution(module: nn.Conv2d, args: tuple, _output: Any) -> None:
        if id(module) in done or args[0].dim() != 4:
            return
        done.add(id(module))
        if kind := _kind(module):
            seen[kind] += 1

    hooks = [
        module.register_forward_hook(convolution)
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides what it calls
    try:
        with torch.no_grad(), _Attentions(seen):
            example.call(model.eval())
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()
    return dict(seen)


def _kind(conv: nn.Conv2d) -> str | None:
    kernel, stride = conv.kernel_size, conv.stride
    if max(kernel) == 1 or all(k <= s for k, s in zip(kernel, stride, strict=True)):
        return None  # pointwise, or patches that do not overlap
    if conv.groups > 1:
        return "depthwise_conv"  # or near it: a few channels to a group
    return "conv" if conv.in_channels > _MOST_CHANNELS_OF_A_STEM else None


class _Attentions(TorchFunctionMode):
    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.scaled_dot_product_attention, F.multi_head_attention_forward):
            self._seen["attention"] += 1
        if func in (F.softmax, torch.softmax, torch.Tensor.softmax):
            axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
            scores = args[0].shape if args[0].dim() > 2 else (0, 0)
            last = axis in (-1, len(scores) - 1)
            self._seen["attention"] += last and min(scores[-2:]) >= 4
        return func(*args, **kwargs)
