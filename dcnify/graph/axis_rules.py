"""Follow axes through a captured graph: one rule per family of ATen operations.

An operation without a rule keeps the axes of operands of its own shape and is otherwise unknown:
the analysis may lose track of an axis, it never invents one. What a rule returns for a result of
another size is unknown, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from dcnify.graph.axes import (
    BATCH,
    CHANNEL,
    COL,
    OTHER,
    ROW,
    Axes,
    Axis,
    axis,
    broadcast,
    coarsen,
    reshape,
    unknown,
    whole,
)
from dcnify.graph.capture import Capture

Node = Any  # an `fx.Node`, whose arguments are typed as a union of whatever they may be
AxesOf = dict[fx.Node, Axes]
Rule = Callable[[Node, AxesOf, Sequence[int]], Axes]
_RULES: dict[str, Rule] = {}


def trace_axes(capture: Capture) -> AxesOf:
    """The axes of every single-tensor node that depends on the image."""
    found: AxesOf = {capture.image: _image_axes(capture.example.shape)}
    for node in capture.graph.nodes:
        if node.op != "call_function" or node not in capture.image_dependent:
            continue
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            shape = tuple(value.shape)
            axes = coarsen(_RULES.get(operation(node), _same_shape)(node, found, shape))
            sizes_agree = tuple(a.size for a in axes) == shape
            found[node] = axes if sizes_agree else unknown(shape)
    return found


def operation(node: Node) -> str:
    """The ATen name of a node without namespace and overload: ``conv2d``, ``permute``."""
    target = node.target
    name = target.name() if isinstance(target, torch._ops.OpOverload) else str(target)
    return name.split("::")[-1].split(".")[0].lstrip("_")


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for name in names:
            _RULES[name] = function
        return function

    return register


def _image_axes(shape: Sequence[int]) -> Axes:
    if len(shape) != 4:
        return unknown(shape)
    return tuple(axis(k, n) for k, n in zip((BATCH, CHANNEL, ROW, COL), shape, strict=True))


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _axes(node: Any, found: AxesOf) -> Axes:
    return found.get(node) or unknown(_shape(node))


def _tensors(node: Node) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]


def _arg(node: Node, index: int, name: str, default: Any = None) -> Any:
    if len(node.args) > index:
        return node.args[index]
    return node.kwargs.get(name, default)


def _same_shape(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    operands = [found[n] for n in _tensors(node) if n in found and len(_shape(n)) <= len(shape)]
    return broadcast(operands, shape)


@rule("roll")
def _roll(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    """Shifted rows and columns are not in raster order until they are shifted back."""
    axes, steps = _axes(node.args[0], found), _arg(node, 1, "shifts")
    steps = [steps] if isinstance(steps, int) else steps
    dims = _arg(node, 2, "dims")
    if not dims:  # as one long axis
        return tuple(a.cut() for a in axes)
    dims = [dims] if isinstance(dims, int) else dims
    moved = {d % len(shape): s for d, s in zip(dims, steps, strict=True)}
    return tuple(a.rolled(moved[i]) if i in moved else a for i, a in enumerate(axes))


@rule("flip", "index", "index_select", "gather", "take_along_dim", "scatter", "rot90")
def _reordered(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    """Any order at all: rows and columns are lost."""
    known = _same_shape(node, found, shape)
    return tuple(axis(OTHER, a.size) if a.spatial else a for a in known)


@rule("view", "reshape", "unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze")
def _view(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    return reshape(_axes(node.args[0], found), shape)


@rule("permute", "transpose", "t", "movedim", "swapaxes", "mT", "numpy_T")
def _permute(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    source = node.args[0]
    markers = torch.empty(tuple(range(2, 2 + len(_shape(source)))), device="meta")
    order = [size - 2 for size in node.target(markers, *node.args[1:], **node.kwargs).shape]
    axes = _axes(source, found)
    return tuple(axes[i] for i in order)


@rule("linear", "matmul", "bmm", "mm", "addmm", "baddbmm")
def _product(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    first = 1 if operation(node) in ("addmm", "baddbmm") else 0
    left, right = node.args[first], node.args[first + 1]
    a, b = _axes(left, found), found.get(right)
    if operation(node) == "linear" or b is None:
        return (*a[:-1], axis(CHANNEL, shape[-1]))
    if len(shape) < 2:
        return unknown(shape)
    if left not in found:
        return (*b[:-2], axis(CHANNEL, shape[-2]), b[-1])
    return (*broadcast([a[:-2], b[:-2]], shape[:-2]), a[-2], b[-1])


@rule("einsum")
def _einsum(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    equation, operands = node.args[0].replace(" ", ""), node.args[1]
    inputs, _, output = equation.partition("->")
    terms = inputs.split(",")
    if not output or "." in equation or len(terms) != len(operands):
        return unknown(shape)
    by_letter: dict[str, Axis] = {}
    for term, operand in zip(terms, operands, strict=True):
        if operand in found:
            for letter, a in zip(term, found[operand], strict=True):
                by_letter.setdefault(letter, a)
    return tuple(by_letter.get(c, axis(OTHER, n)) for c, n in zip(output, shape, strict=True))


@rule("scaled_dot_product_attention", "scaled_dot_product_flash_attention_for_cpu")
def _attention(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    query, value = _axes(node.args[0], found), _axes(node.args[2], found)
    return (*query[:-1], value[-1])


@rule("conv2d", "convolution", "conv_transpose2d")
@rule("max_pool2d", "avg_pool2d", "lp_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
@rule("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d")
@rule("upsample_bilinear2d_aa", "upsample_bicubic2d_aa")
def _resample(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    axes = _axes(node.args[0], found)
    if len(axes) != 4:
        return unknown(shape)
    kept = axes[1].size == shape[1] and "conv" not in operation(node)
    channels = axes[1] if kept else axis(CHANNEL, shape[1])
    return (axes[0], channels, _resized(axes[2], shape[2]), _resized(axes[3], shape[3]))


def _resized(source: Axis, size: int) -> Axis:
    """The axis after its extent has changed: still all rows (or a window of them), just others."""
    if source.size == size:
        return source
    if source.kinds == {CHANNEL}:
        return axis(CHANNEL, size)
    if len(source.factors) != 1 or not source.spatial:
        return axis(OTHER, size)
    factor = source.factors[0]
    if factor.complete:
        return Axis((replace(factor, size=size, extent=size),))
    return Axis((replace(factor, size=size),))


@rule("pad", "constant_pad_nd", "slice")
def _resize_each(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    source = node.args[0]
    axes = _axes(source, found)
    if operation(node) != "slice":
        return tuple(_resized(a, n) for a, n in zip(axes, shape, strict=True))
    dim = _arg(node, 1, "dim", 0) % len(shape)
    start = _arg(node, 2, "start", 0) or 0
    cut = _arg(node, 4, "step", 1) == 1 and 2 * shape[dim] <= axes[dim].size
    return (*axes[:dim], _sliced(axes[dim], start, shape[dim], cut), *axes[dim + 1 :])


def _sliced(source: Axis, start: int, size: int, cut: bool) -> Axis:
    """Part of an axis; ``cut`` if it is a window of its rows or columns rather than a crop."""
    if source.size == size:
        return source
    start = start + source.size if start < 0 else start
    body = source.size - source.before - source.after
    if not source.plain:
        if start <= source.before and start + size >= source.before + body:
            after = start + size - source.before - body
            return replace(source, before=source.before - start, after=after)
        return axis(OTHER, size)
    if cut and source.spatial:
        return _resized(source, size).cut()
    return _resized(source, size)


@rule("select")
def _select(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    dim = _arg(node, 1, "dim", 0) % (len(shape) + 1)
    axes = _axes(node.args[0], found)
    return (*axes[:dim], *axes[dim + 1 :])


@rule("getitem", "<built-in function getitem>")
def _item(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    """One result of an operation with several: unbind, split, chunk, a norm with statistics."""
    many = node.args[0]
    axes, name = next((found.get(one) for one in _tensors(many)), None), operation(many)
    if axes is None:
        return unknown(shape)
    if name == "unbind":
        dim = _arg(many, 1, "dim", 0) % len(axes)
        return (*axes[:dim], *axes[dim + 1 :])
    if name in ("split", "chunk", "split_with_sizes", "tensor_split"):
        dim = _arg(many, 2, "dim", 0) % len(axes)
        start = sum(v.shape[dim] for v in many.meta["val"][: node.args[1]])
        return (*axes[:dim], _sliced(axes[dim], start, shape[dim], True), *axes[dim + 1 :])
    return _same_shape(many, found, shape)


@rule("cat", "concat", "concatenate")
def _cat(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    tensors = [t for t in node.args[0] if len(_shape(t)) == len(shape)]
    dim = _arg(node, 1, "dim", 0) % len(shape)
    known = [found[t] for t in tensors if t in found]
    result = list(broadcast(known, shape))
    spatial = [i for i, t in enumerate(tensors) if t in found and found[t][dim].spatial]
    if not spatial:
        lost = any(OTHER in found[t][dim].kinds for t in tensors if t in found)
        result[dim] = axis(OTHER if lost else CHANNEL, shape[dim])
    elif len(spatial) == 1:
        middle = found[tensors[spatial[0]]][dim]
        before = sum(_shape(t)[dim] for t in tensors[: spatial[0]])
        after = sum(_shape(t)[dim] for t in tensors[spatial[0] + 1 :])
        result[dim] = replace(middle, before=middle.before + before, after=middle.after + after)
    else:
        result[dim] = axis(OTHER, shape[dim])
    return tuple(result)


@rule("stack")
def _stack(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    dim = _arg(node, 1, "dim", 0) % len(shape)
    rest = [*shape[:dim], *shape[dim + 1 :]]
    axes = list(broadcast([found[t] for t in node.args[0] if t in found], rest))
    return (*axes[:dim], axis(OTHER, shape[dim]), *axes[dim:])


@rule("mean", "sum", "amax", "amin")
def _reduce(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    axes = _axes(node.args[0], found)
    dims = _arg(node, 1, "dim")
    if dims is None or len(shape) == len(axes):
        return broadcast([axes], shape)
    gone = {d % len(axes) for d in ([dims] if isinstance(dims, int) else dims)}
    return tuple(a for i, a in enumerate(axes) if i not in gone)


@rule("im2col")
def _im2col(node: Node, found: AxesOf, shape: Sequence[int]) -> Axes:
    source = node.args[0]
    if len(_shape(source)) != 4:
        return unknown(shape)
    kernel, dilation, padding, stride = node.args[1:5]
    grid = [
        (_shape(source)[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i]
        + 1
        for i in (0, 1)
    ]
    axes = _axes(source, found)
    if any(not f.whole for a in axes[2:] for f in a.factors):
        return unknown(shape)
    tokens = Axis((*whole(ROW, grid[0]), *whole(COL, grid[1])))
    return (axes[0], axis(CHANNEL, shape[1]), tokens)
