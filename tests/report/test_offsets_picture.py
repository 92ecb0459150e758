"""The picture of offsets: a marker for each place, as large as the weight there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from torch import nn

from dcnify.graph.example import Example
from dcnify.nn import DepthwiseDCNv4
from dcnify.report.offsets.look import Looked
from dcnify.report.offsets.picture import draw
from dcnify.report.offsets.trace import trace


@pytest.fixture
def layer():
    return DepthwiseDCNv4(16, groups=2, pointwise=False)


def looked(layer, size=32):
    """What two layers make of an image that their stem divides into cells of 4 pixels."""
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), layer, layer).eval()
    sites = trace(model, Example.of(torch.randn(1, 3, size, size)))
    photo = np.random.default_rng(0).random((96, 96, 3))
    return Looked(photo, (size, size), ((0.5, 0.5),), sites, tuple(sites))


def markers(figure):
    """Places (N, 2) and areas (N,) of the points in the first panel, by sign."""
    panel = next(axes for axes in figure.axes if axes.images)
    found = {1: [], -1: []}
    for one in panel.collections:
        if isinstance(one, PathCollection) and len(one.get_offsets()):
            sign = 1 if one.get_edgecolor()[0][:3].sum() == 0 else -1  # black around the light ones
            found[sign] += list(zip(one.get_offsets().tolist(), one.get_sizes(), strict=True))
    return found


def test_groups_that_sample_one_place_share_a_marker_of_all_their_weight(layer):
    weights = torch.ones(2, 9)
    weights[1, 4] = 3.0  # with the first group's 1, twice what lies elsewhere
    layer.dcn.set_static_points(torch.zeros(2, 9, 2), weights)
    found = markers(draw(looked(layer)))
    assert found[-1] == []
    assert len(found[1]) == 9
    areas = sorted(area for _, area in found[1])
    assert areas[-1] == pytest.approx(2 * areas[0], rel=0.05)  # the smallest area shifts it


def test_signs_at_one_place_are_two_markers(layer):
    weights = torch.ones(2, 9)
    weights[1] = -0.25
    layer.dcn.set_static_points(torch.zeros(2, 9, 2), weights)
    found = markers(draw(looked(layer)))
    assert sorted(place for place, _ in found[1]) == sorted(place for place, _ in found[-1])
    assert min(area for _, area in found[1]) > max(area for _, area in found[-1])


def test_a_point_that_moves_moves_its_marker(layer):
    offsets = torch.zeros(2, 9, 2)
    layer.dcn.set_static_points(offsets, torch.ones(2, 9))
    before = {tuple(place) for place, _ in markers(draw(looked(layer)))[1]}
    offsets[:, 8, 0] = 1.5  # cells of 4 pixels to the right
    layer.dcn.set_static_points(offsets, torch.ones(2, 9))
    after = {tuple(place) for place, _ in markers(draw(looked(layer)))[1]}
    ((x, y),) = before - after
    assert after - before == {(x + 6.0, y)}


def test_a_layer_without_weight_is_drawn_without_points(layer):
    assert markers(draw(looked(layer))) == {1: [], -1: []}
