"""DCNv4 forward and backward through the Triton kernels."""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from dcnify.ops import torch_path
from dcnify.ops.sampling import Sampling, views_of

DEVICES = ("cuda",)
"""Device types that the kernels serve; ROCm devices are of type cuda, too."""


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether Triton is installed; it is not on every platform that PyTorch runs on."""
    return find_spec("triton") is not None


def forward(value: Tensor, points: Sequence[Tensor], how: Sampling) -> Tensor:
    """The output, (B, Ho, Wo, C), in the dtype of ``value``."""
    from dcnify.kernels import launch

    return launch.forward(value, points, _geometry(how), how.groups, how.offset_scale)


def backward(
    grad_output: Tensor,
    value: Tensor,
    points: Sequence[Tensor],
    how: Sampling,
    grads: Sequence[Tensor],
) -> Tensor:
    """Gradient of ``value``, in its dtype; those of the points are written to ``grads``.

    Under ``torch.use_deterministic_algorithms(True)`` the value's gradient comes from PyTorch's own
    deterministic ``index_add_``: slow, and the same every time.
    """
    from dcnify.kernels import launch

    in_order = torch.are_deterministic_algorithms_enabled()
    grad_value = launch.backward(
        grad_output,
        value,
        points,
        _geometry(how),
        how.groups,
        how.offset_scale,
        grads,
        want_value=not in_order,
    )
    if grad_value is None:
        return torch_path.grad_value_in_order(grad_output, value, *views_of(points, how), how)
    return grad_value


@lru_cache(maxsize=1024)
def _geometry(how: Sampling):
    from dcnify.kernels.plan import Geometry

    pairs = (*how.kernel_size, *how.stride, *how.padding, *how.dilation)
    return Geometry(*pairs, how.remove_center, how.softmax)
