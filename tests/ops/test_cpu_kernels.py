"""The CPU kernels against the reference, in every layout, whoever calls them from wherever."""

from __future__ import annotations

import multiprocessing
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dcnv4_calls import relative_error, tensors, with_gradients
from support.dcnv4_strategies import calls

from dcnify.ops import reference
from dcnify.ops.numba import launch as numba_path
from dcnify.ops.sampling import Sampling

pytest.importorskip("numba")

LAYOUTS = ("packed", "separate", "every other")
TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 1e-5,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}


def split(packed: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of a packed tensor's offsets, (B, Ho, Wo, G, 2K), and weights, (B, Ho, Wo, G, K)."""
    k = sampling.num_points
    per_group = packed[..., : sampling.offset_mask_channels].unflatten(-1, (sampling.groups, 3 * k))
    return per_group[..., : 2 * k], per_group[..., 2 * k :]


def laid_out(packed: torch.Tensor, sampling: Sampling, layout: str):
    """The same offsets and weights, in another place in memory."""
    if layout == "packed":
        return split(packed, sampling)
    if layout == "separate":
        return tuple(view.clone() for view in split(packed, sampling))
    doubled = tuple(view.repeat_interleave(2, -1) for view in split(packed, sampling))
    return tuple(view[..., ::2] for view in doubled)


def answers(value, packed, grad, *, layout="packed", **how):
    """Output, value gradient and packed gradient; unused channels have the gradient NaN."""
    sampling = Sampling(**how)
    offset, weight = laid_out(packed, sampling, layout)
    out = numba_path.forward(value, offset, weight, sampling)
    nan = torch.full_like(packed, float("nan"))
    grad_offset, grad_weight = laid_out(nan, sampling, layout)
    grad_value = numba_path.backward(
        grad, value, offset, weight, sampling, grad_offset, grad_weight
    )
    assert out.is_contiguous()
    assert grad_value.is_contiguous()
    to_offset, to_weight = split(nan, sampling)
    to_offset.copy_(grad_offset)
    to_weight.copy_(grad_weight)
    return out, grad_value, nan


def assert_right(value, packed, grad, tolerance, *, layout="packed", **how):
    """All three answers are the reference's in float64, and of the right dtypes."""
    found = answers(value, packed, grad, layout=layout, **how)
    inputs = (tensor.double() for tensor in (value, packed, grad))
    expected = with_gradients(reference.dcnv4, *inputs, **how)
    used = Sampling(**how).offset_mask_channels
    for f, e, dtype in zip(found, expected, (value.dtype, value.dtype, packed.dtype), strict=True):
        assert f.dtype == dtype
        assert f.shape == e.shape
        limit = max(tolerance, TOLERANCE[dtype])
        assert relative_error(f[..., :used], e[..., :used]) < limit
    assert found[2][..., used:].isnan().all()


LARGE = {"extra": 20, "widths": (1, 3, 8, 12, 16, 24, 47, 64)}


@settings(max_examples=100)
@given(calls(**LARGE), st.sampled_from(LAYOUTS))
def test_any_call_gives_the_answers_of_the_reference(call, layout):
    how, given_tensors = call
    inputs = tensors(dtype=torch.float64, **given_tensors, **how)
    assert_right(*inputs, TOLERANCE[torch.float64], layout=layout, **how)


@settings(max_examples=40)
@given(
    calls(**LARGE),
    st.sampled_from(LAYOUTS),
    st.sampled_from(tuple(TOLERANCE)),
    st.sampled_from(tuple(TOLERANCE)),
)
def test_any_two_dtypes_go_together(call, layout, value_dtype, packed_dtype):
    how, given_tensors = call
    value, packed, grad = tensors(dtype=torch.float32, **given_tensors, **how)
    rounded = value.to(value_dtype), packed.to(packed_dtype), grad.to(value_dtype)
    tolerance = TOLERANCE[torch.promote_types(torch.float32, value_dtype)]
    assert_right(*rounded, tolerance, layout=layout, **how)


@pytest.mark.slow
def test_large_kernels_and_many_tiles_are_right_in_float32():
    for size, kernel, width in (((40, 33), 3, 32), ((30, 31), 11, 16)):
        how = {"groups": 2, "kernel_size": kernel, "padding": kernel // 2}
        inputs = tensors(batch=3, size=size, group_channels=width, **how)
        assert_right(*inputs, TOLERANCE[torch.float32], **how)


def test_points_on_the_last_pixels_and_just_outside_are_told_apart():
    edges = torch.tensor((-1.0, -0.999, 0.0, 3.999, 4.0, 4.001, 4.999, 5.0))
    count = len(edges)
    value = torch.randn(1, 5, 5, 2, dtype=torch.float64)
    how = {"kernel_size": 1, "padding": 0, "groups": 1}
    for axis in (0, 1):
        packed = torch.zeros(count, 5, 5, 3, dtype=torch.float64)
        packed[..., 2] = 1
        packed[..., axis] = edges.double().view(count, 1, 1)
        line = torch.arange(5, dtype=torch.float64)
        packed[..., axis] -= line if axis == 0 else line.view(5, 1)
        inputs = value.expand(count, -1, -1, -1), packed, torch.randn(count, 5, 5, 2)
        assert_right(*inputs, 1e-13, **how)


def test_memory_around_the_tensors_is_neither_read_nor_written():
    how = {"groups": 2}
    given_tensors = tensors(wild=True, spread=5.0, **how)
    surrounded = []
    for tensor in given_tensors:
        room = torch.full((3, *tensor.shape), float("nan"))
        room[1] = tensor
        surrounded.append(room)
    inputs = [room[1] for room in surrounded]
    assert all(a.isfinite().all() for a in answers(*inputs, **how))
    assert_right(*inputs, TOLERANCE[torch.float32], **how)

    sampling = Sampling(**how)
    room = torch.full((3, *inputs[1].shape), float("inf"))
    offset, weight = split(inputs[1], sampling)
    numba_path.backward(inputs[2], inputs[0], offset, weight, sampling, *split(room[1], sampling))
    assert room[1].isfinite().all()
    assert room[0].isinf().all()
    assert room[2].isinf().all()


def test_a_pixel_that_no_point_reads_may_hold_anything():
    value = torch.full((1, 6, 6, 4), float("nan"))
    value[:, 2:4, 2:4] = torch.randn(1, 2, 2, 4)
    how = {"kernel_size": 1, "padding": 0, "groups": 1}
    packed = torch.randn(1, 6, 6, 3)
    packed[..., 0] = 2.5 - torch.arange(6)
    packed[..., 1] = 2.5 - torch.arange(6).view(6, 1)
    packed[:, :3, :, 0] = 1e6
    for answer in answers(value, packed, torch.randn(1, 6, 6, 4), **how):
        assert answer.isfinite().all()


def test_border_corners_of_a_point_are_zero_even_beside_nan():
    """The corner outside lies, if clamped, on a pixel that is NaN."""
    value = torch.full((1, 3, 3, 1), float("nan"))
    packed = torch.zeros(1, 3, 3, 3)
    packed[..., :2] = -100.0
    packed[..., 2] = 1
    packed[0, 0, 0, :2] = torch.tensor((-0.5, 1.5))  # between column -1 and 0, rows 1 and 2
    value[0, 1:, 0] = torch.tensor(((2.0,), (4.0,)))
    sampling = Sampling(1, padding=0, groups=1)
    out = numba_path.forward(value, *split(packed, sampling), sampling)
    assert out[0, 0, 0] == 1.5
    assert out.count_nonzero() == 1


def test_a_rejected_point_has_no_gradient_even_where_the_output_has_an_infinite_one():
    value, packed, grad = tensors(groups=1)
    packed[0] = 1e4
    grad[0] = float("inf")
    _, grad_value, grad_packed = answers(value, packed, grad, groups=1)
    assert grad_packed[0].count_nonzero() == 0
    assert grad_value[0].count_nonzero() == 0


def test_a_rejected_point_adds_nothing_even_with_a_weight_that_is_not_a_number():
    value, packed, grad = tensors(groups=1)
    packed[0, ..., :18], packed[0, ..., 18:] = 1e4, float("nan")
    out, grad_value, grad_packed = answers(value, packed, grad, groups=1)
    for answer in (out, grad_value, grad_packed):
        assert answer[0].count_nonzero() == 0
        assert answer.isfinite().all()


def test_an_infinite_weight_or_value_shows_in_the_output():
    for name in ("weight", "value"):
        value, packed, _ = tensors(groups=1, spread=0.1)
        (packed[0, 3, 3, 18:] if name == "weight" else value[0, 3, 3]).fill_(float("inf"))
        sampling = Sampling(groups=1)
        out = numba_path.forward(value, *split(packed, sampling), sampling)
        assert not out[0, 3, 3].isfinite().any()
        assert out[1].isfinite().all()


def test_an_empty_batch_gives_empty_answers():
    value, packed, grad = (t[:0] for t in tensors(groups=2))
    out, grad_value, grad_packed = answers(value, packed, grad, groups=2)
    assert (out.shape, grad_value.shape) == (grad.shape, value.shape)
    assert grad_packed.shape == packed.shape


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
def test_answers_are_the_same_bits_whatever_the_number_of_threads(batch, softmax):
    how = {"groups": 1, "softmax": softmax}
    inputs = tensors(batch=batch, size=(40, 40), group_channels=47, wild=not softmax, **how)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            found.append(answers(*inputs, **how))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert torch.equal(one, other)


def test_many_threads_may_call_at_once():
    inputs = tensors(batch=2, size=(30, 30), group_channels=16, groups=4)
    expected, wrong = answers(*inputs, groups=4), []

    def caller() -> None:
        for _ in range(5):
            pairs = zip(answers(*inputs, groups=4), expected, strict=True)
            wrong.extend(not torch.equal(one, other) for one, other in pairs)

    callers = [threading.Thread(target=caller) for _ in range(12)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(timeout=120)
    assert len(wrong) == 12 * 5 * 3
    assert not any(wrong)


class _Sampled(torch.utils.data.Dataset):
    """A data set whose items are outputs of the operator."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        inputs = tensors(size=(30, 30), group_channels=16, seed=index, groups=4)
        return answers(*inputs, groups=4)[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_workers_of_a_data_loader_compute_what_their_parent_does():
    expected = [_Sampled()[index] for index in range(6)]
    loader = torch.utils.data.DataLoader(
        _Sampled(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    for one, other in zip(loader, expected, strict=True):
        assert torch.equal(one, other)


def _child(queue, inputs) -> None:
    # Nothing but the kernels: PyTorch's own threads do not survive a fork.
    value, packed, sampling = inputs
    torch.set_num_threads(3)
    out = numba_path.forward(value, *split(packed, sampling), sampling)
    queue.put(out.numpy().tobytes())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_with_threads_of_its_own():
    value, packed, _ = tensors(size=(30, 30), group_channels=16, groups=4)
    sampling = Sampling(groups=4)
    expected = numba_path.forward(value, *split(packed, sampling), sampling)
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_child, args=(queue, (value, packed, sampling)))
    child.start()
    assert queue.get(timeout=60) == expected.numpy().tobytes()
    child.join(timeout=60)
