"""Sites and recipes written by hand, for the tests of selection."""

from __future__ import annotations

import pytest

from dcnify.errors import InputError
from dcnify.graph.site import NearMiss, Site, Sites
from dcnify.recipe import Recipe, select
from dcnify.roles.attention import AttentionFacts
from dcnify.roles.depthwise_conv import DepthwiseFacts


def conv(path: str, stage: int, *, kernel=(7, 7), stride=(1, 1), channels=96, aliases=()) -> Site:
    shape = (1, channels, 14, 14)
    return Site(
        path=path,
        role="depthwise_conv",
        layout="BCHW",
        input_shape=shape,
        output_shape=shape,
        channels=channels,
        grid=(14, 14),
        stage=stage,
        parameters=0,
        flops=0,
        facts=DepthwiseFacts(kernel, stride, dilation=(1, 1), padding=(0, 0, 0, 0)),
        aliases=aliases,
    )


def attention(path: str, *, heads=3) -> Site:
    shape = (1, 197, 192)
    return Site(
        path=path,
        role="attention",
        layout="BNC",
        input_shape=shape,
        output_shape=shape,
        channels=192,
        grid=(14, 14),
        stage=0,
        parameters=0,
        flops=0,
        facts=AttentionFacts(heads=heads, prefix_tokens=1),
    )


def model(*sites: Site, near_misses: tuple[NearMiss, ...] = ()) -> Sites:
    paths = {""}
    for site in sites:
        parts = site.path.split(".")
        paths |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    paths |= {"stages.0.blocks.0.mlp", "head.fc"}
    return Sites(sites, near_misses, tuple(sorted(paths)))


CONVNEXT = model(
    *(
        conv(f"stages.{stage}.blocks.{block}.conv_dw", stage, channels=96 << stage)
        for stage, depth in enumerate((2, 2, 3, 2))
        for block in range(depth)
    ),
    conv("head.dw", 3, kernel=(3, 3)),
    near_misses=(NearMiss("stem.dw", "depthwise_conv", "called with a list"),),
)


def recipe(*swaps: str) -> Recipe:
    lines = "".join(f"  - {swap}\n" for swap in swaps)
    return Recipe.from_yaml(f"version: 1\nname: r\nswaps:\n{lines}", "r.yaml")


def swap(name: str = "late", select: str = "role: depthwise_conv", more: str = "") -> str:
    return f"{{name: {name}, select: {{{select}}}, replace: {{with: dcnv4}}{more}}}"


def place(swap: str, text: str) -> str:
    """Where ``text`` stands in the recipe that has this one swap."""
    return f"r.yaml:4:{len('  - ') + swap.index(text) + 1}"


def error_of(swaps: list[str], sites: Sites = CONVNEXT, kind=InputError) -> str:
    with pytest.raises(kind) as caught:
        select(recipe(*swaps), sites)
    assert "\n" not in str(caught.value)
    return str(caught.value)
