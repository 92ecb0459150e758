"""Init ``fit`` of an attention: sample where its own position bias makes it look.

What a layer attends to depends on the image, except for what a position bias adds to the scores.
With nothing else known, every query attends by that bias alone, and points and weights are fitted
to that (`dcnify.surgery.look`). A layer without such a bias starts as by ``transfer``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from dcnify.graph.axis_rules import operation
from dcnify.graph.find import Found
from dcnify.graph.site import Site
from dcnify.graph.weights import evaluate, read_projections
from dcnify.nn import DCNv4, TokenDCNv4
from dcnify.surgery.attention import transfer
from dcnify.surgery.fit_look import Look, places
from dcnify.surgery.fit_points import settle
from dcnify.surgery.plan import PlannedSwap

_FLAT = 1e-4
"""Patterns that vary less than this say nothing about positions."""
_MOST = 0.5
"""Points that hold a smaller part of the pattern's energy are worth a warning."""
_PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum")


@torch.no_grad()
def fit(
    module: TokenDCNv4, planned: PlannedSwap, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Carry the projections over as `transfer` does, and place the points by the position bias."""
    warnings = transfer(module, planned, found, generator)
    dcn, site = module.dcn, planned.site
    attention = read_pattern(found, site)
    if attention is None:
        words = "no position bias says where it looks; its points start as by transfer"
        return (*warnings, f"{site.path}: {words}")
    shares, which = _heads_of_groups(len(attention), found, site, dcn).unique(
        dim=0, return_inverse=True
    )
    look = Look.of(torch.einsum("gh,hqk->gqk", shares, attention), site.grid)
    half = torch.tensor([(k - 1) // 2 for k in dcn.kernel_size[::-1]], dtype=torch.float64)
    origin = half - look.middle
    regular = dcn.base_points().double().cpu() - origin
    points = places(look, regular)
    settled = settle(points, look.mean, origin, dcn, look.weights_at)
    like = dcn.offset_mask.weight
    dcn.set_static_points(settled.offsets[which].to(like), settled.weights[which].to(like))
    held = float((1 - look.left(points) / look.energy)[which].mean())
    if held < _MOST:
        words = (
            f"{dcn.num_points} points hold {max(held, 0.0):.0%} of where its position bias looks"
        )
        warnings = (*warnings, f"{site.path}: {words}")
    return warnings


def read_pattern(found: Found, site: Site) -> Tensor | None:
    """(heads, N, N) how queries attend to keys when all their products are zero.

    None where that depends on the image, or is the same for all keys.
    """
    captured, core = found.capture, found.nodes[site.path]
    try:
        if operation(core).startswith("scaled_dot_product"):
            names = [argument.name for argument in core.target._schema.arguments]
            given = dict(zip(names, core.args, strict=False)) | dict(core.kwargs)
            if given.get("attn_mask") is None:
                return None
            bias = evaluate(captured, given["attn_mask"], {})
            probabilities = bias.cpu().double().softmax(-1)
        else:
            probabilities = _without_scores(found, core)
    except ValueError:  # the bias depends on the image
        return None
    if probabilities is None:
        return None
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
    spreads = image.amax(-1) - image.amin(-1)
    return image if (spreads * image.shape[-1]).max() > _FLAT else None


def _without_scores(found: Found, core: fx.Node) -> Tensor | None:
    """What an attention that is written out multiplies its values with, if all scores are 0."""
    operands = core.args[1] if operation(core) == "einsum" else core.args
    frontier, seen = [operands[0]], set()
    while frontier:
        node = frontier.pop()
        if node in seen or node not in found.capture.image_dependent:
            continue
        seen.add(node)
        factors = list(node.args[1]) if operation(node) == "einsum" else node.all_input_nodes
        factors = [one for one in factors if one in found.capture.image_dependent]
        if operation(node) in _PRODUCTS and len(factors) == 2:
            like = next(iter(found.capture.tensors.values()), torch.empty(0))
            zeros = {
                one: torch.zeros(one.meta["val"].shape, dtype=one.meta["val"].dtype).to(like.device)
                for one in factors
            }
            return evaluate(found.capture, operands[0], zeros)
        frontier.extend(node.all_input_nodes)
    return None


def _heads_of_groups(heads: int, found: Found, site: Site, dcn: DCNv4) -> Tensor:
    """(G, heads): what part of a group's values belongs to which head."""
    value = read_projections(found, site).value
    if value is None or len(value.weight) != dcn.channels or dcn.channels % heads:
        return torch.full((dcn.groups, heads), 1 / heads, dtype=torch.float64)
    owners = torch.arange(dcn.channels) // (dcn.channels // heads)
    return F.one_hot(owners, heads).double().unflatten(0, (dcn.groups, -1)).mean(1)
