"""Other implementations of DCNv4. Timed where a person has installed them, and never needed."""

import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from dcnify.bench.case import Case, Inputs
from dcnify.bench.rivals import Prepared, Rival, Unavailable

_IMAGES_AT_ONCE = 256


def _original(inputs: Inputs) -> Prepared:
    """OpenGVLab/DCNv4, an autograd function over a CUDA extension."""
    function = _named("DCNv4.functions", "DCNv4Function")
    return _prepared(inputs, function.apply)


def _nusu(inputs: Inputs, triton: str = "0") -> Prepared:
    """nusu-github/DCNv4, a custom operator over a CUDA extension, or its Triton kernels for 3x3.

    It reads at every call, forward and backward, from the environment which one to use.
    """
    call = _named("dcnv4", "dcnv4_forward")

    def chosen(*arguments: Any) -> Tensor:
        os.environ["DCNV4_USE_TRITON"] = triton
        return call(*arguments)

    return _prepared(inputs, chosen)


def _prepared(inputs: Inputs, call: Callable[..., Tensor]) -> Prepared:
    """Both take the same fifteen arguments by position."""
    _check(inputs.case)
    shape, how = inputs.case.shape, inputs.case.sampling
    geometry = (*how.kernel_size, *how.stride, *how.padding, *how.dilation)
    rest = (shape.groups, shape.group_channels, how.offset_scale, _IMAGES_AT_ONCE, 0)
    return Prepared(
        (inputs.value, inputs.offset_mask),
        lambda value, offset_mask: call(value, offset_mask, *geometry, *rest),
    )


def _check(case: Case) -> None:
    if case.device.type != "cuda":
        raise Unavailable("runs on CUDA devices only")
    if case.shape.group_channels % 16:
        raise Unavailable(
            f"wants channels per group in multiples of 16, not {case.shape.group_channels}"
        )
    if case.batch > _IMAGES_AT_ONCE and case.batch % _IMAGES_AT_ONCE:
        raise Unavailable(f"wants a batch above {_IMAGES_AT_ONCE} in multiples of that")


def _named(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever an extension built for another torch says
        raise Unavailable(f"installed, but {module}.{name} cannot be imported: {error}") from None


PEERS = (
    Rival("dcnv4_cuda", "the original CUDA extension (OpenGVLab)", _original, package="DCNv4"),
    Rival("nusu", "the fork nusu-github/DCNv4, its CUDA extension", _nusu, package="dcnv4"),
    Rival(
        "nusu_triton",
        "the same fork, its Triton kernels",
        partial(_nusu, triton="1"),
        package="dcnv4",
    ),
)
