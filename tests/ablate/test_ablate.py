"""A sweep from end to end: trials, their files, reruns, failures, the recipes that come out."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
import torch
from support.ablations import KERNEL, STAGES, STEPS, SWEEP, ablate
from support.models import tiny_convnext

import dcnify
from dcnify.ablate import measure, run, worker, workplace
from dcnify.ablate.results.report import read_results
from dcnify.ablate.trial import Setting
from dcnify.ablate.workplace import open_workplace
from dcnify.errors import DcnifyError, InputError
from dcnify.pipeline.spec import RunSpec
from dcnify.sources.spec import SourceSpec


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablate") / "run"
    result, said = ablate(folder)
    return folder, result, said


@pytest.fixture
def counted(monkeypatch):
    """The trials that are carried out, each as its changes and seed."""
    seen = []

    def counting(spec, place, watch=None):
        seen.append((spec.changes, spec.seed))
        return real(spec, place, watch)

    real = measure.measure
    monkeypatch.setattr(worker, "measure", counting)
    return seen


def test_every_trial_has_its_json(done):
    folder, _, said = done
    found = [json.loads(one.read_text()) for one in (folder / "trials").glob("*.json")]
    assert len(found) == 8
    assert {one["state"] for one in found} == {"done"}
    assert all(one["values"].keys() >= {"agreement", "kl", "parameters", "flops"} for one in found)
    assert {one["images"]["count"] for one in found} == {128}, "16 would tell no two apart"
    assert "8 trials: 4 points x 2 seeds" in said


def test_costs_are_those_of_the_converted_model(done):
    folder, result, _ = done
    row = result.report.rows[0]
    model = tiny_convnext(num_classes=10)
    recipe = dcnify.Recipe.load(folder / "report/recipes/best.yaml")
    assert row["parameters"] > sum(p.numel() for p in model.parameters())
    assert recipe.swaps[0].select.stages is not None


def test_the_tables_hold_every_trial_and_every_point(done):
    folder, _, _ = done
    trials = list(csv.DictReader((folder / "report/trials.csv").open()))
    points = list(csv.DictReader((folder / "report/points.csv").open()))
    assert (len(trials), len(points)) == (8, 4)
    assert {one[STAGES] for one in points} == {"[0]", "[1]"}
    assert "<html" in (folder / "report/report.html").read_text()


@pytest.mark.slow
def test_the_best_recipes_run(done):
    folder, _, _ = done
    recipes = sorted((folder / "report/recipes").glob("*.yaml"))
    assert {one.stem.split("-")[0] for one in recipes} == {"best", "flops", "parameters"}
    model = tiny_convnext(num_classes=10)
    for path in recipes:
        assert dcnify.plan(model, dcnify.Recipe.load(path), torch.randn(1, 3, 32, 32)).swaps


def test_a_second_call_does_nothing_again_and_says_the_same(done, counted):
    folder, before, _ = done
    again, said = ablate(folder)
    assert counted == []
    assert again.report.rows == before.report.rows
    assert "8 were enqueued or done before, 0 are new" in said


@pytest.mark.slow
def test_only_what_is_new_is_done(done, counted, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(done[0], folder)
    changed = {**SWEEP, "factors": {KERNEL: [3, 5], STAGES: [[0], [1]]}, "seeds": [1]}
    ablate(folder, changed)
    assert [(one[KERNEL], seed) for one, seed in counted] == [(5, 1), (5, 1)]
    assert len(read_results(folder).points) == 4


@pytest.mark.slow
def test_another_number_of_images_is_measured_anew_even_where_it_is_a_default(
    tmp_path, counted, monkeypatch
):
    sweep = {**SWEEP, "factors": {STAGES: [[0]]}, "seeds": [0]}
    for count in (16, 32, 32):
        monkeypatch.setattr(workplace, "ENOUGH_IMAGES", count)
        ablate(tmp_path / "run", sweep)
        found = [json.loads(one.read_text()) for one in (tmp_path / "run/trials").glob("*.json")]
        assert count in {one["images"]["count"] for one in found}
    assert len(counted) == 2


@pytest.mark.slow
def test_trials_that_differ_only_in_fine_tuning_share_their_conversion(tmp_path):
    sweep = {
        **SWEEP,
        "set": {"finetune": [{"use": "recover", "steps": 1, "batch_size": 8, "augment": "none"}]},
        "factors": {STEPS: [1, 2], STAGES: [[0]]},
        "seeds": 0,
        "measure": ["finetune", "latency"],
    }
    result, said = ablate(tmp_path / "run", sweep, data="builtin:cluttered-digits", seconds=0.01)
    assert any("1 conversion, shared by 2 fine-tunings" in line for line in said)
    (kept,) = [one for one in (tmp_path / "run/converted").iterdir() if one.is_dir()]
    assert dcnify.load(kept, trust_code=True) is not None
    for row in result.report.rows:
        assert row["accuracy"] is not None
        assert row["latency_ms"] > 0
        assert row["latency_ratio"] == pytest.approx(1 / row["speedup"])
    assert not any((tmp_path / "run/models").iterdir())


@pytest.mark.slow
def test_a_failure_is_said_at_once_and_tried_again(tmp_path, monkeypatch):
    sweep = {**SWEEP, "factors": {KERNEL: [3, 1]}, "seeds": [0]}
    real = measure.measure

    def failing(spec, place, watch=None):
        if spec.changes[KERNEL] == 1:
            raise RuntimeError("it broke\nin two lines")
        return real(spec, place, watch)

    monkeypatch.setattr(worker, "measure", failing)
    result, said = ablate(tmp_path / "run", sweep)
    assert any("kernel_size=1: failed: it broke" in line for line in said)
    assert result.report.rows[1]["agreement"] is None
    with pytest.raises(DcnifyError, match="it broke"):
        ablate(tmp_path / "run", sweep, fail_fast=True)
    monkeypatch.setattr(worker, "measure", real)
    result, said = ablate(tmp_path / "run", sweep)
    assert result.report.rows[1]["agreement"] is not None
    assert any(line.startswith("[2/2] kernel_size=1") for line in said)


@pytest.mark.slow
def test_a_recipe_that_requires_too_much_is_infeasible_and_not_tried_again(tmp_path, counted):
    sweep = {
        **SWEEP,
        "set": {"require": None, "swaps.dw7.require": {"sqnr_db": 200.0}},
        "factors": {KERNEL: [3, 1]},
        "seeds": [0],
    }
    _, said = ablate(tmp_path / "run", sweep)
    assert sum("infeasible" in line for line in said) == 2
    ablate(tmp_path / "run", sweep)
    assert len(counted) == 2


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_keeps_what_was_measured(tmp_path, monkeypatch):
    import errno

    sweep = {**SWEEP, "factors": {KERNEL: [3, 1]}, "seeds": [0]}
    real, calls = measure.measure, []

    def full(spec, place, watch=None):
        calls.append(spec)
        if len(calls) == 2:
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise DcnifyError("could not be written: No space left on device") from error
        return real(spec, place, watch)

    monkeypatch.setattr(worker, "measure", full)
    with pytest.raises(DcnifyError, match="No space left"):
        ablate(tmp_path / "run", sweep)
    states = [one.state for one in read_results(tmp_path / "run").points[0].trials]
    assert states == ["done"]
    result, _ = ablate(tmp_path / "run", sweep)
    assert len(calls) == 3
    assert result.report.rows[1]["agreement"] is not None


@pytest.mark.slow
def test_ctrl_c_loses_nothing(tmp_path, monkeypatch):
    sweep = {**SWEEP, "factors": {KERNEL: [3, 1]}, "seeds": [0]}
    real, calls = measure.measure, []

    def interrupted(spec, place, watch=None):
        calls.append(spec)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(spec, place, watch)

    monkeypatch.setattr(worker, "measure", interrupted)
    with pytest.raises(DcnifyError, match="the same command goes on") as caught:
        ablate(tmp_path / "run", sweep)
    assert caught.value.exit_code == 130
    ablate(tmp_path / "run", sweep)
    assert len(calls) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"factors": {KERNEL + "s": [3]}}, {}, "did you mean 'kernel_size'?"),
        ({"factors": {KERNEL: [3, -1]}}, {}, "(point kernel_size=-1)"),
        ({"factors": {STAGES: [[0], [9]]}}, {}, "found in stages 0, 1, 2, 3 (point stages=[9])"),
        ({"factors": {"swaps.dw8.init": ["fit"]}}, {}, "did you mean 'dw7'?"),
        ({"factors": {STEPS: [1]}}, {}, "add finetune to 'measure'"),
        ({"measure": ["finetune"]}, {"images": None}, "finetune needs images"),
        ({"measure": ["memory"]}, {}, "on a GPU only"),
        ({"recipe": "convnet"}, {}, "did you mean 'convnext'?"),
        ({}, {"overrides": [f"{KERNEL}=5"]}, "it is a factor of the sweep"),
        ({}, {"images": "/nowhere"}, "there is no folder /nowhere"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path, change, options, said):
    if change.get("measure") == ["memory"]:
        options = {**options}
    with pytest.raises(InputError) as caught:
        ablate(tmp_path / "run", {**SWEEP, **change}, **options)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_random_weights_are_the_same_ones_in_every_call_and_process(tmp_path):
    run_spec = RunSpec(recipe="", source=SourceSpec("timm:test_convnext"), output="")
    setting = Setting(
        run=run_spec, recipe="", recipe_name="", changes={}, measure=(), source_sha256=None
    )
    state = torch.get_rng_state()
    first = open_workplace(setting, tmp_path).source.sha256
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert open_workplace(replace(setting, source_sha256=first), tmp_path).source.sha256 == first


def test_an_untrained_model_is_judged_by_its_layers(done):
    folder, _, _ = done
    assert read_results(folder).objective == "worst_sqnr_db"
    (trial, *_) = (json.loads(one.read_text()) for one in (folder / "trials").glob("*.json"))
    assert "untrained" in trial["uninformative"] or "prefers" in trial["uninformative"]


@pytest.mark.slow
def test_points_without_sites_are_dropped_if_the_sweep_says_so(tmp_path):
    sweep = {**SWEEP, "factors": {STAGES: [[0], [9]]}, "seeds": 0, "no_sites": "drop"}
    result, said = ablate(tmp_path / "run", sweep)
    assert len(result.report.rows) == 1
    assert "1 point dropped: their selectors hit nothing" in said


def test_a_folder_of_another_sweep_or_model_or_version_is_refused(done, tmp_path, monkeypatch):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(done[0], folder)
    with pytest.raises(InputError, match="holds the sweep tiny, not other"):
        ablate(folder, {**SWEEP, "name": "other"})
    monkeypatch.setattr(run, "__version__", "9")
    text = (folder / "ablation.json").read_text()
    (folder / "ablation.json").write_text(text.replace(dcnify.__version__, "9.9"))
    with pytest.raises(InputError, match=r"made by dcnify 9\.9"):
        ablate(folder)
    (folder / "ablation.json").write_text(f'{{"version": "{dcnify.__version__}"}}')
    with pytest.raises(InputError, match=r"ablation.json is not the record of an ablation"):
        ablate(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thing").touch()
    with pytest.raises(InputError, match="something else"):
        ablate(tmp_path / "other")
