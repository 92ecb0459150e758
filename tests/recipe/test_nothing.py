"""A swap that takes nothing names the condition that emptied it and what there is instead."""

from __future__ import annotations

import pytest
from support.handmade_sites import CONVNEXT, attention, conv, error_of, model, place, swap

from dcnify.graph.site import NearMiss


@pytest.mark.parametrize(
    ("select", "at", "words"),
    [
        (
            "role: attention",
            "attention",
            "the model has no attention site; it has 10 of role depthwise_conv",
        ),
        (
            "role: depthwise_conv, modules: ['stagse.*.blocks.0.conv_dw']",
            "['stagse",
            "no module path matches 'stagse.*.blocks.0.conv_dw'; "
            "nearest: stages.0.blocks.0.conv_dw, stages.1.blocks.0.conv_dw",
        ),
        (
            "role: depthwise_conv, modules: '**.mlp'",
            "'**",
            "'**.mlp' matches 1 module, such as 'stages.0.blocks.0.mlp', but none is a "
            "depthwise_conv site; nearest of those: head.dw",
        ),
        (
            "role: depthwise_conv, modules: 're:.*conv$'",
            "'re:",
            "no module path matches 're:.*conv$'; nearest: ",
        ),
        (
            "role: depthwise_conv, stages: [4, 5]",
            "[4, 5]",
            "no depthwise_conv site is in stages [4, 5]; found in stages 0, 1, 2, 3",
        ),
        (
            "role: depthwise_conv, where: {kernel: 5}",
            "5}",
            "no depthwise_conv site has kernel 5; found 7x7 (9 sites), 3x3 (1 site)",
        ),
        (
            "role: depthwise_conv, stages: 3, where: {kernel: 7, channels: {max: 96}}",
            "{max",
            "none of the 2 depthwise_conv sites that pass its other conditions has "
            "channels 96 or less; found 768 (2 sites)",
        ),
        (
            "role: depthwise_conv, where: {heads: 4}",
            "4}",
            "depthwise_conv sites have no heads",
        ),
    ],
)
def test_the_condition_that_emptied_a_swap_is_named_with_what_there_is(select, at, words):
    message = error_of([swap(select=select)])
    assert message.startswith(
        f"{place(swap(select=select), at)}: swap 'late' selects nothing: {words}"
    )


def test_a_swap_left_with_nothing_by_an_earlier_one_says_which():
    assert error_of([swap("first"), swap("second", "role: depthwise_conv, stages: 2")]) == (
        "r.yaml:5:5: swap 'second' selects nothing: "
        "all 3 that it would take went to 'first', which comes first"
    )


def test_a_swap_that_excludes_all_it_selects_says_by_what():
    message = error_of(
        [
            swap(
                select="role: depthwise_conv, modules: stages.2",
                more=", exclude: ['**.conv_dw', x]",
            )
        ]
    )
    assert message.endswith("all 3 depthwise_conv sites are excluded by '**.conv_dw'")


def test_a_role_with_only_near_misses_gives_the_first_ones_reason():
    sites = model(conv("dw", 0), near_misses=(NearMiss("attn", "attention", "windows of tokens"),))
    assert error_of([swap(select="role: attention")], sites).endswith(
        "the model has no attention site that can be swapped; nearest is 'attn': windows of tokens"
    )


def test_a_model_without_any_site_says_so():
    assert error_of([swap()], model()).endswith(
        "the model has no depthwise_conv site, nor a site of any other role"
    )


def test_the_facts_of_attention_are_named_alike():
    narrow = swap(select="role: attention, where: {heads: {min: 6}}")
    assert error_of([narrow], model(attention("blocks.0.attn"))).endswith(
        "no attention site has heads 6 or more; found 3 (1 site)"
    )


def test_zero_hits_come_before_an_unmet_expectation_of_another_swap():
    first = swap("first", "role: depthwise_conv, stages: 0", ", expect: {min: 5}")
    assert "swap 'second' selects nothing" in error_of([first, swap("second", "role: attention")])


def test_the_nearest_paths_come_from_sites_of_the_role_first():
    message = error_of([swap(select="role: depthwise_conv, modules: stages.0.blocks.0.mpl")])
    assert message.index("stages.0.blocks.0.conv_dw") < message.index("stages.0.blocks.0.mlp")
    assert len(CONVNEXT) == 10
