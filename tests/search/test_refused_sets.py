"""Swaps that give NaN, alone, together and after training: told, refused, and others chosen."""

from __future__ import annotations

import json

import pytest
import torch
from support.searches import FEW, PAIR, search

from dcnify.errors import CheckError, InputError
from dcnify.search import verify


@pytest.fixture
def giving_nan(monkeypatch):
    """Have the model give NaN on its first image where all of some layers are swapped."""
    real = verify.Place.outputs

    def where(*paths):
        def outputs(self, model):
            found = real(self, model)
            if not any(isinstance(model.get_submodule(p), torch.nn.Conv2d) for p in paths):
                found[0] = float("nan")
            return found

        monkeypatch.setattr(verify.Place, "outputs", outputs)

    return where


def test_a_swap_that_gives_nan_is_told_and_not_chosen(tmp_path, giving_nan):
    giving_nan(PAIR[1])
    result, said = search(tmp_path / "x", "sites>=1", **FEW)
    assert result.chosen == PAIR[:1]
    words = "the model with 1 layer swapped gives NaN or infinities on 1 of 16 images"
    assert f"[2/2] {PAIR[1]}: refused: {words}" in said
    assert [one.refused for one in result.candidates] == ["", words]


def test_swaps_that_give_nan_together_are_no_artifact(tmp_path, giving_nan):
    giving_nan(*PAIR)
    with pytest.raises(CheckError, match=r"is left: 1 set refused, .* 2 layers swapped gives NaN"):
        search(tmp_path / "x", "sites>=2", **FEW)
    assert not (tmp_path / "x/artifact").exists()


def test_of_a_pair_that_gives_nan_one_is_swapped_if_the_budget_allows(tmp_path, giving_nan):
    giving_nan(*PAIR)
    result, said = search(tmp_path / "x", "flops<=10", **FEW)
    words = "the model with 2 layers swapped gives NaN or infinities on 1 of 16 images"
    assert f"{words}; another set is chosen" in said
    assert words in result.notes
    assert len(result.chosen) == 1
    assert (tmp_path / "x/artifact").exists()


def test_a_refused_set_is_not_converted_again(tmp_path, giving_nan, conversions):
    giving_nan(*PAIR)
    for _ in range(2):
        with pytest.raises(CheckError):
            search(tmp_path / "x", "sites>=2", **FEW)
    assert conversions.count(PAIR) == 1


def test_gradient_steps_that_end_in_nan_are_no_artifact(tmp_path, giving_nan, monkeypatch):
    real = verify.Place.convert

    def convert(self, recipe):
        if self.starts_as_recipe or recipe == self.measuring(PAIR[:1]):
            return real(self, recipe)
        giving_nan(PAIR[0])
        return real(self, recipe)

    monkeypatch.setattr(verify.Place, "convert", convert)
    steps = {"method": "calibrate", "batches": 1, "steps": 1, "model_steps": 0}
    given = {"overrides": [*FEW["overrides"], f"swaps.dw7.init=[fit, {json.dumps(steps)}]"]}
    with pytest.raises(CheckError, match="gives NaN"):
        search(tmp_path / "x", "sites=1", **given)
    assert not (tmp_path / "x/artifact").exists()


def test_a_model_that_gives_nan_itself_is_refused(tmp_path, giving_nan):
    giving_nan()
    with pytest.raises(InputError, match="itself gives NaN"):
        search(tmp_path / "x", **FEW)
