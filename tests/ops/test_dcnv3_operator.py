"""DCNv3: two tensors in, the answer of the packed operator out, and what PyTorch asks of it."""

from __future__ import annotations

import pytest
import torch
from support.dcnv4_calls import relative_error, tensors

from dcnify.errors import InputError
from dcnify.ops import dcnv3, dcnv4, reference
from dcnify.ops.sampling import Sampling, views_of

CALLS = [
    {},
    {"remove_center": True, "groups": 2, "offset_scale": 2.0},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
]


def _two(offset_mask, **how):
    offset, weight = views_of([offset_mask], Sampling(**how))
    return offset.flatten(-2).contiguous(), weight.flatten(-2).contiguous()


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("how", CALLS)
def test_it_computes_what_the_packed_operator_computes(how, softmax):
    value, offset_mask, grad = tensors(dtype=torch.float64, wild=True, **how)
    two = [value.requires_grad_(), *(t.requires_grad_() for t in _two(offset_mask, **how))]
    out = dcnv3(*two, softmax=softmax, **how)
    found = torch.autograd.grad(out, two, grad)
    packed = offset_mask.requires_grad_()
    expected = reference.dcnv4(value, packed, softmax=softmax, **how)
    exact_value, exact_packed = torch.autograd.grad(expected, (value, packed), grad)
    assert relative_error(out, expected) < 1e-12
    for one, other in zip(found, (exact_value, *_two(exact_packed, **how)), strict=True):
        assert relative_error(one, other) < 1e-12


def test_the_softmax_is_on_unless_it_is_turned_off():
    value, offset_mask, _ = tensors()
    offset, mask = _two(offset_mask)
    assert torch.equal(dcnv3(value, offset, mask), dcnv4(value, offset_mask, softmax=True))
    ready = mask.unflatten(-1, (4, 9)).softmax(-1).flatten(-2)
    torch.testing.assert_close(
        dcnv3(value, offset, ready, softmax=False), dcnv3(value, offset, mask)
    )


@pytest.mark.parametrize("how", CALLS)
def test_opcheck_accepts_it(how):
    value, offset_mask, _ = tensors(size=(5, 6), **how)
    offset, mask = _two(offset_mask, **how)
    inputs = value.requires_grad_(), offset.requires_grad_(), mask.requires_grad_()
    torch.library.opcheck(torch.ops.dcnify.dcnv3.default, inputs, how)


def test_compiled_forward_and_backward_are_the_eager_ones():
    value, offset_mask, grad = tensors()
    inputs = [t.requires_grad_() for t in (value, *_two(offset_mask))]
    compiled = torch.compile(dcnv3, fullgraph=True, backend="aot_eager")
    for op in (dcnv3, compiled):
        out = op(*inputs)
        results = out, *torch.autograd.grad(out, inputs, grad)
        expected = results if op is dcnv3 else expected  # noqa: F821
    for one, other in zip(results, expected, strict=True):
        assert torch.equal(one, other)


def test_autocast_casts_the_value_and_leaves_positions_alone():
    value, offset_mask, _ = tensors()
    offset, mask = _two(offset_mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = dcnv3(value, offset, mask)
    assert out.dtype == torch.bfloat16
    assert relative_error(out, dcnv3(value, offset, mask)) < 2**-7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v, o, m: (v, o[..., :-1], m),
            r"offset has 71 channels; expected 2·G·K = 2·4·9",
        ),
        (lambda v, o, m: (v, o, m[..., :-1]), r"mask has 35 channels; expected G·K = 4·9 = 36"),
        (lambda v, o, m: (v, o, m[:, :-1]), r"mask is \(B, Ho, Wo\) = \(2, 6, 9\); value"),
        (lambda v, o, m: (v, o.half(), m), r"offset is torch\.float16; expected one dtype"),
        (lambda v, o, m: (v, o, m.to("meta")), r"value is on cpu, mask on meta; expected one"),
        (lambda v, o, m: (v[..., :-1], o, m), r"15 channels do not divide into 4 groups"),
        (lambda v, o, m: (v, o.long(), m), r"offset is torch\.int64; expected float16"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(change, message):
    value, offset_mask, _ = tensors()
    with pytest.raises(InputError, match=message) as raised:
        dcnv3(*change(value, *_two(offset_mask)))
    assert "\n" not in str(raised.value)
