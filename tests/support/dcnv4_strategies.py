"""Hypothesis strategy for calls of the operators. Shared by the tests here and of the kernels."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st


@st.composite
def calls(
    draw,
    *,
    kernel: int = 5,
    step: int = 3,
    padding: int = 3,
    groups: int = 3,
    batch: int = 3,
    extra: int = 5,
    tail: int = 5,
    widths: Sequence[int] = (1, 3, 8, 12, 16, 24),
):
    """Keyword arguments of a call, and of the tensors it is given (`dcnv4_calls.tensors`).

    Each argument is the largest that is drawn; ``step`` of stride and dilation, ``extra`` of pixels
    beyond what the kernel needs, ``widths`` are the group widths.
    """

    def pair(least: int, most: int) -> tuple[int, int]:
        return draw(st.tuples(st.integers(least, most), st.integers(least, most)))

    size, dilated, padded = pair(1, kernel), pair(1, step), pair(0, padding)
    odd = size[0] % 2 == size[1] % 2 == 1 and size != (1, 1)
    how = {
        "kernel_size": size,
        "stride": pair(1, step),
        "padding": padded,
        "dilation": dilated,
        "groups": draw(st.integers(1, groups)),
        "offset_scale": draw(st.sampled_from((0.5, 1.0, 2.0))),
        "remove_center": odd and draw(st.booleans()),
        "softmax": draw(st.booleans()),
    }
    least = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilated, size, padded, strict=True)]
    given_tensors = {
        "batch": draw(st.integers(1, batch)),
        "size": tuple(max(1, pixels) + draw(st.integers(0, extra)) for pixels in least),
        "group_channels": draw(st.sampled_from(tuple(widths))),
        "seed": draw(st.integers(0, 2**31)),
        "spread": draw(st.sampled_from((0.3, 2.0, 20.0))),
        "wild": draw(st.booleans()),
        "tail": draw(st.integers(0, tail)),
    }
    return how, given_tensors
