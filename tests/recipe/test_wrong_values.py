"""A wrong value in a recipe is one line with its place and what is right there."""

from __future__ import annotations

import pytest
from support.broken_recipe import GOOD, changed, error_of

from dcnify.recipe import Recipe


def test_the_recipe_these_tests_break_is_good():
    assert Recipe.from_yaml(GOOD).swaps[0].replace.kernel_size == (3, 3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "kernel_size: 3",
            "kernel_size: three",
            "16:20: swaps.late.replace.kernel_size: expected an integer or [h, w], got 'three'",
        ),
        (
            "kernel_size: 3",
            "kernel_size: [3, 3, 3]",
            "16:20: swaps.late.replace.kernel_size: expected an integer or [h, w], got [3, 3, 3]",
        ),
        (
            "kernel_size: 3",
            "kernel_size: true",
            "16:20: swaps.late.replace.kernel_size: expected an integer or [h, w], got true",
        ),
        (
            "pointwise: true",
            "pointwise: yes",
            "17:18: swaps.late.replace.pointwise: expected true or false, got 'yes'",
        ),
        (
            "pointwise: true",
            "group_channels: 0",
            "17:23: swaps.late.replace.group_channels: expected 1 or more, got 0",
        ),
        (
            "pointwise: true",
            "group_channels: 1.5",
            "17:23: swaps.late.replace.group_channels: expected an integer, got 1.5",
        ),
        (
            "pointwise: true",
            "dw_kernel_size: 4",
            "17:23: swaps.late.replace.dw_kernel_size: expected an odd integer or null, got 4",
        ),
        (
            "pointwise: true",
            "offset_rank: 0",
            "17:20: swaps.late.replace.offset_rank: expected 1 or more, got 0",
        ),
        (
            "pointwise: true",
            "offset_scale: 0",
            "17:21: swaps.late.replace.offset_scale: expected more than 0, got 0",
        ),
        (
            "sqnr_db: 3.0",
            "sqnr_db: .inf",
            "19:24: swaps.late.require.sqnr_db: expected a finite number, got inf",
        ),
        (
            "role: depthwise_conv",
            "role: atention",
            "8:13: swaps.late.select.role: expected 'attention', 'conv', 'dcnv3', "
            "'depthwise_conv' or 'window_attention', got 'atention', did you mean 'attention'?",
        ),
        (
            "[{method: transfer}]",
            "guess",
            "18:11: swaps.late.init: expected 'paper', 'transfer', 'fit' or 'calibrate', "
            "got 'guess'",
        ),
        (
            "[{method: transfer}]",
            "[paper, {method: calibrated}]",
            "18:28: swaps.late.init.1.method: expected 'paper', 'transfer', 'fit' or 'calibrate', "
            "got 'calibrated', did you mean 'calibrate'?",
        ),
        (
            "[{method: transfer}]",
            "5",
            "18:11: swaps.late.init: expected 'paper', 'transfer', 'fit' or 'calibrate', got 5",
        ),
        (
            "{kernel: 7, stride: 1}",
            "{kernel: 7, stride: one}",
            "11:34: swaps.late.select.where.stride: expected an integer, [h, w] or "
            "{min: ..., max: ...}, got 'one'",
        ),
        (
            "{kernel: 7, stride: 1}",
            "{channels: [96, 192]}",
            "11:25: swaps.late.select.where.channels: expected an integer or "
            "{min: ..., max: ...}, got [96, 192]",
        ),
        (
            "{kernel: 7, stride: 1}",
            "{kernel: {min: 7, max: 3}}",
            "11:23: swaps.late.select.where.kernel: min 7 is larger than max 3",
        ),
        (
            "{kernel: 7, stride: 1}",
            "{kernel: {}}",
            "11:23: swaps.late.select.where.kernel: expected min, max or both",
        ),
        (
            "{kernel: 7, stride: 1}",
            "7",
            "11:14: swaps.late.select.where: expected a mapping, got 7",
        ),
        (
            "stages: [2, 3]",
            "stages: [2, -1]",
            "10:19: swaps.late.select.stages.1: expected 0 or more, got -1",
        ),
        (
            "stages: [2, 3]",
            "stages: []",
            "10:15: swaps.late.select.stages: expected at least one item, got an empty list",
        ),
        (
            "[3, 224, 224]",
            "224",
            "4:8: input: expected [channels, height, width], got 224",
        ),
        (
            "name: mine",
            "name: 3",
            "2:7: name: expected text, got 3; put it in quotes",
        ),
        (
            "name: late",
            "name: last stages",
            "6:11: swaps.0.name: expected letters, digits, - and _, beginning with a letter, "
            "got 'last stages'",
        ),
        (
            "version: 1",
            "version: 2",
            "1:10: version: this dcnify reads version 1 of the format, got 2",
        ),
        (
            "version: 1",
            "version: true",
            "1:10: version: this dcnify reads version 1 of the format, got true",
        ),
        (
            "with: dcnv4",
            "with: dcnv3",
            "15:13: swaps.late.replace.with: expected 'dcnv4' or 'fused_dcnv3', got 'dcnv3', "
            "did you mean 'dcnv4'?",
        ),
        (
            "pointwise: true",
            "prefix: mean",
            "17:15: swaps.late.replace.prefix: only for role attention; "
            "this swap selects depthwise_conv",
        ),
    ],
)
def test_a_wrong_value_is_pointed_at_in_human_words(old, new, message):
    assert changed(old, new) == f"recipe.yaml:{message}"


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("'re:(a'", "'re:(a' is not a regular expression: "),
        ("''", "a pattern cannot be empty"),
        ("a/b", "module paths are written with dots"),
        ("'{a,b}.c'", "braces are not supported; write one pattern per alternative"),
        ("a..b", "has an empty component"),
        ("a**.b", "'**' must be a whole component"),
        ("'a[0.b'", "opens a '[' that it does not close"),
        ("7", "expected a pattern such as 'stages.*.conv_dw', got 7"),
    ],
)
def test_a_bad_pattern_is_pointed_at(pattern, words):
    message = changed('["stages.2.blocks.0.*"]', f"[ok.then, {pattern}]")
    assert message.startswith("recipe.yaml:12:24: swaps.late.exclude.1: ")
    assert words in message


def test_removing_the_center_of_an_even_kernel_is_refused_where_it_is_asked():
    message = changed("kernel_size: 3", "kernel_size: [4, 3]\n      remove_center: true")
    assert message == (
        "recipe.yaml:17:22: swaps.late.replace.remove_center: "
        "an even kernel (4x3) has no center point to remove"
    )


def test_the_first_of_several_errors_is_told_and_the_others_are_counted():
    text = GOOD.replace("version: 1", "version: 9").replace("pointwise: true", "pointwise: on")
    text = text.replace("sqnr_db: 3.0", "sqnr_db: loud")
    assert error_of(text).startswith("recipe.yaml:1:10: version: ")
    assert error_of(text).endswith(" (and 2 more)")
