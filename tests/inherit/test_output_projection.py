"""The output projection of a new layer, fitted in closed form to what the old layer gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dcnify.graph.calls import Call
from dcnify.inherit import calibrate
from dcnify.inherit.calibrate import calibrate_in_turns
from dcnify.inherit.output_projection import fit_output
from dcnify.inherit.train_layer import train_layer
from dcnify.nn import DepthwiseDCNv4, TokenDCNv4


def _started(layer):
    torch.manual_seed(1)
    dcn, like = layer.dcn, layer.dcn.offset_mask.weight
    points = (dcn.groups, dcn.num_points)
    dcn.set_static_points(0.3 * torch.randn(*points, 2), torch.randn(*points).to(like))
    nn.init.normal_(dcn.output_proj.bias)
    return layer.eval().requires_grad_(False)


def _with_other_projection(layer):
    other = copy.deepcopy(layer)
    nn.init.normal_(other.dcn.output_proj.weight)
    nn.init.normal_(other.dcn.output_proj.bias)
    return other


TOKENS = {"channels": 8, "grid": (4, 6), "groups": 2}
LAYERS = {
    "depthwise": (DepthwiseDCNv4(8, groups=2), (8, 6, 5)),
    "depthwise, stride 2": (DepthwiseDCNv4(8, groups=2, stride=2), (8, 6, 5)),
    "BNC": (TokenDCNv4(**TOKENS), (24, 8)),
    "BHWC": (TokenDCNv4(**TOKENS, layout="BHWC"), (4, 6, 8)),
    "BCHW": (TokenDCNv4(**TOKENS, layout="BCHW"), (8, 4, 6)),
    "prefix": (TokenDCNv4(**TOKENS, prefix_tokens=2, prefix="identity"), (26, 8)),
    "tuple": (TokenDCNv4(**TOKENS, returns="tuple[2]"), (24, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("images", [1, 5])
def test_a_projection_is_found_again_in_any_layout(name, images):
    layer, shape = LAYERS[name]
    old = _started(copy.deepcopy(layer))
    new = _with_other_projection(old)
    torch.manual_seed(2)
    inputs = [torch.randn(images, *shape), torch.randn(1, *shape)]
    calibrate_in_turns(new, old, [Call((x,)) for x in inputs], 0)
    for key in ("weight", "bias"):
        mine, theirs = getattr(new.dcn.output_proj, key), getattr(old.dcn.output_proj, key)
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-2
    assert all(
        torch.equal(a, b)
        for (n, a), (_, b) in zip(new.state_dict().items(), old.state_dict().items(), strict=True)
        if "output_proj" not in n
    )


def test_a_layer_in_half_precision_is_fitted_in_single():
    old = _started(copy.deepcopy(LAYERS["depthwise"][0]))
    new = _with_other_projection(old).bfloat16()
    torch.manual_seed(2)
    inputs = [torch.randn(4, 8, 6, 5).bfloat16()]
    calibrate_in_turns(new, old.bfloat16(), [Call((x,)) for x in inputs], 0)
    mine, theirs = (one.dcn.output_proj.weight.float() for one in (new, old))
    assert new.dcn.output_proj.weight.dtype == torch.bfloat16
    assert float((mine - theirs).norm() / theirs.norm()) < 0.05


def test_what_does_not_carry_over_from_image_to_image_is_not_fitted():
    new = _started(copy.deepcopy(LAYERS["depthwise"][0]))
    first = copy.deepcopy(new.state_dict())
    torch.manual_seed(3)
    inputs = [torch.randn(1, 8, 6, 5) for _ in range(8)]

    class Noise(nn.Module):
        def forward(self, x):
            return new_output(x) + 3 * torch.randn(x.shape)

    new_output = copy.deepcopy(new).forward
    calibrate_in_turns(new, Noise(), [Call((x,)) for x in inputs], 0)
    changed = new.dcn.output_proj.weight - first["dcn.output_proj.weight"]
    assert float(changed.norm() / first["dcn.output_proj.weight"].norm()) < 0.3


def test_descent_and_closed_form_take_turns_and_the_closed_form_is_last(monkeypatch):
    calls = []

    def descend(module, parameters, old, inputs, steps):
        calls.append(steps)
        return train_layer(module, parameters, old, inputs, steps)

    def fit(*args):
        calls.append("fit")
        fit_output(*args)

    monkeypatch.setattr(calibrate, "train_layer", descend)
    monkeypatch.setattr(calibrate, "fit_output", fit)
    new = _started(copy.deepcopy(LAYERS["depthwise"][0]))
    old = nn.Conv2d(8, 8, 3, padding=1, groups=8).requires_grad_(False)
    calibrate_in_turns(new, old, [Call((torch.randn(2, 8, 6, 5),))], 7)
    assert calls == [3, "fit", 4, "fit"]
