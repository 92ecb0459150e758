"""Makes a PyTorch operator of a way to sample: schema, fake, autograd, autocast, vmap, FLOPs.

DCNv4 and DCNv3 differ in where their offsets and weights lie, one tensor or two, and in nothing
else. They are registered with the names of those tensors, their *points*.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.utils.flop_counter import register_flop_formula

from dcnify.errors import InputError
from dcnify.ops import backends
from dcnify.ops.sampling import FLOAT_DTYPES, Sampling, check_is_tensor
from dcnify.ops.transforms import ONCE_ONLY, refuse_forward_mode

_HOW = (
    "int[2] kernel_size=[3, 3], int[2] stride=[1, 1], int[2] padding=[1, 1], "
    "int[2] dilation=[1, 1], int groups=4, float offset_scale=1.0, "
    "bool remove_center=False, bool softmax={softmax}"
)
_library = torch.library.Library("dcnify", "FRAGMENT")
_sampling = lru_cache(maxsize=1024)(Sampling)
_KINDS_KEPT = 4096

Check = Callable[..., tuple[int, int]]
"""A method of `Sampling` that takes ``value`` and the points."""


def register(name: str, points: Sequence[str], check: Check, softmax: bool) -> None:
    """Register ``dcnify::NAME`` and ``dcnify::NAME_backward``.

    ``points`` are the names of its point tensors, between ``value`` and the keywords of `Sampling`;
    ``softmax`` is the default of the keyword.
    """
    how_schema = _HOW.format(softmax=softmax)
    tensors = ", ".join(f"Tensor {point}" for point in points)
    gradients = ", ".join(["Tensor"] * (1 + len(points)))
    for schema in (
        f"{name}(Tensor value, {tensors}, *, {how_schema}) -> Tensor",
        f"{name}_backward(Tensor grad_output, Tensor value, {tensors}, *, {how_schema}) "
        f"-> ({gradients})",
    ):
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = getattr(torch.ops.dcnify, name).default
    op_backward = getattr(torch.ops.dcnify, f"{name}_backward").default

    def sampling_of(
        kernel_size=(3, 3),  # the dispatcher leaves out what equals the schema's default
        stride=(1, 1),
        padding=(1, 1),
        dilation=(1, 1),
        groups=4,
        offset_scale=1.0,
        remove_center=False,
        softmax=softmax,
    ) -> Sampling:
        pairs = tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation)
        return _sampling(*pairs, groups, offset_scale, remove_center, softmax)

    fits: dict[tuple, tuple[int, int]] = {}

    def check_once(sampling: Sampling, value: Tensor, *given: Tensor) -> tuple[int, int]:
        """(Ho, Wo). Small layers are host-bound, so each kind of call is checked once."""
        if type(value) is not Tensor:
            return check(sampling, value, *given)
        kind = (sampling, *((t.shape, t.dtype, t.device, t.layout) for t in (value, *given)))
        if kind not in fits:
            if len(fits) >= _KINDS_KEPT:
                fits.clear()
            fits[kind] = check(sampling, value, *given)
        return fits[kind]

    def check_backward(
        grad_output: Tensor, value: Tensor, given: Sequence[Tensor], sampling: Sampling
    ) -> None:
        out_size = check_once(sampling, value, *given)
        expected = (value.shape[0], *out_size, value.shape[3])
        if tuple(grad_output.shape) != expected or grad_output.device != value.device:
            raise InputError(
                f"grad_output is {tuple(grad_output.shape)} on {grad_output.device}; "
                f"expected {expected} on {value.device}"
            )

    def forward(value: Tensor, *given: Tensor, **how: Any) -> Tensor:
        sampling = sampling_of(**how)
        check_once(sampling, value, *given)
        run = backends.implementation_for(value.device.type, value.dtype, given[0].dtype)
        return run.forward(value, given, sampling)

    def forward_fake(value: Tensor, *given: Tensor, **how: Any) -> Tensor:
        out_h, out_w = check(sampling_of(**how), value, *given)
        return value.new_empty(value.shape[0], out_h, out_w, value.shape[3])

    def backward(grad_output: Tensor, value: Tensor, *given: Tensor, **how: Any) -> tuple:
        sampling = sampling_of(**how)
        check_backward(grad_output, value, given, sampling)
        run = backends.implementation_for(value.device.type, value.dtype, given[0].dtype)
        grads = [point.new_empty(point.shape) for point in given]
        used = sampling.offset_mask_channels
        if len(grads) == 1 and grads[0].shape[3] > used:
            grads[0][..., used:] = 0
        grad_value = run.backward(grad_output, value, given, sampling, grads)
        return grad_value, *grads

    def backward_fake(grad_output: Tensor, value: Tensor, *given: Tensor, **how: Any) -> tuple:
        check(sampling_of(**how), value, *given)
        return tuple(tensor.new_empty(tensor.shape) for tensor in (value, *given))

    def differentiate_twice(ctx, *_: Tensor):
        raise NotImplementedError(f"dcnify.ops.{name} has {ONCE_ONLY}")

    def forward_vmap(info, in_dims, *given: Tensor, **how: Any):
        folded = _fold(info.batch_size, in_dims, given)
        return op(*folded, **how).unflatten(0, _batches(info.batch_size, in_dims, given)), 0

    def backward_vmap(info, in_dims, *given: Tensor, **how: Any):
        results = op_backward(*_fold(info.batch_size, in_dims, given), **how)
        batches = _batches(info.batch_size, in_dims, given)
        return tuple(one.unflatten(0, batches) for one in results), (0,) * len(results)

    for which, run, fake, rule in (
        (name, forward, forward_fake, forward_vmap),
        (f"{name}_backward", backward, backward_fake, backward_vmap),
    ):
        qualified = f"dcnify::{which}"
        _library.impl(which, run, "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, fake, lib=_library)
        torch.library.register_vmap(qualified, rule, lib=_library)
        torch.library.register_torch_dispatch(
            qualified, FunctionalTensorMode, _see_through(run), lib=_library
        )
    _register_autograd(name, op, op_backward)
    torch.library.register_autograd(f"dcnify::{name}_backward", differentiate_twice, lib=_library)
    for device_type in ("cpu", "cuda", "xpu", "mps"):
        _register_autocast(name, op, device_type)
    _register_flops(name)


def require_one_dtype(value: Tensor, **points: Tensor) -> None:
    """Raise `InputError` if a tensor is none, or differs from ``value`` in dtype outside autocast.

    Under autocast ``value`` is about to be cast, and the points keep what precision they have.
    """
    check_is_tensor("value", value)
    for name, tensor in points.items():
        check_is_tensor(name, tensor)
        if tensor.dtype == value.dtype or {tensor.dtype, value.dtype} - set(FLOAT_DTYPES):
            continue
        if not torch.is_autocast_enabled(value.device.type):
            raise InputError(
                f"value is {value.dtype} and {name} is {tensor.dtype}; expected one dtype "
                f"(outside autocast): {name}.to({value.dtype}) for example"
            )


def _register_autograd(name: str, op: Any, op_backward: Any) -> None:
    """Do the same as ``torch.library.register_autograd``, in half its host time per call.

    That looks every default up in the schema at each call, and small layers are host-bound.
    """

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx, how: dict[str, Any], *tensors: Tensor) -> Tensor:
            ctx.how = how
            ctx.save_for_backward(*tensors)
            with torch._C._AutoDispatchBelowAutograd():
                return op(*tensors, **how)

        @staticmethod
        def backward(ctx, grad_output: Tensor) -> tuple:
            return None, *op_backward(grad_output, *ctx.saved_tensors, **ctx.how)

    def differentiable(*tensors: Tensor, **how: Any) -> Tensor:
        refuse_forward_mode(name, tensors)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            if torch._C._are_functorch_transforms_active():
                raise NotImplementedError(
                    f"torch.func does not see into torch.ops.dcnify.{name}: call dcnify.ops.{name}"
                )
            return Differentiable.apply(how, *tensors)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*tensors, **how)

    _library.impl(name, differentiable, "Autograd")


def _see_through(run: Callable[..., Any]) -> Callable[..., Any]:
    """Shows torch.compile and AOTInductor the Triton kernels inside, as ``triton_op`` does.

    ``torch.library.triton_op`` itself always decomposes; ours stays whole where it is not Triton
    that computes it, and in ``torch.export``, whose programs are to run on any device.
    """

    def rule(mode, op, types, args, kwargs):
        from torch.export._trace import custom_triton_ops_decomposition_disabled

        tensors = [tensor for tensor in args if isinstance(tensor, Tensor)]
        device_type, dtypes = tensors[0].device.type, [tensor.dtype for tensor in tensors]
        if (
            custom_triton_ops_decomposition_disabled()
            or device_type == "cpu"
            or backends.implementation_for(device_type, *dtypes) is not backends.TRITON
        ):
            return mode.__torch_dispatch__(op, types, args, kwargs)
        with mode:
            return run(*args, **kwargs)

    return rule


def _fold(batch_size: int, in_dims: Sequence[int | None], given: Sequence[Tensor]) -> list[Tensor]:
    """Tensors with a vmapped dimension as tensors with a larger batch."""
    folded = []
    for tensor, dim in zip(given, in_dims, strict=True):
        if dim is None:
            batched = tensor.expand(batch_size, *tensor.shape)
        else:
            batched = tensor.movedim(dim, 0)
        folded.append(batched.flatten(0, 1))
    return folded


def _batches(
    batch_size: int, in_dims: Sequence[int | None], given: Sequence[Tensor]
) -> tuple[int, int]:
    """The factors of a folded batch; division cannot tell them where one of them is zero."""
    tensor, dim = given[0], in_dims[0]
    return batch_size, tensor.shape[0] if dim is None else tensor.movedim(dim, 0).shape[1]


def _register_autocast(name: str, op: Any, device_type: str) -> None:
    """Cast ``value`` alone, to the dtype in force; torch's own helper casts all, to a fixed one."""
    key = f"Autocast{device_type.upper()}"
    this_key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(_keys, value: Tensor, *points: Tensor, **how: Any) -> Tensor:
        if value.is_floating_point() and value.dtype != torch.float64:
            value = value.to(torch.get_autocast_dtype(device_type))
        with torch._C._ExcludeDispatchKeyGuard(this_key):
            return op(value, *points, **how)

    _library.impl(name, cast, key, with_keyset=True)


def _register_flops(name: str) -> None:
    def flops(
        value_shape, *points, kernel_size=(3, 3), remove_center=False, out_shape=None, **_
    ) -> int:
        """10 per point and channel: four corners and the weight, a multiply-add (2) each."""
        queries = math.prod(points[0][:3])
        per_query = kernel_size[0] * kernel_size[1] - int(remove_center)
        return 10 * queries * per_query * value_shape[3]

    def backward_flops(grad_output_shape, value_shape, *points, out_shape=None, **how) -> int:
        """Twice the forward: once for the value, once for offsets and weights."""
        return 2 * flops(value_shape, *points, **how)

    register_flop_formula(getattr(torch.ops.dcnify, name))(flops)
    register_flop_formula(getattr(torch.ops.dcnify, f"{name}_backward"))(backward_flops)
