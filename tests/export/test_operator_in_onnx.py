"""The operators in ONNX compute what the reference says, whatever the geometry."""

from __future__ import annotations

import random

import pytest
import torch
from support.onnx_calls import exported_error

FORMS = ("deform_conv", "grid_sample")
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3}
PLAIN = {
    **{"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)},
    **{"groups": 4, "offset_scale": 1.0, "remove_center": False, "softmax": False},
}
QUICK = (
    {"groups": 4},
    {"stride": (2, 2), "groups": 2, "offset_scale": 0.5, "remove_center": True},
    {"kernel_size": (5, 3), "padding": (2, 0), "dilation": (1, 2), "groups": 3, "softmax": True},
    {"groups": 1, "remove_center": True, "softmax": True, "offset_scale": 2.0},
)


def _drawn(seed: int) -> dict:
    """A geometry at random."""
    draw = random.Random(seed)
    kernel = draw.choice([(3, 3), (3, 3), (1, 1), (5, 5), (4, 4), (7, 7), (3, 5), (2, 3)])
    odd = kernel[0] % 2 == kernel[1] % 2 == 1 and kernel != (1, 1)
    return {
        "kernel_size": kernel,
        "stride": (draw.randint(1, 3), draw.randint(1, 3)),
        "padding": (draw.randint(0, 3), draw.randint(0, 3)),
        "dilation": (draw.randint(1, 2), draw.randint(1, 3)),
        "groups": draw.randint(1, 4),
        "offset_scale": draw.choice([0.5, 1.0, 2.0]),
        "remove_center": odd and draw.random() < 0.4,
        "softmax": draw.random() < 0.4,
    }


def _given(seed: int, dtype: torch.dtype) -> dict:
    draw = random.Random(seed)
    size = draw.choice([(13, 17), (19, 15), (16, 16)])
    return {"size": size, "group_channels": draw.choice([1, 3, 8]), "tail": 3, "dtype": dtype}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("index", range(len(QUICK)))
def test_a_call_in_onnxruntime_equals_the_reference(index, form):
    how, given = {**PLAIN, **QUICK[index]}, _given(index, torch.float32)
    assert exported_error(how, given, form, separate=index % 2 == 1) < LIMITS[torch.float32]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(30))
def test_every_geometry_equals_the_reference(seed, form, dtype):
    error = exported_error(_drawn(seed), _given(seed, dtype), form, separate=seed % 2 == 1)
    assert error < LIMITS[dtype]


def test_points_far_outside_add_nothing():
    given = {"size": (9, 9), "group_channels": 4, "spread": 30.0, "tail": 0}
    for form in FORMS:
        assert exported_error(PLAIN, given, form) < 1e-5
