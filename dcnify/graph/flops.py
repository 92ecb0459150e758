"""Floating-point operations of captured nodes: products, convolutions and fused attention."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry

from dcnify.graph.axis_rules import operation


def node_flops(nodes: Iterable[fx.Node]) -> int:
    """Sum over ``nodes``; a multiply-add counts as two, elementwise work counts as nothing."""
    return sum(_flops(node) for node in nodes)


def _flops(node: Any) -> int:
    name, value = operation(node), node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, torch.Tensor):
        return 0
    if getattr(node.target, "namespace", "") == "dcnify":
        given = fx.map_arg((node.args, node.kwargs), lambda one: one.meta["val"])
        return flop_registry[node.target.overloadpacket](*given[0], **given[1], out_val=value)
    inputs = (one.meta.get("val") for one in node.all_input_nodes)
    shapes = [tuple(one.shape) for one in inputs if isinstance(one, torch.Tensor)]
    if name == "einsum" and "->" in node.args[0]:
        terms = node.args[0].replace(" ", "").split("->")[0].split(",")
        letters = zip("".join(terms), (n for shape in shapes for n in shape), strict=False)
        return 2 * math.prod(dict(letters).values())
    if name == "baddbmm":
        return 2 * value.numel() * shapes[1][-1]
    if name in ("linear", "matmul", "bmm", "mm") and len(shapes) >= 2:
        inner = shapes[0][-1] if name != "linear" else shapes[1][-1]
        return 2 * value.numel() * inner
    if name in ("conv1d", "conv2d", "conv3d", "convolution"):
        weight = shapes[1]
        return 2 * value.numel() * torch.Size(weight[1:]).numel()
    if name == "scaled_dot_product_attention":
        query, key, mixed = shapes[0], shapes[1], value
        return 2 * key[-2] * (torch.Size(query).numel() + mixed.numel())
    return 0
