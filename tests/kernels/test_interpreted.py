"""The Triton kernels, run by Triton's interpreter, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("with a GPU the kernels run there: -m gpu", allow_module_level=True)

from dcnify.kernels import launch, plan
from support.dcnv4_strategies import calls
from support.kernel_calls import (
    check,
    interpreted,
    numbers,
    relative_error,
    separate,
    with_gradients,
)

from dcnify.ops import dcnv3, dcnv4, reference
from dcnify.ops.sampling import Sampling

pytestmark = pytest.mark.usefixtures("interpreted")
__all__ = ["interpreted"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.slow
@given(calls(kernel=4, step=2, padding=2, groups=4, batch=2, tail=3), st.sampled_from(DTYPES))
@settings(max_examples=16)
def test_forward_and_gradients_agree_with_the_reference(call, dtype):
    how, given_tensors = call
    check(*numbers(dtype=dtype, **given_tensors, **how), **how)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [8, 12, 16, 24, 32, 48])
def test_every_group_width_and_dtype_agrees(width, dtype):
    check(*numbers(batch=1, size=(5, 9), group_channels=width, groups=2, dtype=dtype), groups=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"softmax": True},
        {"softmax": True, "remove_center": True},
        {"kernel_size": 5, "padding": 2, "remove_center": True},
        {"kernel_size": 5, "padding": 2, "softmax": True},
        {"kernel_size": 7, "padding": 3},
        {"kernel_size": (1, 4), "padding": (0, 1), "stride": 2},
        {"kernel_size": 3, "dilation": 5, "padding": 5, "offset_scale": 3.0},
        {"stride": (3, 1)},
    ],
)
def test_every_variant_agrees(how):
    how = {"groups": 1, **how}
    check(*numbers(batch=1, size=(6, 7), group_channels=16, **how), **how)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "batch"), [((8, 16), 1), ((8, 15), 2), ((16, 8), 1)])
@pytest.mark.parametrize(("width", "groups"), [(8, 2), (16, 2), (32, 1)])
def test_programs_of_two_dimensional_tiles_agree(size, batch, width, groups, monkeypatch):
    tiled = []

    def seen(call, geometry):
        tiled.append(plan.plan_forward(call, geometry).constants["TILE_H"] > 0)
        return plan.plan_forward(call, geometry)

    monkeypatch.setattr(launch, "plan_forward", seen)
    how = {"groups": groups}
    check(*numbers(batch=batch, size=size, group_channels=width, dtype=torch.float16, **how), **how)
    assert tiled == [True]


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 1.0, 6.0, 100.0])
def test_points_near_and_far_from_their_tile_agree(spread):
    how = {"groups": 2}
    check(*numbers(batch=1, size=(9, 21), group_channels=8, spread=spread, **how), **how)


def test_whole_pixels_at_the_border_are_on_the_right_side_of_the_bounds():
    value, offset_mask, grad = numbers(batch=1, size=(5, 6), group_channels=8, groups=1)
    offset_mask[..., :18] = torch.randint(-3, 4, offset_mask[..., :18].shape).float()
    check(value, offset_mask, grad, groups=1)


@pytest.mark.slow
def test_far_from_the_origin_fractions_keep_their_bits():
    how = {"groups": 1, "kernel_size": 1, "padding": 0}
    value, offset_mask, _ = numbers(batch=1, size=(1, 3000), group_channels=4, **how)
    offset_mask[..., :2] = torch.rand_like(offset_mask[..., :2]) * 0.01
    found = dcnv4(value[:, :, -64:], offset_mask[:, :, -64:], **how)
    exact = reference.dcnv4(value.double(), offset_mask.double(), **how)[:, :, -64:]
    assert relative_error(dcnv4(value, offset_mask, **how)[:, :, -64:], exact) < 2e-7
    assert found.shape == exact.shape


@pytest.mark.slow
def test_indices_of_64_bits_compute_the_same(monkeypatch):
    call = numbers(batch=2, size=(5, 9), group_channels=8, groups=2, wild=True)
    narrow = plan.plan_forward.__wrapped__, plan.plan_backward.__wrapped__
    for name, run in zip(("plan_forward", "plan_backward"), narrow, strict=True):

        def wide(call, *rest, run=run):
            return run(call._replace(wide=True), *rest)

        monkeypatch.setattr(launch, name, wide)
    check(*call, groups=2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offsets_and_mask_in_two_tensors_agree_and_are_not_copied(dtype, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "contiguous", _refuse_to_copy(torch.Tensor.contiguous))
    value, offset_mask, grad = numbers(batch=2, size=(5, 6), group_channels=8, groups=2)
    offset, mask = separate(offset_mask, Sampling(groups=2))
    inputs = [t.to(dtype).requires_grad_() for t in (value, offset, mask)]
    out = dcnv3(*inputs, groups=2)
    found = torch.autograd.grad(out, inputs, grad.to(dtype))
    exact_inputs = [t.detach().double() for t in inputs]
    packed = torch.cat([t.unflatten(-1, (2, -1)) for t in exact_inputs[1:]], -1).flatten(-2)
    exact_inputs = exact_inputs[0].requires_grad_(), packed.requires_grad_()
    exact = reference.dcnv4(*exact_inputs, groups=2, softmax=True)
    tolerance = 1e-6 if dtype == torch.float32 else 2**-7
    assert relative_error(out, exact) < tolerance
    exact_value, exact_packed = torch.autograd.grad(exact, exact_inputs, grad.to(dtype).double())
    expected = exact_value, *separate(exact_packed, Sampling(groups=2))
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < tolerance


def _refuse_to_copy(contiguous):
    def stub(tensor, *args, **kwargs):
        same = contiguous(tensor, *args, **kwargs)
        assert same.data_ptr() == tensor.data_ptr(), "a tensor was copied"
        return same

    return stub


@pytest.mark.slow
def test_memory_around_and_unused_channels_may_hold_anything():
    value, offset_mask, grad = numbers(batch=2, size=(5, 6), group_channels=8, groups=2, wild=True)
    around = torch.full((value.numel() + 4096,), float("nan"))
    around[2048:-2048] = value.flatten()
    inside = around[2048:-2048].view_as(value)
    padded = torch.full((*offset_mask.shape[:3], 64), float("nan"))
    padded[..., : offset_mask.shape[3]] = offset_mask
    check(inside, padded, grad, groups=2)


def test_pixels_that_no_point_reads_may_be_nan():
    value, offset_mask, _ = numbers(batch=1, size=(5, 6), group_channels=8, groups=1, spread=0.0)
    value[:, :, 0] = float("nan")
    offset_mask[:, :, :, 0:18:2] = 50.0  # every x
    assert (dcnv4(value, offset_mask, groups=1) == 0).all()


def test_a_weight_that_is_nan_shows_in_the_gradient_of_what_it_weighs():
    value, offset_mask, grad = numbers(batch=1, size=(5, 6), group_channels=8, groups=1, spread=0.2)
    offset_mask[0, 2, 3, 18:] = float("nan")
    _, grad_value, _ = with_gradients(dcnv4, value, offset_mask, grad, groups=1)
    assert grad_value[0, 2, 3].isnan().all()


def test_inputs_need_not_be_contiguous():
    value, offset_mask, grad = numbers(batch=2, size=(4, 6), group_channels=8, groups=2)
    nchw = value.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    wide = torch.cat((offset_mask, offset_mask), dim=-1)[..., : offset_mask.shape[3]]
    scattered = grad.transpose(1, 2).contiguous().transpose(1, 2)
    check(nchw, wide, scattered, groups=2)
    check(
        value[:1].expand_as(value), offset_mask.flip(1), grad[:, :1, :1].expand_as(grad), groups=2
    )


def test_every_element_of_the_answers_is_written_when_determinism_is_asked_for():
    call = numbers(batch=2, size=(5, 6), group_channels=8, groups=2, tail=3, wild=True)
    torch.use_deterministic_algorithms(True)  # also fills fresh memory with NaN
    try:
        check(*call, groups=2)
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_empty_batch_is_answered_by_an_empty_batch():
    value, offset_mask, _ = numbers(batch=0, size=(5, 6), group_channels=8, groups=2)
    value.requires_grad_()
    offset_mask.requires_grad_()
    out = dcnv4(value, offset_mask, groups=2)
    out.sum().backward()
    assert out.shape == (0, 5, 6, 16)
    assert value.grad.shape == value.shape
    assert offset_mask.grad.shape == offset_mask.shape
