"""A recipe takes the sites it selects, and every other site keeps a reason."""

from __future__ import annotations

import pytest
from support.handmade_sites import CONVNEXT, attention, conv, error_of, model, place, recipe, swap

from dcnify.errors import CheckError
from dcnify.recipe import Recipe, select


def paths(selection, name: str | None = None) -> list[str]:
    return [site.path for site, taken_by in selection.chosen if name in (None, taken_by.name)]


def test_the_builtin_for_late_stages_takes_the_last_two():
    selection = select(Recipe.load("convnext-late"), CONVNEXT)
    assert selection.hits == {"late": 5}
    assert {site.stage for site, _ in selection.chosen} == {2, 3}
    assert selection.notes == ()


def test_sites_are_chosen_in_the_order_of_the_model():
    selection = select(recipe(swap("b", "role: depthwise_conv, stages: 3"), swap("a")), CONVNEXT)
    assert paths(selection) == [site.path for site in CONVNEXT]


def test_the_first_swap_that_selects_a_site_has_it():
    selection = select(recipe(swap("a", "role: depthwise_conv, stages: 2"), swap("b")), CONVNEXT)
    assert selection.hits == {"a": 3, "b": 7}
    assert paths(selection, "a") == [f"stages.2.blocks.{i}.conv_dw" for i in range(3)]


def test_every_site_that_stays_keeps_its_reason_and_near_misses_keep_their_own():
    chosen = recipe(
        swap(
            select="role: depthwise_conv, stages: [2, 3], where: {kernel: 7}",
            more=", exclude: ['stages.2.blocks.0']",
        )
    )
    skipped = select(
        chosen, model(*CONVNEXT, attention("att"), near_misses=CONVNEXT.near_misses)
    ).skipped
    assert dict((path, reason) for path, _, reason in skipped) == {
        "stages.0.blocks.0.conv_dw": "stage 0 not in [2, 3] (swap late)",
        "stages.0.blocks.1.conv_dw": "stage 0 not in [2, 3] (swap late)",
        "stages.1.blocks.0.conv_dw": "stage 1 not in [2, 3] (swap late)",
        "stages.1.blocks.1.conv_dw": "stage 1 not in [2, 3] (swap late)",
        "stages.2.blocks.0.conv_dw": "excluded by 'stages.2.blocks.0' (swap late)",
        "head.dw": "kernel 3x3 is not 7 (swap late)",
        "att": "role attention, no swap selects it",
        "stem.dw": "called with a list",
    }


def test_a_site_that_two_swaps_refuse_has_both_reasons():
    chosen = recipe(
        swap("a", "role: depthwise_conv, modules: head"),
        swap("b", "role: depthwise_conv, stages: 3, where: {channels: {max: 100}, kernel: [7, 5]}"),
    )
    sites = model(conv("x", 3, kernel=(7, 5)), conv("y", 3, channels=768), conv("head.dw", 0))
    assert select(chosen, sites).skipped == (
        (
            "y",
            "depthwise_conv",
            "path does not match 'head' (swap a); kernel 7x7 is not 7x5 (swap b)",
        ),
    )


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("{kernel: 7}", 9),
        ("{kernel: [7, 7]}", 9),
        ("{kernel: {min: 3, max: 5}}", 1),
        ("{kernel: {min: 3}}", 10),
        ("{channels: {min: 384}}", 5),
        ("{channels: 192}", 2),
        ("{grid: 14, stride: 1, dilation: {max: 1}}", 10),
    ],
)
def test_conditions_hold_exactly_or_within_inclusive_bounds(where, count):
    selection = select(recipe(swap(select=f"role: depthwise_conv, where: {where}")), CONVNEXT)
    assert selection.hits == {"late": count}


def test_a_rectangular_kernel_lies_in_a_range_only_with_both_sides():
    sites = model(conv("wide", 0, kernel=(1, 11)), conv("square", 0, kernel=(7, 7)))
    selection = select(
        recipe(swap(select="role: depthwise_conv, where: {kernel: {min: 3}}")), sites
    )
    assert selection.skipped == (("wide", "depthwise_conv", "kernel 1x11 is below 3 (swap late)"),)


def test_patterns_find_a_site_by_its_other_names():
    sites = model(conv("a.dw", 0, aliases=("shared.dw",)), conv("b.dw", 0, aliases=("old.b",)))
    chosen = swap(select="role: depthwise_conv, modules: shared", more=", exclude: [old]")
    assert paths(select(recipe(chosen), sites)) == ["a.dw"]
    chosen = swap(more=", exclude: [old]")
    assert paths(select(recipe(chosen), sites)) == ["a.dw"]


def test_parts_of_a_recipe_that_touch_nothing_are_noted():
    chosen = swap(
        select="role: depthwise_conv, modules: [stages, stagse], stages: [2, 7]",
        more=", exclude: ['neck.*']",
    )
    exclude = place(chosen, "'neck")
    assert select(recipe(chosen), CONVNEXT).notes == (
        f"{place(chosen, 'stagse')}: swap 'late': "
        "modules pattern 'stagse' matches no depthwise_conv site",
        f"{exclude}: swap 'late': exclude pattern 'neck.*' matches no depthwise_conv site",
        f"{place(chosen, '7]')}: swap 'late': no depthwise_conv site is in stage 7",
    )


def test_an_unmet_expectation_is_a_failed_check_with_the_count():
    chosen = swap(more=", expect: {min: 12}")
    assert error_of([chosen], kind=CheckError) == (
        f"{place(chosen, '12')}: swap 'late' selects 10 sites, expected at least 12"
    )
    assert "selects 10 sites, expected at most 9" in error_of(
        [swap(more=", expect: {max: 9}")], kind=CheckError
    )
    assert select(recipe(swap(more=", expect: {min: 10, max: 10}")), CONVNEXT).hits == {"late": 10}


def test_zero_hits_are_wrong_input_even_where_zero_would_be_expected():
    error_of([swap(select="role: attention", more=", expect: {min: 0, max: 4}")])
