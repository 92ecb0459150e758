"""Role ``dcnv3``: the same function on the fused kernel, or a true DCNv4 that starts close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnify.graph.calls import Call
from dcnify.graph.site import Pair, Site
from dcnify.inherit.centre_feature_scale import shut_gate
from dcnify.inherit.output_projection import fit_output, with_one
from dcnify.inherit.ridge import Ridge
from dcnify.inherit.train_layer import train_layer
from dcnify.nn import DCNv4, FusedDCNv3
from dcnify.nn.dcnv3_parts import Dcnv3Parts, pack_, parts_of
from dcnify.roles.base import Arguments, Found, Keys
from dcnify.roles.dcnv3.find import sampling_at


def layer(*, pointwise: bool = True, **args: Any) -> DCNv4:
    """The `DCNv4` that stands at a site itself, so that its keys are the published ones."""
    return DCNv4(without_pointwise=not pointwise, **args)


def arguments(found: Found, site: Site, kernel: Pair, keys: Keys) -> Arguments:
    """What a DCNv4 layer needs beyond what the recipe says, to stand at ``site``."""
    args: dict[str, Any] = {}
    if keys.get("like") is not None:
        args, kernel = keys["like"].arguments(found, site), site.kernel
    how = sampling_at(found.nodes[site.path])
    grown = [d * (k - old) for d, k, old in zip(how["dilation"], kernel, site.kernel, strict=True)]
    args |= {
        "stride": list(how["stride"]),
        "dilation": list(how["dilation"]),
        "padding": [max(0, p + g // 2) for p, g in zip(how["padding"], grown, strict=True)],
    }
    return args, ()


def fused_arguments(found: Found, site: Site, kernel: Pair, keys: Keys) -> Arguments:
    """None: the layer says all."""
    del found, site, kernel, keys
    return {}, ()


def fuse(
    module: FusedDCNv3, site: Site, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Pack the old layer's two linears into one; all else is its own."""
    del generator
    pack_(module.offset_mask, parts_of(found.model.get_submodule(site.path)))
    return ()


@torch.no_grad()
def transfer(
    module: DCNv4, site: Site, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Carry the projections over, and start from the points that the old layer has on average.

    A LayerNorm's output is close to normal with the norm's own scale and shift, whatever the image;
    so the mean of the activation behind it, and from that the mean offsets and weights, follow from
    the weights alone. Every query starts with those.
    """
    del generator
    parts = parts_of(found.model.get_submodule(site.path))
    path = site.path
    warnings = []
    if module.without_pointwise:
        warnings.append(f"{path}: pointwise is off, so its projections are lost")
    else:
        for new, old in (
            (module.value_proj, parts.input_proj),
            (module.output_proj, parts.output_proj),
        ):
            new.weight.copy_(old.weight)
            if new.bias is not None:
                new.bias.copy_(old.bias)
    if module.dw_kernel_size is not None:
        conv = _depthwise(parts)
        if conv is not None and conv.weight.shape == module.offset_mask_dw.weight.shape:
            module.offset_mask_dw.weight.copy_(conv.weight)
            bias = module.offset_mask_dw.bias
            assert bias is not None
            bias.zero_()
            if conv.bias is not None:
                bias.copy_(conv.bias)
    shut_gate(module)
    same = (module.num_points, module.groups) == (parts.sampling.num_points, parts.sampling.groups)
    if not same:
        k, groups = module.num_points, module.groups
        like = module.offset_mask.weight
        module.set_static_points(like.new_zeros(groups, k, 2), like.new_full((groups, k), 1 / k))
        return (*warnings, f"{path}: it has other points or groups, so it starts as an average")
    mean = _mean_query(parts)
    offsets, weights = _points(parts, parts.offset(mean)[None], parts.mask(mean)[None], module)
    module.set_static_points(offsets[0], weights[0])
    return tuple(warnings)


def _depthwise(parts: Dcnv3Parts) -> nn.Conv2d | None:
    return next((one for one in parts.dw_conv.modules() if isinstance(one, nn.Conv2d)), None)


def _mean_query(parts: Dcnv3Parts) -> Tensor:
    """(C,) the mean of the depthwise branch, from its norm's scale and shift."""
    norm = next((one for one in parts.dw_conv.modules() if isinstance(one, nn.LayerNorm)), None)
    activation = [one for one in parts.dw_conv.modules() if not list(one.children())][-1]
    channels = parts.offset.in_features
    like = parts.offset.weight
    if norm is None:
        return like.new_zeros(channels)
    normal = torch.special.ndtri(torch.linspace(0.005, 0.995, 100, dtype=torch.float64)).to(like)
    values = norm.bias + norm.weight * normal[:, None]
    # Inputs that are not normal still average like this where the activation bends little.
    return activation(values).mean(0)


def _points(
    parts: Dcnv3Parts, offset: Tensor, mask: Tensor, module: DCNv4
) -> tuple[Tensor, Tensor]:
    """Offsets (N, G, K, 2) and weights (N, G, K) that DCNv4 needs to sample as the old layer does.

    With another scale s' for s, base·s' + o'·s' = base·s + o·s, where base counts from the centre.
    """
    groups = parts.sampling.groups
    offset = offset.unflatten(-1, (groups, -1, 2))
    mask = mask.unflatten(-1, (groups, -1))
    scale = parts.sampling.offset_scale / module.offset_scale
    half = torch.tensor(parts.sampling.half[::-1], dtype=offset.dtype, device=offset.device)
    base = module.base_points().to(offset) - half
    offsets = (base + offset) * scale - base
    return offsets, mask if module.softmax else F.softmax(mask, -1)


@torch.no_grad()
def calibrate(module: DCNv4, old: nn.Module, calls: Sequence[Call], steps: int) -> None:
    """Fit the new layer to what the old one does with its inputs, batches of (B, H, W, C).

    First the linear that predicts offsets and weights, then the output projection, which takes up
    what it can of the error that is left, the bias that DCNv4 may not have among it; then ``steps``
    of gradient descent on all of the layer.
    """
    parts, inputs = parts_of(old), [call.input for call in calls]
    if (module.num_points, module.groups) == (parts.sampling.num_points, parts.sampling.groups):
        _fit_points(module, parts, inputs)
    fit_output(module, module, parts.forward, inputs)
    train_layer(module, module.parameters(), parts.forward, inputs, steps)


def _fit_points(module: DCNv4, parts: Dcnv3Parts, inputs: Sequence[Tensor]) -> None:
    linear = module.offset_mask
    start = torch.cat((linear.weight, linear.bias[:, None]), 1).double().cpu()
    used = module.sampling.offset_mask_channels
    ridge = Ridge(start[:used])
    for batch in inputs:
        query, seen = parts.queries(batch), module.predictor_input(batch)
        offsets, weights = _points(parts, parts.offset(query), parts.mask(query), module)
        targets = torch.cat((offsets.flatten(-2), weights), -1).flatten(-2)
        for image in range(len(batch)):
            rows = with_one(seen[image].flatten(0, 1))
            ridge.add(rows, targets[image].flatten(0, 1))
    fitted, _left = ridge.solve()
    linear.weight[:used] = fitted[:, :-1].to(linear.weight)
    linear.bias[:used] = fitted[:, -1].to(linear.bias)
