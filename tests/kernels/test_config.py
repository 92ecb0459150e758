"""Launch configurations, for any width, dtype and map: what the kernels rely on."""

from __future__ import annotations

from dcnify.kernels.config import (
    channel_block,
    forward_block,
    points_block,
    scatter_block,
    tile_for,
    window_for,
)
from hypothesis import given
from hypothesis import strategies as st

widths = st.integers(1, 512)
itemsizes = st.sampled_from((2, 4))
targets = st.sampled_from(("sm_75", "sm_80", "sm_90", "sm_100", "gfx942", "gfx90a"))
pickers = st.sampled_from((forward_block, points_block, scatter_block))


def is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


@given(widths, itemsizes)
def test_channels_are_read_in_a_few_pieces_that_cover_them(width, itemsize):
    block = channel_block(width, itemsize)
    assert is_power_of_two(block)
    assert -(-width // block) <= max(6, -(-width // 32))


@given(st.sampled_from((8, 16, 24, 32, 48, 64, 128)), itemsizes)
def test_no_lane_is_idle_at_the_usual_widths(width, itemsize):
    block = channel_block(width, itemsize)
    assert width % block == 0
    assert block * itemsize >= 16


@given(pickers, widths, itemsizes, targets)
def test_rows_and_warps_are_powers_of_two_and_every_thread_has_work(pick, width, itemsize, target):
    block = pick(width, itemsize, target)
    assert is_power_of_two(block.rows)
    assert is_power_of_two(block.warps)
    assert 1 <= block.warps <= 8
    threads = block.warps * (64 if target.startswith("gfx9") else 32)
    assert block.rows * block.block_d >= threads


@given(widths, itemsizes, targets)
def test_rows_that_scatter_have_four_channels_to_a_thread(width, itemsize, target):
    block = scatter_block(width, itemsize, target)
    threads = block.warps * (64 if target.startswith("gfx9") else 32)
    assert block.rows == max(4, 4 * threads // max(4, block.block_d))


@given(
    st.sampled_from((16, 32, 64, 128)),
    st.integers(1, 64),
    widths,
    itemsizes,
    st.integers(1, 300),
    st.integers(1, 300),
)
def test_a_tile_holds_its_programs_rows_and_wastes_little(rows, groups, width, itemsize, h, w):
    tile = tile_for(rows, groups, width, itemsize, h, w)
    if tile.height == 0:
        assert tile == (0, 0, 0)
        return
    assert tile.height * tile.width * tile.groups == rows
    assert groups % tile.groups == 0
    covered = -(-h // tile.height) * tile.height * -(-w // tile.width) * tile.width
    assert 6 * covered <= 7 * h * w


@given(st.sampled_from((16, 32, 64, 128)), st.integers(1, 64), widths, itemsizes)
def test_on_a_map_smaller_than_a_tile_rows_follow_each_other(rows, groups, width, itemsize):
    tile = tile_for(rows, groups, width, itemsize, 1, 1)
    assert tile.height * tile.width in (0, 1)


def test_a_large_map_is_tiled():
    assert tile_for(64, 4, 32, 2, 56, 56) == (4, 4, 4)


@given(
    widths,
    st.integers(1, 121),
    st.tuples(st.floats(0, 40), st.floats(0, 40)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    itemsizes,
    targets,
)
def test_a_window_holds_what_its_tile_samples(width, points, extent, stride, itemsize, target):
    window = window_for(width, points, extent, stride, itemsize, target)
    if window is None:
        return
    assert window.block_k >= points
    assert is_power_of_two(window.block_k)
    assert is_power_of_two(window.block_d)
    assert window.window >= (window.tile_h - 1) * stride[0] + extent[0] + 2
    assert window.window >= (window.tile_w - 1) * stride[1] + extent[1] + 2
    # The shares pass through shared memory, of which older consumer GPUs have some 100 KB.
    operands = window.tile_h * window.tile_w * window.window * window.block_k * 2 * 4
    assert operands <= 64 * 1024


def test_the_usual_kernel_has_a_window_and_a_wide_one_has_none():
    assert window_for(32, 9, (2, 2), (1, 1)) is not None
    assert window_for(32, 49, (6, 6), (1, 1)) is None
    assert window_for(4, 9, (2, 2), (1, 1)) is None
    assert window_for(32, 9, (2, 2), (2, 2)) is None
