"""Globs match by path component and cover what lies beneath; ``re:`` matches whole paths."""

from __future__ import annotations

from contextlib import suppress

import pytest

from dcnify.errors import InputError
from dcnify.recipe.selection.patterns import covers, first_cover, problem

PATH = "stages.2.blocks.0.conv_dw"


@pytest.mark.parametrize(
    "pattern",
    [
        PATH,
        "stages.*.blocks.*.conv_dw",
        "stages.2.blocks.0.*",
        "stages.2.blocks.0",
        "stages.2",
        "*",
        "**",
        "**.conv_dw",
        "stages.**.conv_dw",
        "stages.**",
        "stages.**.**.conv_dw",
        "stages.[23].blocks.?.conv_*",
        "stages.[!01].blocks",
        r"re:stages\.2\..*",
        r"re:.*conv_dw",
    ],
)
def test_a_pattern_covers_the_module_it_names_and_what_lies_beneath(pattern):
    assert problem(pattern) is None
    assert covers(pattern, PATH)


@pytest.mark.parametrize(
    "pattern",
    [
        "stages.*.conv_dw",
        "stages.2.blocks.0.conv_dw.*",
        "stages.2.blocks.00",
        "conv_dw",
        "Stages.2",
        "stages.2.blocks.0.conv",
        "stages.[!2].blocks",
        "stages*conv_dw",
        r"re:stages\.2",
        r"re:conv_dw",
    ],
)
def test_a_star_does_not_cross_a_dot_and_a_regex_must_match_whole_paths(pattern):
    assert problem(pattern) is None
    assert not covers(pattern, PATH)


def test_many_wildcards_take_no_exponential_time():
    assert not covers(".".join(["**", "a*"] * 40), ".".join(["ab"] * 39))


def test_a_module_is_found_under_any_of_its_names():
    assert first_cover(["x", "shared.*"], ["blocks.0.dw", "shared.dw"]) == "shared.*"
    assert first_cover(["x", "y.*"], ["blocks.0.dw", "shared.dw"]) is None


@pytest.mark.parametrize("pattern", ["(([a-z0-9._]+)+)+!", "(x+x+)+[yz]", "(.|x|[a-x])*[YZ]"])
def test_a_pattern_that_takes_for_ever_ends_in_a_second(pattern):
    """`re` would take years for each; some have an answer, and the others are refused."""
    assert problem(f"re:{pattern}") is None
    with suppress(InputError):
        assert not covers(f"re:{pattern}", "x" * 60)


def test_a_pattern_that_has_no_end_is_refused():
    with pytest.raises(InputError, match=r"takes too long on aaaa.*without a repeat of a repeat"):
        covers("re:(a|a|a)*[bc]", "a" * 60)
