"""The reference is the formula: checked against loops that share no code with it."""

from __future__ import annotations

import math

import pytest
import torch
from support.dcnv4_calls import relative_error, tensors, with_gradients

from dcnify.ops import reference


def by_hand(
    value,
    offset_mask,
    kernel_size=(3, 3),
    stride=(1, 1),
    padding=(1, 1),
    dilation=(1, 1),
    groups=4,
    offset_scale=1.0,
    remove_center=False,
    softmax=False,
):
    """SEMANTICS, one number at a time."""
    batch, height, width, channels = value.shape
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel_size, stride, padding, dilation
    out_h = (height + 2 * ph - (dh * (kh - 1) + 1)) // sh + 1
    out_w = (width + 2 * pw - (dw * (kw - 1) + 1)) // sw + 1
    half_h, half_w = (dh * (kh - 1)) // 2, (dw * (kw - 1)) // 2
    k = kh * kw - int(remove_center)
    depth = channels // groups
    pixels, numbers = value.tolist(), offset_mask.tolist()
    out = torch.zeros(batch, out_h, out_w, channels, dtype=torch.float64)
    for b in range(batch):
        for ho in range(out_h):
            for wo in range(out_w):
                for g in range(groups):
                    mine = numbers[b][ho][wo][3 * k * g : 3 * k * (g + 1)]
                    weights = mine[2 * k :]
                    if softmax:
                        total = sum(math.exp(w) for w in weights)
                        weights = [math.exp(w) / total for w in weights]
                    point = 0
                    for i in range(kw):
                        for j in range(kh):
                            if remove_center and (i, j) == (kw // 2, kh // 2):
                                continue
                            off_x, off_y = mine[2 * point], mine[2 * point + 1]
                            weight = weights[point]
                            point += 1
                            x = half_w - pw + wo * sw - half_w * offset_scale
                            y = half_h - ph + ho * sh - half_h * offset_scale
                            x += (i * dw + off_x) * offset_scale
                            y += (j * dh + off_y) * offset_scale
                            if not (-1 < x < width and -1 < y < height):
                                continue
                            left, top = math.floor(x), math.floor(y)
                            for r in (top, top + 1):
                                for c in (left, left + 1):
                                    if 0 <= r < height and 0 <= c < width:
                                        share = weight * (1 - abs(y - r)) * (1 - abs(x - c))
                                        for d in range(g * depth, (g + 1) * depth):
                                            out[b, ho, wo, d] += share * pixels[b][r][c][d]
    return out


CALLS = {
    "plain": {},
    "softmax without centre": {"softmax": True, "remove_center": True},
    "even kernel": {"kernel_size": (2, 4), "padding": (1, 2), "groups": 2},
    "strided and dilated": {
        "kernel_size": (3, 1),
        "stride": (2, 3),
        "padding": (2, 0),
        "dilation": (2, 1),
        "groups": 3,
    },
    "half scale": {"offset_scale": 0.5, "kernel_size": (5, 3), "padding": (2, 1), "groups": 1},
    "one point": {"kernel_size": (1, 1), "padding": (0, 0), "groups": 2, "offset_scale": 2.0},
}


@pytest.mark.parametrize("name", CALLS)
def test_the_reference_is_the_formula_one_number_at_a_time(name):
    how = CALLS[name]
    value, offset_mask, _ = tensors(
        size=(4, 5), group_channels=2, wild=True, tail=3, dtype=torch.float64, **how
    )
    found = reference.dcnv4(value, offset_mask, **how)
    assert relative_error(found, by_hand(value, offset_mask, **how)) < 1e-14


def test_rejected_points_leave_no_trace_in_any_gradient():
    value, offset_mask, grad = tensors(dtype=torch.float64)
    for channel, number in enumerate((float("nan"), float("inf"), -1e30, 1e18)):
        offset_mask[..., 2 * channel] = number  # x of the group's first four points
    offset_mask[..., 18] = float("nan")  # the weight of a rejected point
    out, grad_value, grad_offset_mask = with_gradients(reference.dcnv4, value, offset_mask, grad)
    assert out.isfinite().all()
    assert grad_value.isfinite().all()
    assert (grad_offset_mask[..., :8] == 0).all()
    assert (grad_offset_mask[..., 18:22] == 0).all()
    assert (grad_offset_mask[..., 8:18] != 0).any()


def test_the_border_counts_only_when_strictly_less_than_a_pixel_away():
    value = torch.ones(1, 3, 3, 1, dtype=torch.float64)
    how = {"kernel_size": 1, "padding": 0, "groups": 1}
    for off_x, expected in ((-1.0, 0.0), (-0.75, 0.25), (0.0, 1.0), (2.75, 0.25), (3.0, 0.0)):
        offset_mask = torch.tensor([off_x, 0.0, 1.0], dtype=torch.float64).expand(1, 3, 3, 3)
        assert reference.dcnv4(value, offset_mask, **how)[0, 0, 0, 0] == expected


def test_half_precision_sums_in_float32_and_rounds_once():
    value, offset_mask, _ = tensors(dtype=torch.bfloat16)
    exact = reference.dcnv4(value.double(), offset_mask.double())
    assert relative_error(reference.dcnv4(value, offset_mask), exact) < 2**-8
