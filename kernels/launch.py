"""Launches the kernels on tensors: allocates what they write, nothing more.

An operator's *points* are its offsets and weights: one tensor (B, Ho, Wo, P) with each group's 2K
offsets before its K weights (DCNv4), or two, (B, Ho, Wo, 2·G·K) and (B, Ho, Wo, G·K) (DCNv3).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from dcnify.kernels.backward import dcnv4_backward
from dcnify.kernels.backward_value import dcnv4_backward_value
from dcnify.kernels.forward import dcnv4_forward
from dcnify.kernels.plan import Geometry, KernelCall, Launch, plan_backward, plan_forward
from dcnify.kernels.tools import tune
from torch import Tensor
from torch.library import wrap_triton

_DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}


def forward(
    value: Tensor, points: Sequence[Tensor], geometry: Geometry, groups: int, scale: float
) -> Tensor:
    """The output (B, Ho, Wo, C) in the dtype of ``value``.

    Args:
        value: (B, H, W, C) of float16, bfloat16 or float32.
        points: one tensor or two; may differ from ``value`` in dtype.
        geometry: kernel size and the rest.
        groups: G.
        scale: the operator's ``offset_scale``.
    """
    value = value.contiguous()
    points = [_by_query(tensor) for tensor in points]
    batch, out_h, out_w, _ = points[0].shape
    output = value.new_empty((batch, out_h, out_w, value.shape[3]))
    if output.numel() == 0:
        return output
    call = _call(value, points, groups, (value,), (value, output))
    launch = _plan(plan_forward, value)(call, geometry)
    offset, weight = points[0], points[-1]
    tensors = value, output, offset, weight
    sizes = *call.size, *call.out_size, groups, call.rows, *_strides(points, geometry)
    if tune.ON and not _is_traced(value):
        launch = tune.tuned_forward(
            call,
            geometry,
            *_measured(value, lambda one: _run(dcnv4_forward, one, *tensors, *sizes, scale)),
        )
    _run(dcnv4_forward, launch, *tensors, *sizes, scale)
    return output


def backward(
    grad_output: Tensor,
    value: Tensor,
    points: Sequence[Tensor],
    geometry: Geometry,
    groups: int,
    scale: float,
    grads: Sequence[Tensor],
    *,
    want_value: bool = True,
) -> Tensor | None:
    """Writes the points' gradients to ``grads`` and returns the gradient of ``value``.

    ``grads`` are contiguous tensors shaped like ``points``; channels past 3·G·K are left alone. The
    value's gradient is summed in float32 and rounded once. Its additions are atomic, so their
    order, and the last bits, differ from run to run; without ``want_value`` they are left out and
    what remains is deterministic.
    """
    value, grad_output = value.contiguous(), grad_output.contiguous()
    points = [_by_query(tensor) for tensor in points]
    sums = value.new_zeros(value.shape, dtype=torch.float32) if want_value else None
    if grad_output.numel() == 0:
        return None if sums is None else sums.to(value.dtype)
    call = _call(value, points, groups, (value, grad_output), (value, grad_output))
    plan = _plan(plan_backward, value)(call, geometry, scale, want_value)
    offset, weight = points[0], points[-1]
    # A compiler takes each tensor that is written for one of its own: the second is a stand-in.
    to_offset, to_weight = grads[0], grads[1] if len(grads) > 1 else weight
    to_value = value if sums is None else sums  # not written to without `want_value`
    sizes = (*call.size, *call.out_size, groups)
    strides = _strides(points, geometry)

    def run_points(launch: Launch, to_value: Tensor) -> None:
        tensors = value, grad_output, offset, weight, to_value, to_offset, to_weight
        numbers = *sizes, call.rows, *strides, *_strides(grads, geometry), scale
        _run(dcnv4_backward, launch, *tensors, *numbers)

    def run_value(launch: Launch, to_value: Tensor) -> None:
        tensors = grad_output, offset, weight, to_value
        _run(dcnv4_backward_value, launch, *tensors, *sizes, *strides, scale)

    if tune.ON and not _is_traced(value):
        aside = value if sums is None else torch.empty_like(sums)
        gpu, first = _measured(value, lambda one: run_points(one, aside))
        _, second = _measured(value, lambda one: run_value(one, aside))
        plan = tune.tuned_backward(call, geometry, scale, want_value, gpu, first, second)
    run_points(plan.points, to_value if plan.scatter else value)
    if plan.value is not None:
        run_value(plan.value, to_value)
    return None if sums is None else sums.to(value.dtype)


def _run(kernel: Any, launch: Launch, first: Tensor, *arguments: Any) -> None:
    grid, how = (launch.programs,), {**launch.constants, "num_warps": launch.warps}
    if _is_traced(first):
        wrap_triton(kernel)[grid](first, *arguments, **how)
        return
    with _on_device_of(first):
        kernel[grid](first, *arguments, **how)


def _measured(tensor: Tensor, run: Any) -> tuple[str, Any]:
    """The GPU's name, and ``run`` if launches on it can be timed now, else None."""
    if tensor.device.type != "cuda":
        return "interpreter", None
    capturing = torch.cuda.is_current_stream_capturing()
    return _name_of(tensor.device), None if capturing else run


@lru_cache(maxsize=64)
def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


def _plan(plan: Any, tensor: Tensor) -> Any:
    """``plan``, from its cache unless sizes are symbols, which have no hash."""
    return plan.__wrapped__ if _is_traced(tensor) else plan


def _call(
    value: Tensor,
    points: Sequence[Tensor],
    groups: int,
    in_words: Sequence[Tensor],
    large: Sequence[Tensor],
) -> KernelCall:
    batch, height, width, channels = value.shape
    _, out_h, out_w, _ = points[0].shape
    most = max(max(t.numel() for t in large), max(batch * t.stride(0) for t in points))
    return KernelCall(
        batch,
        (height, width),
        (out_h, out_w),
        groups,
        channels // groups,
        _DTYPES[value.dtype],
        len(points) == 1,
        value.element_size() == 2 and all(_starts_even(t) for t in in_words),
        most >= 2**31,
        target_of(value.device),
    )


@lru_cache(maxsize=64)
def target_of(device: torch.device) -> str:
    """The architecture a device is compiled for, such as ``sm_90`` or ``gfx942``.

    Where there is no such device (a compiler's stand-in, or Triton's interpreter): ``sm_90``.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return "sm_90"
    if torch.version.hip is not None:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def _is_traced(tensor: Tensor) -> bool:
    """Whether a compiler is looking: the tensor then stands for one that is not there yet."""
    return type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter


def _on_device_of(tensor: Tensor) -> Any:
    """Triton launches on the current device."""
    device = tensor.device
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device(device)


_HERE = nullcontext()


def _by_query(points: Tensor) -> Tensor:
    """``points`` with one stride over all queries and none inside them; a copy if need be."""
    _, out_h, out_w, _ = points.shape
    by_image, by_line, by_query, step = points.stride()
    if step == 1 and by_line == by_query * out_w and by_image == by_line * out_h:
        return points
    return points.contiguous()


def _strides(points: Sequence[Tensor], geometry: Geometry) -> tuple[int, int, int, int]:
    """Of offsets and of weights: elements to the next query, and to the next group."""
    k = geometry.points
    if len(points) == 1:
        by_query = points[0].stride(2)
        return by_query, 3 * k, by_query, 3 * k
    return points[0].stride(2), 2 * k, points[1].stride(2), k


def _starts_even(tensor: Tensor) -> bool:
    """Whether two 16-bit numbers at the start of ``tensor`` lie in one aligned word."""
    if _is_traced(tensor):
        return bool(tensor.storage_offset() % 2 == 0)
    return tensor.data_ptr() % 4 == 0
