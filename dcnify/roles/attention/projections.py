"""Read the projections of a trained attention by running its captured nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from dcnify.graph.axis_rules import operation
from dcnify.graph.capture import Capture
from dcnify.graph.evaluate import (
    UndeterminedError,
    arguments_of,
    evaluate,
    evaluate_all,
    on_one_thread,
)
from dcnify.graph.site import Site
from dcnify.roles.base import Found

_TOLERANCE = 1e-4
_CHECKED = 32
_SMALL = 1 << 17
"""Numbers in the tokens of a layer that is read faster by one thread than by several."""


@dataclass(frozen=True)
class Affine:
    """y = weight @ x + bias, per token; weight is (out, in)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Projections:
    """The affine maps of an attention layer; None where the layer is not affine per token.

    ``value`` maps an input token to all heads' values, ``output`` maps the heads' mixed values to
    the output token. ``query`` and ``key`` are read only from a plain attention: no position bias
    or mask, no rotation or normalisation of queries and keys, softmax over ``scale``·q·k.
    """

    value: Affine | None
    output: Affine | None
    query: Affine | None = None
    key: Affine | None = None
    scale: float | None = None

    @property
    def complete(self) -> bool:
        """Whether the whole layer is known: softmax attention between four affine maps."""
        return None not in (self.value, self.output, self.query, self.key, self.scale)


def read_projections(found: Found, site: Site) -> Projections:
    """Return the projections of an attention, as far as they are affine per token."""
    if site.path not in found.readings:
        with on_one_thread() if _is_small(site) else nullcontext():
            found.readings[site.path] = _read_projections(found, site)
    return found.readings[site.path]


def _is_small(site: Site) -> bool:
    return math.prod(site.input_shape) <= _SMALL


def _read_projections(found: Found, site: Site) -> Projections:
    captured, core = found.capture, found.nodes[site.path]
    region = captured.region_at(core, site.path)
    tokens = TokenAxes(site)
    if operation(core) == "scaled_dot_product_attention":
        given = arguments_of(core)
        query, key, value = given["query"], given["key"], given["value"]
        plain, scale = _plain_softmax(core)
    else:
        mixes = operation(core) in ("matmul", "bmm")
        operands: Any = core.args
        query, key, value = None, None, operands[1] if mixes else None
        plain, scale = False, None
    wanted = [value, query, key] if plain else [value]
    read = _affine_into(captured, region.inputs[0], wanted, tokens) if value else [None]
    output = _affine_out_of(captured, core, region.outputs[0], tokens)
    query_map, key_map = read[1:] if plain else (None, None)
    return Projections(read[0], output, query_map, key_map, scale)


def _plain_softmax(core: fx.Node) -> tuple[bool, float | None]:
    """Whether a fused attention has neither mask nor causality, and its scale."""
    given = arguments_of(core)
    scale = given["scale"]
    if given.get("attn_mask") is not None or given.get("is_causal") or given.get("enable_gqa"):
        return False, None
    width = given["query"].meta["val"].shape[-1]
    return True, float(scale) if scale is not None else width**-0.5


class TokenAxes:
    """Moves a site's tokens between its own layout and (B, N, C)."""

    def __init__(self, site: Site) -> None:
        self.layout, self.shape = site.layout, site.input_shape
        self.channels = site.channels

    @property
    def count(self) -> int:
        """N."""
        if self.layout == "BNC":
            return self.shape[1]
        return self.shape[2] * (self.shape[3] if self.layout == "BCHW" else self.shape[1])

    def to_layout(self, tokens: Tensor) -> Tensor:
        if self.layout == "BCHW":
            return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *self.shape[2:])
        if self.layout == "BHWC":
            return tokens.reshape(tokens.shape[0], *self.shape[1:3], -1)
        return tokens

    def from_layout(self, tensor: Tensor) -> Tensor:
        if self.layout == "BCHW":
            return tensor.flatten(2).transpose(1, 2)
        if self.layout == "BHWC":
            return tensor.flatten(1, 2)
        return tensor


def _affine_into(
    captured: Capture, entry: fx.Node, targets: list[fx.Node], tokens: TokenAxes
) -> list[Affine | None]:
    """Per-token maps from the layer's input to heads (B, heads, N, width), where affine."""
    batch, count = entry.meta["val"].shape[0], tokens.count
    found = [_by_head(target, batch) for target in targets]
    shapes = [shape for shape in found if shape is not None and shape[2] == count]
    if len(shapes) < len(targets):
        return [None] * len(targets)

    def run(x: Tensor) -> list[Tensor]:
        values = evaluate_all(captured, targets, {entry: tokens.to_layout(x)})
        split = [v.reshape(s) for v, s in zip(values, shapes, strict=True)]
        return [heads.transpose(1, 2).flatten(2) for heads in split]

    try:
        return probe(run, batch, count, tokens.channels, like_weights(captured, entry))
    except UndeterminedError:
        return [None] * len(targets)


def _affine_out_of(
    captured: Capture, core: fx.Node, leave: fx.Node, tokens: TokenAxes
) -> Affine | None:
    """The per-token map from mixed values (B, heads, N, width) to the output, if it is affine."""
    batch, count = tokens.shape[0], tokens.count
    shape = _by_head(core, batch)
    if shape is None or shape[2] != count:
        return None

    def run(x: Tensor) -> list[Tensor]:
        heads = x.unflatten(2, (shape[1], shape[3])).transpose(1, 2)
        heads = heads.reshape(core.meta["val"].shape)
        return [tokens.from_layout(evaluate(captured, leave, {core: heads}))]

    try:
        return probe(run, batch, count, shape[1] * shape[3], like_weights(captured, core))[0]
    except UndeterminedError:  # two attentions side by side, for one
        return None


def _by_head(node: fx.Node, batch: int) -> tuple[int, ...] | None:
    """The node's shape as (B, heads, N, width); heads may be folded into the batch."""
    shape = tuple(node.meta["val"].shape)
    if len(shape) == 3 and shape[0] % batch == 0:
        return batch, shape[0] // batch, shape[1], shape[2]
    return shape if len(shape) == 4 and shape[0] == batch else None


def like_weights(captured: Capture, node: fx.Node) -> Tensor:
    """An empty tensor of the weights' dtype, where they are; autocast gives nodes another one."""
    value = node.meta["val"]
    weights = (one for one in captured.tensors.values() if one.is_floating_point())
    return next(weights, torch.empty(0, dtype=value.dtype)).new_empty(0)


def probe(
    run: Callable[[Tensor], list[Tensor]],
    batch: int,
    count: int,
    width: int,
    like: Tensor,
) -> list[Affine | None]:
    """Read affine maps off their images of zero and the unit vectors; check on random tokens.

    ``run`` takes (batch, count, width) tokens to one (batch, count, any) tensor for each map.
    """
    zeros = like.new_zeros(batch, count, width)
    biases = [y[0, 0].clone() for y in run(zeros)]
    weights = [like.new_empty(len(bias), width) for bias in biases]
    for start in range(0, width, count):
        step = min(count, width - start)
        rows = torch.arange(step, device=like.device)
        x = zeros.clone()
        x[0, rows, start + rows] = 1
        for weight, bias, y in zip(weights, biases, run(x), strict=True):
            weight[:, start : start + step] = (y[0, :step] - bias).T
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(zeros.shape, generator=generator).to(like)
    return [
        Affine(weight, bias) if _agrees(x, weight, bias, y) else None
        for weight, bias, y in zip(weights, biases, run(x), strict=True)
    ]


def _agrees(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> bool:
    """Whether y = weight @ x + bias on a sample of tokens, to rounding."""
    sample = slice(None, None, max(1, x.shape[1] // _CHECKED))
    expected, seen = x[:, sample] @ weight.T + bias, y[:, sample]
    error = (expected - seen).norm() / seen.norm().clamp_min(torch.finfo(x.dtype).tiny)
    return bool(error < max(_TOLERANCE, 50 * torch.finfo(x.dtype).eps))
