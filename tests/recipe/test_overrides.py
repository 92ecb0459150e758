"""``--set PATH=VALUE`` changes a recipe, and errors about the value name the ``--set``."""

from __future__ import annotations

import pytest

from dcnify.errors import InputError
from dcnify.recipe import Recipe, builtin


def swap_with(*overrides: str):
    return Recipe.load("convnext-late", overrides).swaps[0]


def error_of(*overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        Recipe.load("convnext-late", overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_swap_is_addressed_by_name_or_by_index():
    assert swap_with("swaps.late.replace.kernel_size=5").replace.kernel_size == (5, 5)
    assert swap_with("swaps.0.replace.kernel_size=[3, 5]").replace.kernel_size == (3, 5)


def test_values_are_yaml():
    assert swap_with("swaps.late.select.stages=[1, 3]").select.stages == (1, 3)
    assert swap_with("swaps.late.select.where={kernel: {min: 5}}").select.where.kernel.min == 5
    assert swap_with("swaps.late.exclude=stages.3").exclude == ("stages.3",)
    assert swap_with("swaps.late.replace.pointwise=false").replace.pointwise is False
    assert swap_with("swaps.late.select.stages=").select.stages is None


def test_items_of_lists_are_addressed_by_index():
    assert swap_with("swaps.late.select.stages.0=1").select.stages == (1, 3)


def test_a_section_that_the_recipe_does_not_have_is_made():
    assert swap_with("swaps.late.require.sqnr_db=3").require.sqnr_db == 3.0
    assert swap_with("swaps.late.select.where.channels.min=96").select.where.channels.min == 96


def test_the_last_of_two_overrides_wins():
    swap = swap_with("swaps.late.replace.kernel_size=5", "swaps.late.replace.kernel_size=7")
    assert swap.replace.kernel_size == (7, 7)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("swaps.late.replace.kernel_size=abc", "expected an integer or [h, w], got 'abc'"),
        ("swaps.lat.replace.kernel_size=5", "no swap named 'lat', did you mean 'late'?"),
        ("swaps.zzz.replace.kernel_size=5", "no swap named 'zzz'; there is 'late'"),
        ("swaps.3.replace.kernel_size=5", "no item '3'; swaps has items 0 to 0"),
        ("swaps.late.replace.kernel=5", "unknown key 'kernel', did you mean 'kernel_size'?"),
        ("swap.late=5", "unknown key 'swap', did you mean 'swaps'?"),
        (
            "ablate.epochs=5",
            "unknown key 'ablate'; the keys are version, name, description, input, swaps",
        ),
        (
            "swaps.late.select.where.kernel.min=3",
            "swaps.late.select.where.kernel is 7, with nothing beneath; "
            "set swaps.late.select.where.kernel",
        ),
        ("swaps.late.select.stages.x=1", "no item 'x'; swaps.0.select.stages has items 0 to 1"),
        (
            "swaps.late.require.on_violation=warn",
            "missing key 'sqnr_db' in swaps.late.require",
        ),
        (
            "swaps.late.replace={with: dcnv4, kernel_size: x}",
            "swaps.late.replace.kernel_size: expected an integer or [h, w], got 'x'",
        ),
        ("swaps.late.replace={wth: dcnv4}", "unknown key 'wth', did you mean 'with'?"),
        ("swaps.late.init=*x", "alias '*x' is not supported: write the value out"),
        ("swaps.late.init=!!python/name:os.system", "tag '!!python/name:os.system' is not allowed"),
        ("version=2", "this dcnify reads version 1 of the format, got 2"),
        ("swaps.late", "expected PATH=VALUE, such as --set swaps.late.replace.kernel_size=5"),
        ("=5", "expected PATH=VALUE"),
        ("swaps..late=5", "expected PATH=VALUE"),
    ],
)
def test_what_is_wrong_with_an_override_names_the_override(override, words):
    assert error_of(override).startswith(f"--set {override}: {words}")


def test_an_error_of_the_file_still_names_the_file_when_there_is_an_override():
    text = builtin("vit").text.replace("with: dcnv4", "with: dcnv5")
    with pytest.raises(InputError, match=r"^r\.yaml:21:13: swaps\.attention\.replace\.with: "):
        Recipe.from_yaml(text, "r.yaml", ["swaps.attention.replace.kernel_size=5"])


def test_a_very_long_override_is_shortened_in_its_error():
    assert len(error_of(f"swaps.late.init={'x' * 5000}")) < 300


def test_an_override_can_repair_what_the_file_has_wrong():
    text = builtin("vit").text.replace("with: dcnv4", "with: dcnv5")
    recipe = Recipe.from_yaml(text, "r.yaml", ["swaps.attention.replace.with=dcnv4"])
    assert recipe == Recipe.load("vit")
