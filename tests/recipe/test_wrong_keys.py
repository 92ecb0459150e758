"""A key that is unknown, missing or given twice is one line with its place and the right one."""

from __future__ import annotations

import pytest
from support.broken_recipe import GOOD, changed, error_of


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "      kernel_size: 3",
            "      kernal_size: 3",
            "recipe.yaml:16:7: unknown key 'kernal_size', did you mean 'kernel_size'?",
        ),
        (
            "    replace:",
            "    replce:",
            "recipe.yaml:14:5: unknown key 'replce', did you mean 'replace'?",
        ),
        (
            "description: Late stages only.",
            "ablate: {epochs: 3}",
            "recipe.yaml:3:1: unknown key 'ablate'; the keys of a recipe are version, name, "
            "description, input, swaps, require, certify, finetune",
        ),
        (
            "where: {kernel: 7, stride: 1}",
            "kernel: 7",
            "recipe.yaml:11:7: unknown key 'kernel' in swaps.late.select; it belongs under 'where'",
        ),
        (
            "{kernel: 7, stride: 1}",
            "{kernel: {mim: 7}}",
            "recipe.yaml:11:24: unknown key 'mim', did you mean 'min'?",
        ),
        (
            "expect: {min: 8}",
            "expect: {1: 8}",
            "recipe.yaml:13:14: unknown key '1'; the keys of swaps.late.expect are min, max",
        ),
    ],
)
def test_an_unknown_key_is_pointed_at_with_the_nearest_valid_one(old, new, message):
    assert changed(old, new) == message


def test_a_missing_key_points_at_the_mapping_that_lacks_it():
    assert changed("      with: dcnv4\n", "") == (
        "recipe.yaml:15:7: missing key 'with' in swaps.late.replace"
    )
    assert changed("version: 1\n", "") == (
        "recipe.yaml:1:1: missing key 'version'; the file starts with 'version: 1'"
    )


def test_a_second_swap_of_the_same_name_is_refused():
    swap = "  - {name: late, select: {role: attention}, replace: {with: dcnv4}}\n"
    assert error_of(GOOD + swap) == (
        "recipe.yaml:20:12: swaps.late.name: a second swap named 'late'; names must differ"
    )


def test_swaps_written_as_a_mapping_are_explained():
    message = error_of("version: 1\nname: x\nswaps: {late: {}}\n")
    assert message == (
        "recipe.yaml:3:8: swaps: expected a list of swaps, each beginning with '- name:', "
        "got a mapping"
    )
