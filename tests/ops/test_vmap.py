"""torch.vmap over the operators: whatever dimension is mapped, as if called in a loop."""

from __future__ import annotations

import pytest
import torch
from support.dcnv4_calls import tensors

from dcnify.ops import dcnv3, dcnv4
from dcnify.ops.sampling import Sampling, views_of

HOW = {"groups": 2, "kernel_size": (3, 1), "padding": (1, 0)}
HOW_LISTS = {"groups": 2, "kernel_size": [3, 1], "padding": [1, 0]}


def _op(value, offset_mask):
    return dcnv4(value, offset_mask, **HOW)


@pytest.fixture
def three():
    """Three calls' tensors, stacked."""
    calls = [tensors(size=(4, 5), seed=seed, **HOW)[:2] for seed in range(3)]
    return tuple(torch.stack(one) for one in zip(*calls, strict=True))


def test_both_tensors_mapped(three):
    expected = torch.stack([_op(*one) for one in zip(*three, strict=True)])
    assert torch.equal(torch.vmap(_op)(*three), expected)


@pytest.mark.parametrize("shared", [0, 1])
def test_one_tensor_shared(three, shared):
    given = [t[0] if index == shared else t for index, t in enumerate(three)]
    dims = tuple(None if index == shared else 0 for index in range(2))
    calls = [[t if d is None else t[n] for t, d in zip(given, dims, strict=True)] for n in range(3)]
    expected = torch.stack([_op(*call) for call in calls])
    assert torch.equal(torch.vmap(_op, in_dims=dims)(*given), expected)


def test_a_dimension_in_the_middle_and_another_for_the_answer(three):
    value, offset_mask = three
    found = torch.vmap(_op, in_dims=(2, 0), out_dims=1)(value.movedim(0, 2), offset_mask)
    assert torch.equal(found, torch.vmap(_op)(*three).movedim(0, 1))


def test_gradients_through_a_vmap(three):
    mapped = [t.clone().requires_grad_() for t in three]
    looped = [t.clone().requires_grad_() for t in three]
    torch.vmap(_op)(*mapped).square().sum().backward()
    sum(_op(*one).square().sum() for one in zip(*looped, strict=True)).backward()
    for one, other in zip(mapped, looped, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_offsets_and_mask_of_dcnv3(three):
    value, offset_mask = three
    offset, mask = views_of([offset_mask[0]], Sampling(**HOW))
    offset, mask = offset.flatten(-2), mask.flatten(-2)
    found = torch.vmap(lambda v: dcnv3(v, offset, mask, softmax=False, **HOW))(value)
    assert torch.equal(found, torch.stack([_op(v, offset_mask[0]) for v in value]))


def _loss(value, offset_mask):
    return _op(value, offset_mask).square().sum()


def test_torch_func_grad_is_what_backward_gives(three):
    value, offset_mask = (t[0].clone().requires_grad_() for t in three)
    expected = torch.autograd.grad(_loss(value, offset_mask), (value, offset_mask))
    found = torch.func.grad(_loss, argnums=(0, 1))(value.detach(), offset_mask.detach())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_gradients_per_call_by_vmap_over_grad(three):
    found = torch.vmap(torch.func.grad(_loss))(*three)
    expected = [torch.func.grad(_loss)(*one) for one in zip(*three, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_second_derivative_under_torch_func_is_refused_in_words(three):
    def twice(value):
        return torch.func.grad(_loss)(value, three[1][0]).square().sum()

    with pytest.raises(NotImplementedError, match=r"no second derivative; dcnify\.ops\.reference"):
        torch.func.grad(twice)(three[0][0])


def test_a_forward_mode_derivative_is_refused_in_words(three):
    value, offset_mask = (t[0] for t in three)
    with pytest.raises(NotImplementedError, match=r"dcnify\.ops\.dcnv4 has no forward-mode"):
        torch.func.jvp(lambda v: _op(v, offset_mask), (value,), (value,))
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=r"no forward-mode derivative; dcnify\.ops\.r"),
    ):
        _op(torch.autograd.forward_ad.make_dual(value, value), offset_mask)


def test_mapping_over_nothing_gives_nothing(three):
    value, offset_mask = (t[:0] for t in three)
    assert torch.vmap(_op)(value, offset_mask).shape == (0, *_op(*(t[0] for t in three)).shape)


def test_functionalised_it_is_the_same(three):
    one = tuple(t[0] for t in three)
    assert torch.equal(torch.func.functionalize(_op)(*one), _op(*one))


def test_a_gradient_of_the_raw_operator_under_torch_func_names_the_function(three):
    one = tuple(t[0] for t in three)
    with pytest.raises(NotImplementedError, match=r"call dcnify\.ops\.dcnv4"):
        torch.func.grad(lambda v, o: torch.ops.dcnify.dcnv4(v, o, **HOW_LISTS).sum())(*one)
