"""The operator against its reference: forward and gradients, whatever the shape and the offsets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from support.dcnv4_calls import relative_error, tensors, with_gradients
from support.dcnv4_strategies import calls

from dcnify.ops import dcnv4, reference, torch_path


def _assert_agrees(value, offset_mask, grad, tolerance, **how):
    found = with_gradients(dcnv4, value, offset_mask, grad, **how)
    exact = with_gradients(
        reference.dcnv4, value.double(), offset_mask.double(), grad.double(), **how
    )
    for name, one, other in zip(("output", "value", "offset_mask"), found, exact, strict=True):
        assert one.isfinite().all(), name
        assert relative_error(one, other) < tolerance, name


@given(calls())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_forward_and_gradients_agree_with_the_reference(call):
    how, given_tensors = call
    _assert_agrees(*tensors(**given_tensors, **how), 1e-5, **how)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("softmax", [False, True])
def test_half_precision_loses_only_the_final_rounding(dtype, softmax):
    value, offset_mask, grad = tensors(dtype=dtype)
    _assert_agrees(value, offset_mask, grad, torch.finfo(dtype).eps, softmax=softmax)


def test_beneath_autocast_value_and_offsets_differ_in_dtype_and_keep_their_own():
    value, offset_mask, grad = tensors()
    op = torch.ops.dcnify.dcnv4
    found = with_gradients(op, value.bfloat16(), offset_mask, grad)
    assert [t.dtype for t in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
    exact = with_gradients(
        reference.dcnv4, value.bfloat16().double(), offset_mask.double(), grad.bfloat16().double()
    )
    for one, other in zip(found, exact, strict=True):
        assert relative_error(one, other) < 2**-7


@pytest.mark.parametrize("how", [{}, {"softmax": True, "remove_center": True}])
def test_gradcheck_in_float64(how):
    how = {"kernel_size": (3, 1), "padding": (1, 0), "stride": (1, 2), "groups": 2, **how}
    value, offset_mask, _ = tensors(
        batch=1, size=(3, 4), group_channels=2, spread=0.7, tail=1, dtype=torch.float64, **how
    )
    inputs = value.requires_grad_(), offset_mask.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, o: dcnv4(v, o, **how), inputs)


def test_inputs_and_gradients_need_not_be_contiguous():
    value, offset_mask, grad = tensors(tail=4)
    nchw = value.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    wide = torch.cat((offset_mask, offset_mask), dim=-1)[..., : offset_mask.shape[3]]
    assert not nchw.is_contiguous()
    assert not wide.is_contiguous()
    scattered = grad.transpose(1, 2).contiguous().transpose(1, 2)
    _assert_agrees(nchw, wide, scattered, 1e-5)
    _assert_agrees(value, offset_mask, grad[:, :, :1, :1].expand_as(grad), 1e-5)
    _assert_agrees(value[:1].expand_as(value), offset_mask.flip(1), grad, 1e-5)


def test_blocks_of_queries_join_without_a_seam(monkeypatch):
    value, offset_mask, grad = tensors(batch=3, wild=True)
    whole = with_gradients(dcnv4, value, offset_mask, grad)
    monkeypatch.setattr(torch_path, "_POINTS_AT_ONCE", 5 * 9 * 4 * 9)  # blocks of 5 of 21 rows
    for one, other in zip(with_gradients(dcnv4, value, offset_mask, grad), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_each_image_of_a_batch_is_computed_on_its_own():
    value, offset_mask, grad = tensors(batch=3, spread=8.0)
    together = with_gradients(dcnv4, value, offset_mask, grad)
    alone = [
        with_gradients(dcnv4, value[b : b + 1], offset_mask[b : b + 1], grad[b : b + 1])
        for b in range(3)
    ]
    for one, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(one, torch.cat(parts))


def test_an_empty_batch_is_answered_by_an_empty_batch():
    value, offset_mask, grad = tensors(batch=0)
    results = with_gradients(dcnv4, value, offset_mask, grad)
    assert [tuple(t.shape) for t in results] == [(0, 7, 9, 16), (0, 7, 9, 16), (0, 7, 9, 108)]


def test_pixels_that_no_point_reads_may_be_nan():
    value, offset_mask, grad = tensors(batch=2)
    value[:, 0, 0] = float("nan")
    value[:, -1, -1] = float("nan")
    offset_mask[..., :72] = float("nan")  # everything of the first two groups, weights and all
    offset_mask[..., 72:] = 0.0
    results = with_gradients(dcnv4, value, offset_mask, grad)
    expected = with_gradients(reference.dcnv4, value, offset_mask, grad)
    assert (results[0][..., :8] == 0).all()
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_every_element_of_the_answers_is_written():
    value, offset_mask, grad = tensors(batch=2, tail=4)
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        results = with_gradients(dcnv4, value, offset_mask, grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(t.isfinite().all() for t in results)
    assert (results[2][..., 108:] == 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_a_gpu_it_agrees_with_the_reference_too(dtype):
    call = [t.cuda() for t in tensors(size=(20, 24), wild=True, tail=4, dtype=dtype)]
    _assert_agrees(*call, 1e-5 if dtype == torch.float32 else 2**-9, softmax=True)


def test_inputs_are_left_as_they_were():
    value, offset_mask, grad = tensors(wild=True)
    before = value.clone(), offset_mask.clone(), grad.clone()
    with_gradients(dcnv4, value, offset_mask, grad)
    for now, then in zip((value, offset_mask, grad), before, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 0.37, 1.0, -1.3])
def test_points_on_a_pixel_are_on_the_side_where_the_reference_has_them(scale, dtype):
    how = {"offset_scale": scale, "dilation": 3, "padding": 3}
    value, offset_mask, grad = tensors(size=(9, 10), dtype=dtype, **how)
    offset_mask.unflatten(-1, (4, 27))[..., :18] = 0
    found = with_gradients(dcnv4, value, offset_mask, grad, **how)
    exact = with_gradients(reference.dcnv4, value, offset_mask, grad, **how)
    for one, other in zip(found, exact, strict=True):
        assert relative_error(one, other) < 1e-5
