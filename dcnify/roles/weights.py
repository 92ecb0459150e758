"""Read what a trained layer computes by running its captured nodes, whatever its code looks like.

A weight may be standardised, re-parametrised, fused into one matrix with two others, or followed by
a folded normalisation. The graph knows; so weights are evaluated, not looked up by attribute name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from dcnify.graph.axis_rules import operation
from dcnify.graph.capture import Capture
from dcnify.graph.site import Site
from dcnify.roles.find import Found

_TOLERANCE = 1e-4
_CHECKED = 32


@dataclass(frozen=True)
class Kernel:
    """The effective kernel (C, kh, kw) and bias (C,) or None of a depthwise convolution."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True)
class Affine:
    """y = weight @ x + bias, per token; weight is (out, in)."""

    weight: torch.Tensor
    bias: torch.Tensor


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


def read_kernel(found: Found, site: Site) -> Kernel:
    """The kernel in force at a ``depthwise_conv`` site."""
    node = found.nodes[site.path]
    bias = node.args[2] if len(node.args) > 2 else None
    weight = evaluate(found.capture, node.args[1], {})
    return Kernel(
        weight.detach().squeeze(1),
        None if bias is None else evaluate(found.capture, bias, {}).detach(),
    )


def read_projections(found: Found, site: Site) -> Projections:
    """The projections of an ``attention`` site, as far as they are affine per token."""
    if site.path not in found.projections:
        found.projections[site.path] = _read_projections(found, site)
    return found.projections[site.path]


def _read_projections(found: Found, site: Site) -> Projections:
    captured, core = found.capture, found.nodes[site.path]
    region = captured.region_at(core, site.path)
    tokens = _TokenAxes(site)
    if operation(core) == "scaled_dot_product_attention":
        query, key, value = core.args[:3]
        plain, scale = _plain_softmax(core)
    else:
        mixes = operation(core) in ("matmul", "bmm")
        query, key, value = None, None, core.args[1] if mixes else None
        plain, scale = False, None
    wanted = [value, query, key] if plain else [value]
    read = _affine_into(captured, region.inputs[0], wanted, tokens) if value else [None]
    return Projections(
        value=read[0],
        output=_affine_out_of(captured, core, region.outputs[0], tokens),
        query=read[1] if plain else None,
        key=read[2] if plain else None,
        scale=scale if plain else None,
    )


def _plain_softmax(core: fx.Node) -> tuple[bool, float | None]:
    """Whether a fused attention has neither mask nor causality, and its scale."""
    names = [a.name for a in core.target._schema.arguments]
    given = dict(zip(names, core.args, strict=False)) | dict(core.kwargs)
    scale = given.get("scale")
    if given.get("attn_mask") is not None or given.get("is_causal") or given.get("enable_gqa"):
        return False, None
    width = core.args[0].meta["val"].shape[-1]
    return True, float(scale) if scale is not None else width**-0.5


class _TokenAxes:
    """Moves a site's tokens between its own layout and (B, N, C)."""

    def __init__(self, site: Site) -> None:
        self.layout, self.shape = site.layout, site.input_shape
        self.channels = site.channels

    def to_layout(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.layout == "BCHW":
            return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *self.shape[2:])
        if self.layout == "BHWC":
            return tokens.reshape(tokens.shape[0], *self.shape[1:3], -1)
        return tokens

    def from_layout(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.layout == "BCHW":
            return tensor.flatten(2).transpose(1, 2)
        if self.layout == "BHWC":
            return tensor.flatten(1, 2)
        return tensor


def _affine_into(
    captured: Capture, entry: fx.Node, targets: list[fx.Node], tokens: _TokenAxes
) -> list[Affine | None]:
    """Per-token maps from the layer's input to heads (B, heads, N, width), where affine."""
    batch, count = entry.meta["val"].shape[0], _token_count(tokens)
    shapes = [_by_head(target, batch) for target in targets]
    if any(s is None or s[2] != count for s in shapes):
        return [None] * len(targets)

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        values = evaluate_all(captured, targets, {entry: tokens.to_layout(x)})
        split = [v.reshape(s) for v, s in zip(values, shapes, strict=True)]
        return [heads.transpose(1, 2).flatten(2) for heads in split]

    return _probe(run, batch, count, tokens.channels, _like(captured, entry))


def _affine_out_of(
    captured: Capture, core: fx.Node, leave: fx.Node, tokens: _TokenAxes
) -> Affine | None:
    """The per-token map from mixed values (B, heads, N, width) to the output, if it is affine."""
    batch, count = tokens.shape[0], _token_count(tokens)
    shape = _by_head(core, batch)
    if shape is None or shape[2] != count:
        return None

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        heads = x.unflatten(2, (shape[1], shape[3])).transpose(1, 2)
        heads = heads.reshape(core.meta["val"].shape)
        return [tokens.from_layout(evaluate(captured, leave, {core: heads}))]

    return _probe(run, batch, count, shape[1] * shape[3], _like(captured, core))[0]


def _by_head(node: fx.Node, batch: int) -> tuple[int, ...] | None:
    """The node's shape as (B, heads, N, width); heads may be folded into the batch."""
    shape = tuple(node.meta["val"].shape)
    if len(shape) == 3 and shape[0] % batch == 0:
        return batch, shape[0] // batch, shape[1], shape[2]
    return shape if len(shape) == 4 and shape[0] == batch else None


def _token_count(tokens: _TokenAxes) -> int:
    if tokens.layout == "BNC":
        return tokens.shape[1]
    return tokens.shape[2] * (tokens.shape[3] if tokens.layout == "BCHW" else tokens.shape[1])


def _like(captured: Capture, node: fx.Node) -> torch.Tensor:
    """An empty tensor of the node's dtype where the model's weights are."""
    device = next((t.device for t in captured.tensors.values()), torch.device("cpu"))
    return torch.empty(0, dtype=node.meta["val"].dtype, device=device)


def _probe(
    run: Callable[[torch.Tensor], list[torch.Tensor]],
    batch: int,
    count: int,
    width: int,
    like: torch.Tensor,
) -> list[Affine | None]:
    """Read affine maps off their images of zero and the unit vectors; check on random tokens.

    ``run`` takes (batch, count, width) tokens to one (batch, count, any) tensor for each map.
    """
    zeros = like.new_zeros(batch, count, width)
    try:
        biases = [y[0, 0].clone() for y in run(zeros)]
    except _Undetermined:  # two attentions side by side, for one
        return [None]
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


def _agrees(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether y = weight @ x + bias on a sample of tokens, to rounding."""
    sample = slice(None, None, max(1, x.shape[1] // _CHECKED))
    expected, seen = x[:, sample] @ weight.T + bias, y[:, sample]
    error = (expected - seen).norm() / seen.norm().clamp_min(torch.finfo(x.dtype).tiny)
    return bool(error < max(_TOLERANCE, 50 * torch.finfo(x.dtype).eps))


class _Undetermined(ValueError):
    """A node was asked for that needs more than was given."""


def evaluate(
    captured: Capture, target: fx.Node, given: dict[fx.Node, torch.Tensor]
) -> torch.Tensor:
    """The value of ``target`` when the nodes in ``given`` have these values.

    Only what ``target`` needs is run. Constants and parameters are the model's own tensors.
    """
    return evaluate_all(captured, [target], given)[0]


@torch.no_grad()
def evaluate_all(
    captured: Capture, targets: list[fx.Node], given: dict[fx.Node, torch.Tensor]
) -> list[torch.Tensor]:
    """As `evaluate`, for several nodes that share what they need."""
    known: dict[fx.Node, object] = {**captured.tensors, **given}
    pending = list(targets)
    while pending:
        node = pending[-1]
        if node in known:
            pending.pop()
            continue
        missing = [n for n in node.all_input_nodes if n not in known]
        if missing:
            pending.extend(missing)
            continue
        if node.op != "call_function":
            raise _Undetermined(f"{node.name} depends on more than was given")
        args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        if getattr(node.target, "_schema", None) is not None and node.target._schema.is_mutable:
            args = (args[0].clone(), *args[1:])
        # What is given need not have the captured strides, on which a view would insist.
        is_view = node.target is torch.ops.aten.view.default
        known[node] = (torch.reshape if is_view else node.target)(*args, **kwargs)
        pending.pop()
    return [known[target] for target in targets]  # type: ignore[misc]  # each is one tensor
