"""Calls of the Triton kernels by the interpreter, and how near they must come."""

from __future__ import annotations

import pytest
import torch
from support.dcnv4_calls import relative_error, tensors, with_gradients

from dcnify.ops import dcnv4, reference, triton_path
from dcnify.ops.sampling import Sampling, views_of

numbers = tensors
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""Half precision loses the final rounding, which Triton's interpreter does by cutting bfloat16."""

__all__ = ["check", "interpreted", "numbers", "relative_error", "separate", "with_gradients"]


@pytest.fixture
def interpreted(monkeypatch):
    """CPU tensors go to the Triton kernels."""
    monkeypatch.setattr(triton_path, "DEVICES", ("cpu",))


def check(value, offset_mask, grad, **how):
    """Output and gradients of the kernels against the reference in float64."""
    found = with_gradients(dcnv4, value, offset_mask, grad, **how)
    exact = with_gradients(
        reference.dcnv4, value.double(), offset_mask.double(), grad.double(), **how
    )
    for name, one, other in zip(("output", "value", "offset_mask"), found, exact, strict=True):
        assert one.isfinite().all(), name
        assert relative_error(one, other) < TOLERANCE[value.dtype], name


def separate(offset_mask, sampling: Sampling):
    """DCNv3's two tensors from DCNv4's one."""
    offset, weight = views_of([offset_mask], sampling)
    return offset.flatten(-2).contiguous(), weight.flatten(-2).contiguous()
