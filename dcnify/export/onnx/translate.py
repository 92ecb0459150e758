"""Our operators in ONNX: as DeformConv, or with GridSample where a runtime lacks that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnxscript import ir, opset19
from onnxscript import opset18 as op

from dcnify.export.onnx.points import Channels, PointLayout
from dcnify.ops.sampling import Sampling

Value = Any
"""An `onnxscript.ir.Value` of the graph that is being built."""


def translations(form: str) -> dict[Any, Callable[..., Value]]:
    """What `torch.onnx.export` calls for each of our operators, by ``form``."""
    sample = {"deform_conv": deform_conv, "grid_sample": grid_sample}[form]

    def dcnv4(value: Value, offset_mask: Value, **how: Any) -> Value:
        return sample(value, (offset_mask,), sampling_of(how, softmax=False))

    def dcnv3(value: Value, offset: Value, mask: Value, **how: Any) -> Value:
        return sample(value, (offset, mask), sampling_of(how, softmax=True))

    return {
        torch.ops.dcnify.dcnv4.default: dcnv4,
        torch.ops.dcnify.dcnv3.default: dcnv3,
    }


def sampling_of(how: dict[str, Any], softmax: bool) -> Sampling:
    """The arguments of a call in a graph, which leaves out defaults."""
    given: dict[str, Any] = {
        key: tuple(one) if isinstance(one, Sequence) else one for key, one in how.items()
    }
    return Sampling(**{"softmax": softmax, **given})


def deform_conv(value: Value, points: Sequence[Value], sampling: Sampling) -> Value:
    """(B, Ho, Wo, C) by ``DeformConv`` (opset 19).

    Each channel is a group of its own with a kernel of ones, the offset groups are ours, and the
    aggregation weights are its mask.
    """
    layout = PointLayout(sampling, packed=len(points) == 1)
    channels = int(value.shape[3])
    kernel = np.ones((channels, 1, *sampling.kernel_size), value.dtype.numpy())
    offset = _taken(points[0], layout.kernel_offsets())
    mask = _softmax_by_kernel(points[-1], layout) if sampling.softmax else None
    if mask is None:
        mask = _taken(points[-1], layout.kernel_weights())
    y = opset19.DeformConv(
        _to_nchw(value),
        _constant(kernel),
        _to_nchw(offset),
        None,
        _to_nchw(mask),
        dilations=list(sampling.dilation),
        group=channels,
        kernel_shape=list(sampling.kernel_size),
        offset_group=sampling.groups,
        pads=[*sampling.padding, *sampling.padding],
        strides=list(sampling.stride),
    )
    return op.Transpose(y, perm=[0, 2, 3, 1])


def grid_sample(value: Value, points: Sequence[Value], sampling: Sampling) -> Value:
    """(B, Ho, Wo, C) by ``GridSample`` (opset 16), whose images are the groups.

    It works in float32 whatever the model's dtype: halves are too coarse for places, and runtimes
    have no GridSample of doubles.
    """
    layout = PointLayout(sampling, packed=len(points) == 1)
    groups, count = sampling.groups, sampling.num_points
    each = int(value.shape[3]) // groups
    own, wide = value.dtype, ir.DataType.FLOAT
    offset = _cast(_taken(points[0], layout.point_offsets()), own, wide)
    weight = _taken(points[-1], layout.point_weights())
    weight = op.Reshape(_cast(weight, own, wide), _ints(0, 0, 0, groups, count))
    if sampling.softmax:
        weight = op.Softmax(weight, axis=-1)
    rows, columns = (op.Shape(offset, start=axis, end=axis + 1) for axis in (1, 2))
    height, width = (op.Shape(value, start=axis, end=axis + 1) for axis in (1, 2))

    images = op.Reshape(_cast(value, own, wide), _ints(0, 0, 0, groups, each))
    images = op.Transpose(images, perm=[0, 3, 4, 1, 2])
    images = op.Reshape(images, op.Concat(_ints(-1, each), height, width, axis=0))

    size = op.Cast(op.Concat(width, height, axis=0), to=wide)
    places = op.Mul(offset, _constant(np.full(1, sampling.offset_scale, wide.numpy())))
    places = op.Reshape(places, _ints(0, 0, 0, groups, count, 2))
    places = op.Add(places, _centres(rows, columns, sampling, wide))
    two, one = (_constant(np.full(1, number, wide.numpy())) for number in (2, 1))
    grid = op.Sub(op.Div(op.Add(op.Mul(places, two), one), size), one)
    grid = op.Transpose(grid, perm=[0, 3, 1, 2, 4, 5])
    along = op.Mul(columns, _ints(count))
    grid = op.Reshape(grid, op.Concat(_ints(-1), rows, along, _ints(2), axis=0))

    samples = op.GridSample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=0)
    shape = op.Concat(_ints(-1, each), rows, columns, _ints(count), axis=0)
    weight = op.Transpose(weight, perm=[0, 3, 1, 2, 4])
    weight = op.Reshape(weight, op.Concat(_ints(-1, 1), rows, columns, _ints(count), axis=0))
    y = op.ReduceSum(op.Mul(op.Reshape(samples, shape), weight), _ints(-1), keepdims=0)
    y = op.Reshape(y, op.Concat(_ints(-1, groups * each), rows, columns, axis=0))
    return _cast(op.Transpose(y, perm=[0, 2, 3, 1]), wide, own)


def _centres(rows: Value, columns: Value, sampling: Sampling, dtype: ir.DataType) -> Value:
    """(Ho, Wo, 1, K, [x, y]): the places of points without offsets, in pixels."""
    kind, s = dtype.numpy(), sampling.offset_scale
    dil_h, dil_w = sampling.dilation
    cells = [(i * dil_w * s, j * dil_h * s) for i, j in sampling.points]
    first = [
        center - half * s for center, half in zip(sampling.first_center, sampling.half, strict=True)
    ]
    places = _constant(np.array(cells, kind) + np.array(first[::-1], kind))
    for count, stride, axis in ((columns, sampling.stride[1], 0), (rows, sampling.stride[0], 1)):
        along = np.zeros(2, kind)
        along[axis] = stride
        zero, one = (_constant(np.array(number, np.int64)) for number in (0, 1))
        steps: Value = op.Cast(op.Range(zero, op.Squeeze(count), one), to=dtype)
        shape = _ints(1, -1, 1, 1, 1) if axis == 0 else _ints(-1, 1, 1, 1, 1)
        places = op.Add(places, op.Mul(op.Reshape(steps, shape), _constant(along)))
    return places


def _softmax_by_kernel(points: Value, layout: PointLayout) -> Value:
    """(B, Ho, Wo, G·kh·kw): weights after a softmax, 0 in a cell without a point."""
    how = layout.sampling
    weights = _taken(points, layout.kernel_logits())
    weights = op.Reshape(weights, _ints(0, 0, 0, how.groups, how.num_points))
    weights = op.Softmax(weights, axis=-1)
    if how.remove_center:
        weights = op.Pad(weights, _ints(0, 0, 0, 0, 0, 0, 0, 0, 0, 1))
        weights = op.Gather(weights, _ints(*layout.with_center()), axis=-1)
    return op.Reshape(weights, _ints(0, 0, 0, -1))


def _taken(points: Value, channels: Channels) -> Value:
    """The channels of (B, Ho, Wo, P), which `dcnify.export.onnx.fold` moves into a projection."""
    taken = op.Gather(points, _constant(np.array(channels.index, np.int64)), axis=3)
    if channels.is_plain:
        return taken
    kind = points.dtype.numpy()
    scaled = op.Mul(taken, _constant(np.array(channels.scale, kind)))
    return op.Add(scaled, _constant(np.array(channels.shift, kind)))


def _to_nchw(value: Value) -> Value:
    return op.Transpose(value, perm=[0, 3, 1, 2])


def _cast(value: Value, old: ir.DataType, new: ir.DataType) -> Value:
    return value if old == new else op.Cast(value, to=new)


def _ints(*numbers: int) -> Value:
    return _constant(np.array(numbers, np.int64))


def _constant(array: np.ndarray) -> Value:
    tensor: Any = ir.tensor(array)  # while a graph is built; typed as of eager execution
    return op.Constant(value=tensor)
