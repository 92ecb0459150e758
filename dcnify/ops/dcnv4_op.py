"""DCNv4 as a PyTorch operator: schema, checks, fake, autograd, autocast and FLOP formula."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dcnify.ops import backends
from dcnify.ops.sampling import Sampling, pair

_HOW = (
    "int[2] kernel_size=[3, 3], int[2] stride=[1, 1], int[2] padding=[1, 1], "
    "int[2] dilation=[1, 1], int groups=4, float offset_scale=1.0, "
    "bool remove_center=False, bool softmax=False"
)
_library = torch.library.Library("dcnify", "FRAGMENT")
for _schema in (
    f"dcnv4(Tensor value, Tensor offset_mask, *, {_HOW}) -> Tensor",
    "dcnv4_backward(Tensor grad_output, Tensor value, Tensor offset_mask, *, "
    f"{_HOW}) -> (Tensor, Tensor)",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def dcnv4(
    value: Tensor,
    offset_mask: Tensor,
    *,
    kernel_size: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    groups: int = 4,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    softmax: bool = False,
) -> Tensor:
    """Sample K points per query and group at learned places, and sum them with learned weights.

    The operator of DCNv4 (arXiv 2401.06197, section 3); also ``torch.ops.dcnify.dcnv4``.
    `dcnify.ops.reference.dcnv4` is its definition. Once differentiable: a second derivative raises.

    Under autocast ``value`` is cast to the autocast dtype and ``offset_mask`` is left as it is:
    rounding a feature loses its last bits, rounding an offset moves the point. Locations and sums
    are float32 whatever half precision comes in.

    Args:
        value: (B, H, W, C) features; C divides into ``groups``. Any strides. float16, bfloat16,
            float32 or float64.
        offset_mask: (B, Ho, Wo, P), P >= 3·G·K. Per group 2K offsets (x0, y0, x1, y1, ...) in
            pixels before ``offset_scale``, then K weights; points go down the kernel's columns,
            left to right. Channels past 3·G·K are ignored. May differ from ``value`` in dtype.
        kernel_size, stride, padding, dilation: as for a convolution; an int or an (h, w) pair.
        groups: G, groups of channels that share their points.
        offset_scale: multiplies the offsets and the kernel's own grid alike.
        remove_center: leave the kernel's centre out: K = kh·kw - 1. Odd kernels only.
        softmax: put the K weights of a group through a softmax first, as DCNv3 does.

    Returns:
        (B, Ho, Wo, C) in the dtype of ``value``.

    Raises:
        InputError: shapes, dtypes, devices or arguments that do not fit together.
    """
    return torch.ops.dcnify.dcnv4(
        value,
        offset_mask,
        kernel_size=pair(kernel_size, "kernel_size"),
        stride=pair(stride, "stride"),
        padding=pair(padding, "padding"),
        dilation=pair(dilation, "dilation"),
        groups=groups,
        offset_scale=offset_scale,
        remove_center=remove_center,
        softmax=softmax,
    )


def _forward(value: Tensor, offset_mask: Tensor, **how: Any) -> Tensor:
    sampling = Sampling(**how)  # the dispatcher leaves out what equals the schema's default
    sampling.check(value, offset_mask)
    return backends.dcnv4_on(value.device.type).forward(value, offset_mask, sampling)


def _forward_fake(value: Tensor, offset_mask: Tensor, **how: Any) -> Tensor:
    out_h, out_w = Sampling(**how).check(value, offset_mask)
    return value.new_empty(value.shape[0], out_h, out_w, value.shape[3])


def _backward(
    grad_output: Tensor, value: Tensor, offset_mask: Tensor, **how: Any
) -> tuple[Tensor, Tensor]:
    run = backends.dcnv4_on(value.device.type).backward
    return run(grad_output, value, offset_mask, Sampling(**how))


def _backward_fake(
    grad_output: Tensor, value: Tensor, offset_mask: Tensor, **how: Any
) -> tuple[Tensor, Tensor]:
    return value.new_empty(value.shape), offset_mask.new_empty(offset_mask.shape)


def _save(ctx, inputs, keyword_only_inputs, output) -> None:
    ctx.save_for_backward(*inputs)
    ctx.how = keyword_only_inputs


def _differentiate(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.dcnify.dcnv4_backward(grad_output, *ctx.saved_tensors, **ctx.how)


def _differentiate_twice(ctx, *_: Tensor):
    raise NotImplementedError(
        "dcnify.ops.dcnv4 has no second derivative; dcnify.ops.reference.dcnv4 has"
    )


_library.impl("dcnv4", _forward, "CompositeExplicitAutograd")
_library.impl("dcnv4_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("dcnify::dcnv4", _forward_fake, lib=_library)
torch.library.register_fake("dcnify::dcnv4_backward", _backward_fake, lib=_library)
torch.library.register_autograd("dcnify::dcnv4", _differentiate, setup_context=_save, lib=_library)
torch.library.register_autograd("dcnify::dcnv4_backward", _differentiate_twice, lib=_library)


def _register_autocast(device_type: str) -> None:
    """Cast ``value`` alone, to the dtype in force; torch's own helper casts all, to a fixed one."""
    key = f"Autocast{device_type.upper()}"
    this_key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(_keys, value: Tensor, offset_mask: Tensor, **how: Any) -> Tensor:
        if value.is_floating_point() and value.dtype != torch.float64:
            value = value.to(torch.get_autocast_dtype(device_type))
        with torch._C._ExcludeDispatchKeyGuard(this_key):
            return torch.ops.dcnify.dcnv4(value, offset_mask, **how)

    _library.impl("dcnv4", cast, key, with_keyset=True)


for _device_type in ("cpu", "cuda", "xpu", "mps"):
    _register_autocast(_device_type)


@register_flop_formula(torch.ops.dcnify.dcnv4)
def dcnv4_flops(
    value_shape, offset_mask_shape, *, kernel_size=(3, 3), remove_center=False, **_
) -> int:
    """10 per point and channel: four corners and the weight, a multiply-add (2) each."""
    batch, out_h, out_w, _ = offset_mask_shape
    points = kernel_size[0] * kernel_size[1] - int(remove_center)
    return 10 * batch * out_h * out_w * points * value_shape[3]


@register_flop_formula(torch.ops.dcnify.dcnv4_backward)
def dcnv4_backward_flops(
    grad_output_shape, value_shape, offset_mask_shape, *, out_shape=None, **how
) -> int:
    """Twice the forward: once for the value, once for offsets and weights."""
    return 2 * dcnv4_flops(value_shape, offset_mask_shape, **how)
