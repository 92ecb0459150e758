"""A search from end to end on a tiny model: what it writes, how it goes on, how it fails."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from support.blocks_by_hand import FlatModel
from support.searches import ARGS, FEW, OPTIONS, SOURCE, TYPED, search

import dcnify
from dcnify.cli import main
from dcnify.data.spec import ImageSpec
from dcnify.errors import CheckError, InputError
from dcnify.graph.isolation.region import Region
from dcnify.search import run as running
from dcnify.search import scores
from dcnify.sources.spec import SourceSpec


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "found"
    result, said = search(folder)
    return folder, result, said


@pytest.fixture
def copied(done, tmp_path):
    """A folder in which everything is measured, to search again in."""
    return shutil.copytree(done[0], tmp_path / "copy")


def test_the_artifact_has_the_chosen_layers_and_loads(done):
    folder, result, _ = done
    model = dcnify.load(folder / "artifact", trust_code=True)
    assert len(result.chosen) == 2
    for one in result.candidates:
        swapped = not isinstance(model.get_submodule(one.path), torch.nn.Conv2d)
        assert swapped == (one.path in result.chosen)


def test_the_recipe_that_is_written_selects_the_same_layers(done):
    folder, result, _ = done
    recipe = dcnify.Recipe.load(folder / "recipe.yaml")
    from support.models import tiny_convnext

    plan = dcnify.plan(tiny_convnext(num_classes=10), recipe, torch.randn(1, 3, 32, 32))
    assert tuple(swap.site.path for swap in plan.swaps) == result.chosen


def test_what_is_chosen_does_least_damage_of_all_pairs_as_predicted(done):
    _, result, _ = done
    by_method = {one.method: one for one in result.sets}
    assert by_method["milp"].paths == result.rounds[0].paths
    harms = [one.predicted["kl"] for one in result.sets if one.predicted["sites"] == 2]
    assert by_method["milp"].predicted["kl"] == pytest.approx(min(harms), rel=1e-3)


def test_costs_that_are_counted_come_out_as_predicted(done):
    (first, *_) = done[1].rounds
    for name in ("sites", "flops_ratio", "params_ratio"):
        assert first.measured[name] == pytest.approx(first.predicted[name], rel=1e-6)


def test_the_files_hold_every_measurement(done):
    folder, result, said = done
    data = json.loads((folder / "search.json").read_text())
    assert len(data["candidates"]) == 5
    assert all(one["values"]["kl"] >= 0 for one in data["candidates"])
    assert data["chosen"] == list(result.chosen)
    assert sum(line.startswith("[") for line in said) == 5


@pytest.mark.slow
def test_a_second_call_converts_what_is_chosen_and_nothing_else(copied, conversions):
    again, _ = search(copied)
    assert set(conversions) == {again.chosen}


@pytest.mark.slow
def test_another_budget_measures_no_layer_again(copied, conversions):
    result, _ = search(copied, "flops<=1.2", overwrite=True)
    assert result.goal == "most layers"
    assert all(len(one) > 1 for one in conversions)
    assert result.artifact["flops_ratio"] <= 1.2


@pytest.mark.slow
def test_a_search_that_was_stopped_goes_on(tmp_path, conversions, monkeypatch):
    real = scores.measure

    def stopped(place, store, paths):
        if len(conversions) == 1:
            raise KeyboardInterrupt
        return real(place, store, paths)

    monkeypatch.setattr(scores, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "x", "sites>=1", **FEW)
    assert len(conversions) == 1
    assert not (tmp_path / "x/artifact").exists()
    monkeypatch.setattr(scores, "measure", real)
    result, _ = search(tmp_path / "x", "sites>=1", **FEW)
    alone = [(one.path,) for one in result.candidates]
    assert conversions[:2] == alone


@pytest.mark.slow
def test_a_measurement_that_is_damaged_is_made_again(copied, conversions):
    folder = copied / "measured"
    path = min(folder.iterdir())
    path.write_bytes(path.read_bytes()[:40])
    result, _ = search(copied)
    assert len(set(conversions) - {result.chosen}) <= 1
    assert path.stat().st_size > 40


@pytest.mark.slow
def test_other_images_are_measured_anew(copied, conversions):
    images = ImageSpec("builtin:cluttered-digits", image_count=8)
    search(copied, "sites>=1", images=images, overwrite=True, **FEW)
    assert len({one for one in conversions if len(one) == 1}) == 2


def test_gradients_score_without_a_conversion(tmp_path, conversions):
    result, _ = search(tmp_path / "x", score="fisher", **FEW)
    assert set(conversions) == {result.chosen}
    assert all(one.values["kl"] >= 0 for one in result.candidates)


def opened(folder, count=16):
    """The place of a search with so many images."""
    return running.open_place(
        running.SearchSpec(
            source=SourceSpec(SOURCE, input_size="32", model_arg=ARGS),
            budget=("sites>=1",),
            recipe="convnext-calibrated",
            output=str(folder),
            images=ImageSpec("builtin:cluttered-digits", image_count=count),
        )
    )


def test_the_model_is_as_it_was_after_each_measurement(tmp_path):
    place = opened(tmp_path)
    before = place.outputs(place.model)
    with place.converted([place.paths[1]]) as result:
        assert not torch.equal(place.outputs(result.model), before)
    assert torch.equal(place.outputs(place.model), before)


def test_damage_is_measured_on_every_image_that_is_not_calibrated_on(tmp_path):
    place = opened(tmp_path, 96)
    measured = torch.cat(place.images.batches)
    calibrated = place.few.tensor[-64:]
    assert len(measured) == 96 - 64
    together = torch.cat((measured, calibrated)).flatten(1)
    assert len(together.unique(dim=0)) == len(place.batch.tensor.flatten(1).unique(dim=0))


def test_sites_inside_a_larger_forward_are_searched_like_any(tmp_path):
    recipe = tmp_path / "both.yaml"
    recipe.write_text(
        "version: 1\nname: both\nswaps:\n"
        + "".join(
            f"- {{name: {role}, select: {{role: {role}}}, init: [fit, {{method: calibrate, "
            "batches: 2, steps: 0, model_steps: 0}], "
            "replace: {with: dcnv4, group_channels: 8}}\n"
            for role in ("depthwise_conv", "attention")
        )
    )
    source = SourceSpec("python:support.blocks_by_hand:FlatModel", input_size="32")
    given = {**OPTIONS, "overrides": []}
    result = dcnify.search(source, "sites>=1", output=tmp_path / "x", recipe=str(recipe), **given)
    assert {one.path for one in result.candidates} == {"conv_region", "attention_region"}
    (path,) = result.chosen
    model = dcnify.load(tmp_path / "x/artifact", trust_code=True)
    assert not isinstance(model.get_submodule(path), Region)
    plan = dcnify.plan(
        FlatModel(), dcnify.Recipe.load(tmp_path / "x/recipe.yaml"), torch.zeros(1, 3, 32, 32)
    )
    assert [swap.site.path for swap in plan.swaps] == [path]
    assert plan.isolations


def test_a_budget_that_no_set_meets_is_exit_3_and_says_what_is_nearest(copied, capsys):
    shutil.rmtree(copied / "artifact")
    code = main(["search", SOURCE, *TYPED, "--budget", "flops<=0.5", "-o", str(copied)])
    out, err = capsys.readouterr()
    assert code == 3
    assert out == ""
    (line,) = [one for one in err.splitlines() if one.startswith("error:")]
    assert "the nearest, 1 layer, misses flops<=0.5" in line
    assert not (copied / "artifact").exists()
    assert "failure" in json.loads((copied / "search.json").read_text())


@pytest.mark.slow
def test_the_verb_prints_tables_or_json(copied, capsys):
    args = ["search", SOURCE, *TYPED, "--budget", "sites>=2", "-o", str(copied)]
    assert main(args) == 0
    out, _ = capsys.readouterr()
    assert "by greedy, predicted" in out
    assert "chosen, measured" in out
    assert main([*args, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["chosen"]) == 2


def test_a_method_without_a_set_is_a_row_of_the_table(done, monkeypatch, capsys):
    sets = tuple(replace(one, paths=None, predicted={}) for one in done[1].sets[1:2])
    found = replace(done[1], sets=sets)
    monkeypatch.setattr(running, "run", lambda spec, **told: found)
    assert main(["search", SOURCE, "--budget", "params<=1.2x", "-o", "x"]) == 0
    (row,) = [one for one in capsys.readouterr().out.splitlines() if "by greedy" in one]
    assert row.split() == ["by", "greedy,", "predicted", "no", "set"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": "latncy<=1"}, "did you mean 'latency'"),
        ({"score": "fishr"}, "--score fishr: not known, did you mean 'fisher'"),
        ({"init": "paper"}, "--init paper: not known"),
        ({"recipe": "vit"}, "selects nothing"),
        ({"recipe": "convnex"}, "did you mean 'convnext'"),
        ({"images": ImageSpec("nowhere")}, "nowhere"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(tmp_path, change, words):
    with pytest.raises(InputError, match=words) as caught:
        search(tmp_path / "x", **change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="holds something else"):
        search(tmp_path)


def test_an_artifact_for_another_budget_is_kept_unless_told(done):
    with pytest.raises(InputError, match=r"holds the search for sites>=2: pass --overwrite"):
        search(done[0], "sites>=3")


@pytest.mark.slow
def test_a_bound_on_classes_needs_a_classifier(tmp_path):
    source = SourceSpec(SOURCE, input_size="32", model_arg=("num_classes=0",))
    with pytest.raises(InputError, match="not \\(B, classes\\)"):
        dcnify.search(source, "agreement>=90%", output=tmp_path / "x", **OPTIONS | FEW)
    result = dcnify.search(source, "sites>=1", output=tmp_path / "x", **OPTIONS | FEW)
    assert result.measure == "error"


def test_a_layer_that_its_recipe_refuses_is_no_candidate(tmp_path):
    overrides = [*FEW["overrides"], "swaps.dw7.require.sqnr_db=200"]
    with pytest.raises(CheckError, match="no layer can be swapped"):
        search(tmp_path / "x", overrides=overrides)
