"""Which code runs where: device and dtype decide, and what is not installed is not missed."""

from __future__ import annotations

import pytest
import torch

from dcnify.ops import backends, torch_path, triton_path
from dcnify.ops.numba import launch as numba_path
from dcnify.ops.sampling import Sampling

F32, F16, F64 = torch.float32, torch.float16, torch.float64


@pytest.mark.parametrize(
    ("device_type", "dtypes", "expected"),
    [
        ("cuda", (F32, F32), "TRITON"),
        ("cuda", (F16, F32), "TRITON"),
        ("cuda", (F64, F64), "TORCH"),
        ("cuda", (F32, F64), "TORCH"),
        ("cpu", (F32, F32), "NUMBA"),
        ("cpu", (F64, F64), "NUMBA"),
        ("xpu", (F32, F32), "TORCH"),
        ("mps", (F16, F16), "TORCH"),
    ],
)
def test_device_and_dtype_decide(device_type, dtypes, expected, monkeypatch):
    monkeypatch.setattr(triton_path, "DEVICES", ("cuda",))
    assert backends.implementation_for(device_type, *dtypes) is getattr(backends, expected)


def test_without_triton_or_numba_pytorch_does_it(monkeypatch):
    monkeypatch.setattr(triton_path, "available", lambda: False)
    monkeypatch.setattr(numba_path, "available", lambda: False)
    assert backends.implementation_for("cuda", F32, F32) is backends.TORCH
    assert backends.implementation_for("cpu", F32, F32) is backends.TORCH


@pytest.mark.parametrize("softmax", [False, True])
def test_the_value_gradient_in_order_is_the_one_of_the_other_way(softmax):
    sampling = Sampling(groups=2, softmax=softmax)
    value = torch.randn(2, 7, 6, 8, dtype=F64)
    offset = torch.randn(2, 7, 6, 2, 18, dtype=F64).mul_(3)
    weight = torch.randn(2, 7, 6, 2, 9, dtype=F64)
    grad = torch.randn_like(value)
    grads = torch.empty_like(offset), torch.empty_like(weight)
    expected = torch_path.backward(grad, value, offset, weight, sampling, *grads)
    found = torch_path.grad_value_in_order(grad, value, offset, weight, sampling)
    torch.testing.assert_close(found, expected)
