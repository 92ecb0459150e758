"""The axis algebra against real index arithmetic."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcnify.graph.axes import (
    COL,
    ROW,
    Axis,
    axis,
    coarsen,
    raster_grid,
    reshape,
)

IMAGE = (axis("batch", 2), axis(ROW, 8), axis(COL, 12), axis("channel", 4))


def test_flattening_an_image_gives_tokens_in_raster_order():
    tokens = reshape(IMAGE, (2, 96, 4))[1]
    assert raster_grid(tokens) == (8, 12)


def test_unflattening_restores_rows_and_columns():
    tokens = reshape(IMAGE, (2, 96, 4))
    assert reshape(tokens, (2, 8, 12, 4)) == IMAGE


def test_a_column_major_flattening_is_not_raster_order():
    swapped = (IMAGE[0], IMAGE[2], IMAGE[1], IMAGE[3])
    assert raster_grid(reshape(swapped, (2, 96, 4))[1]) is None


def test_a_window_partition_leaves_no_whole_rows_and_its_reverse_does():
    cut = reshape(IMAGE, (2, 2, 4, 3, 4, 4))
    windows = tuple(cut[i] for i in (0, 1, 3, 2, 4, 5))
    tokens = reshape(windows, (12, 16, 4))
    assert raster_grid(tokens[1]) is None
    assert tokens[0].spatial
    back = reshape(tokens, (2, 2, 3, 4, 4, 4))
    back = tuple(back[i] for i in (0, 1, 3, 2, 4, 5))
    assert reshape(back, (2, 8, 12, 4)) == IMAGE


def test_a_partition_into_one_window_is_seen_although_no_size_changes():
    cut = reshape(IMAGE, (2, 1, 8, 1, 12, 4))
    tokens = reshape(tuple(cut[i] for i in (0, 1, 3, 2, 4, 5)), (2, 96, 4))
    assert raster_grid(tokens[1]) is None


def test_a_patch_embedding_written_as_a_reshape_has_its_patches_as_rows_and_columns():
    nchw = (IMAGE[0], IMAGE[3], IMAGE[1], IMAGE[2])
    cut = reshape(nchw, (2, 4, 2, 4, 3, 4))
    tokens = reshape(tuple(cut[i] for i in (0, 2, 4, 1, 3, 5)), (2, 6, 64))
    assert raster_grid(tokens[1]) is None
    projected = coarsen((*tokens[:2], axis("channel", 32)))
    assert raster_grid(projected[1]) == (2, 3)


def test_a_reshape_that_mixes_extra_tokens_into_the_grid_forgets_the_axis():
    with_class_token = (Axis(axis(ROW, 7).factors, before=1), axis("channel", 4))
    assert not reshape(with_class_token, (32,))[0].spatial


def _shuffles(draw):
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2, max_size=4))
    return sizes, draw(st.integers(0, 2**31))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.composite(_shuffles)())
def test_factors_name_exactly_the_rows_that_real_views_visit(case):
    """Random views and permutations of a row index, replayed on real numbers."""
    sizes, seed = case
    extent = math.prod(sizes)
    generator = torch.Generator().manual_seed(seed)
    values, axes = torch.arange(extent), (axis(ROW, extent),)
    for _ in range(3):
        factors = [n for n in _random_split(extent, generator)]
        values, axes = values.reshape(factors), reshape(axes, factors)
        order = torch.randperm(len(factors), generator=generator).tolist()
        values, axes = values.permute(order), tuple(axes[i] for i in order)
        for dim, found in enumerate(axes):
            index = [0] * len(axes)
            if found.kinds != {ROW}:
                continue
            visited = []
            for step in range(values.shape[dim]):
                index[dim] = step
                visited.append(int(values[tuple(index)]))
            assert visited == _walk(found)


def _random_split(extent: int, generator: torch.Generator) -> list[int]:
    sizes = []
    while extent > 1:
        divisors = [d for d in range(2, extent + 1) if extent % d == 0]
        pick = divisors[int(torch.randint(len(divisors), (1,), generator=generator))]
        sizes.append(pick)
        extent //= pick
    return sizes or [1]


def _walk(found: Axis) -> list[int]:
    places = [0]
    for factor in found.factors:
        places = [p + i * factor.stride for p in places for i in range(factor.size)]
    return places


@pytest.mark.parametrize("shape", [(2, 8, 12, 4), (2, 4, 8, 12)])
def test_sizes_always_agree_with_the_shape(shape):
    axes = reshape(IMAGE, shape) if shape[1] == 8 else IMAGE
    for target in [(-1,), (2, -1), (16, -1), (4, 4, -1)]:
        real = torch.empty(tuple(a.size for a in axes)).reshape(target).shape
        assert tuple(a.size for a in reshape(axes, real)) == tuple(real)
