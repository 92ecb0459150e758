"""Init ``fit`` of an attention: sample where positions alone make it look.

What a layer attends to depends on the image and on positions: on a bias that is added to the
scores, or on position embeddings that queries and keys still carry. A blank image, all zeros, shows
the part of positions. Points and weights are fitted to that
(`dcnify.roles.attention.attended_points`). A layer to which all places of a blank image are the
same starts as by ``transfer``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from dcnify.graph.axis_rules import operation
from dcnify.graph.capture import Capture
from dcnify.graph.evaluate import arguments_of, evaluate, evaluate_all
from dcnify.graph.site import Pair, Site
from dcnify.inherit.footprints import AWAY
from dcnify.inherit.settle_points import settle
from dcnify.nn import DCNv4, TokenDCNv4
from dcnify.roles.attention.attended_points import Look, places
from dcnify.roles.attention.projections import Affine, read_projections
from dcnify.roles.attention.replace import transfer
from dcnify.roles.base import Found

_FLAT = 1e-4
"""Patterns that vary less than this say nothing about positions."""
_MOST = 0.5
"""Points that hold a smaller part of the pattern's energy are worth a warning."""


@torch.no_grad()
def fit(
    module: TokenDCNv4, site: Site, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Carry the projections over as `transfer` does, and place the points by what positions say."""
    warnings = transfer(module, site, found, generator)
    dcn = module.dcn
    attention = read_pattern(found, site)
    if attention is None:
        words = "positions alone do not say where it looks; its points start as by transfer"
        return (*warnings, f"{site.path}: {words}")
    value = read_projections(found, site).value
    shares, which = heads_of_groups(dcn, value, len(attention)).unique(dim=0, return_inverse=True)
    look = Look.of(torch.einsum("gh,hqk->gqk", shares, attention), site.grid)
    return (*warnings, *place_points(dcn, look, which, site.path))


def place_points(
    dcn: DCNv4, look: Look, which: Tensor, path: str, dilation: Pair = (1, 1)
) -> tuple[str, ...]:
    """Give ``dcn`` the points that come closest to ``look``; returns warnings.

    Args:
        dcn: the layer.
        look: what each kind of its groups attends to.
        which: (G,) the kind of each group.
        path: of the site.
        dilation: pixels from one row, and one column, of ``look`` to the next.
    """
    reach = [(k - 1) * d // 2 for k, d in zip(dcn.kernel_size, dcn.dilation, strict=True)]
    centre, step = (torch.tensor(pair[::-1], dtype=torch.float64) for pair in (reach, dilation))
    regular = (dcn.base_points().double().cpu() - centre) / step + look.middle
    points = places(look, regular)
    rows, columns = (
        (size - 1) * d + 1 for size, d in zip(look.mean.shape[1:], dilation, strict=True)
    )
    mean = look.mean.new_zeros(len(look.mean), rows, columns)
    mean[:, :: dilation[0], :: dilation[1]] = look.mean

    def scaled(points: Tensor, scale: Tensor) -> Tensor:
        return torch.where(points == AWAY, AWAY, points * scale)

    settled = settle(
        scaled(points, step),
        mean,
        centre - look.middle * step,
        dcn,
        lambda placed: look.weights_at(scaled(placed, 1 / step)),
    )
    like = dcn.offset_mask.weight
    dcn.set_static_points(settled.offsets[which].to(like), settled.weights[which].to(like))
    held = float((1 - look.left(points) / look.energy)[which].mean())
    if held < _MOST:
        words = f"{dcn.num_points} points hold {max(held, 0.0):.0%} of where positions make it look"
        return (f"{path}: {words}",)
    return ()


def read_pattern(found: Found, site: Site) -> Tensor | None:
    """(heads, HW, HW) how the image's tokens attend to each other where the image is blank.

    None where that cannot be told, or is the same for all keys.
    """
    captured, core = found.capture, found.nodes[site.path]
    like = next(iter(captured.tensors.values()), torch.empty(0))
    image = captured.image.meta["val"]
    blank = {captured.image: torch.zeros(image.shape, dtype=image.dtype, device=like.device)}
    if operation(core).startswith("scaled_dot_product"):
        probabilities = fused_probabilities(captured, core, blank)
    else:
        mixed: Any = core.args[1] if operation(core) == "einsum" else core.args
        probabilities = evaluate(captured, mixed[0], blank)
    heads, tokens = site.heads or 1, site.prefix_tokens + site.grid[0] * site.grid[1]
    square = probabilities.shape[-2:] == (tokens, tokens)
    if not square or not probabilities.isfinite().all():
        return None
    each = probabilities.cpu().double()
    each = each[0] if each.dim() == 4 else each.reshape(-1, tokens, tokens)
    if len(each) == 1:
        each = each.expand(heads, -1, -1)
    elif len(each) not in (heads, heads * site.input_shape[0]):
        return None
    image = each[:heads, site.prefix_tokens :, site.prefix_tokens :]
    mass = image.sum(-1, keepdim=True)
    if not (mass > 0).all():
        return None
    image = image / mass
    return image if varies(image) else None


def varies(attention: Tensor) -> bool:
    """Whether attention (..., queries, keys) says anything about positions."""
    spreads = attention.amax(-1) - attention.amin(-1)
    return bool(attention.isfinite().all() and (spreads * attention.shape[-1]).max() > _FLAT)


def fused_probabilities(captured: Capture, core: fx.Node, given: dict[fx.Node, Tensor]) -> Tensor:
    """(..., queries, keys) the probabilities inside a fused attention."""
    args = arguments_of(core)
    wanted = [args["query"], args["key"], args.get("attn_mask")]
    query, key, *bias = evaluate_all(captured, [node for node in wanted if node is not None], given)
    if key.shape[:-2] != query.shape[:-2]:  # heads that share their keys
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scale = args.get("scale") or query.shape[-1] ** -0.5
    scores = scale * query.cpu().double() @ key.cpu().double().mT
    for mask in bias:
        hides = mask.dtype == torch.bool
        added = torch.zeros(mask.shape).masked_fill(~mask.cpu(), -torch.inf) if hides else mask
        scores = scores + added.cpu().double()
    return scores.softmax(-1)


def heads_of_groups(dcn: DCNv4, value: Affine | None, heads: int) -> Tensor:
    """(G, heads): what part of a group's values belongs to which head."""
    if value is None or len(value.weight) != dcn.channels or dcn.channels % heads:
        return torch.full((dcn.groups, heads), 1 / heads, dtype=torch.float64)
    owners = torch.arange(dcn.channels) // (dcn.channels // heads)
    return F.one_hot(owners, heads).double().unflatten(0, (dcn.groups, -1)).mean(1)
