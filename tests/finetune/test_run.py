"""A fine-tuning from start to end."""

from __future__ import annotations

import json

import pytest
import torch
from support.finetune_cases import run, same, stages, weights

import dcnify
from dcnify.artifact import read_artifact, verify
from dcnify.errors import InputError
from dcnify.finetune import METRICS, TRAINING

ALIGN = {"name": "first", "steps": 3, "train": '"@swapped"', "batch_size": 32}
ALL = {"name": "second", "epochs": 2, "batch_size": 32}


@pytest.fixture(scope="module")
def done(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    plan = stages(folder, ALIGN, ALL)
    beats, looks = [], []
    summary = run(
        folder,
        "out",
        plan,
        artifact=made,
        watch=beats.append,
        looked=lambda *look: looks.append(look),
        tensorboard=True,
    )
    return folder / "out", summary, beats, looks


def test_what_comes_out_is_an_artifact_that_has_learned(done, made):
    path, summary, _, _ = done
    assert summary.artifact == path
    assert not same(path, made)
    model = dcnify.load(path)
    assert type(model) is type(dcnify.load(made))
    assert torch.isfinite(model(torch.randn(2, 3, 32, 32))).all()
    assert all(check.passed for check in verify(read_artifact(path)).checks)


def test_the_record_says_what_was_done_and_what_the_conversion_had_measured(done, made):
    path, summary, _, _ = done
    record, before = read_artifact(path), read_artifact(made)
    (told,) = record.report["finetune"]
    assert told["finetuned"] == summary.finetuned
    assert told["stages"].keys() == {"first", "second"}
    assert record.report["conversion"]["sites"] == before.report["sites"]
    assert "sites" not in record.report  # they were those of other weights
    assert record.config["dcnify"]["source"] == before.config["dcnify"]["source"]
    recipe = dcnify.Recipe.from_yaml(record.recipe)
    assert [stage.name for stage in recipe.finetune.stages] == ["first", "second"]


def test_metrics_are_lines_of_json_in_order(done):
    path, _, beats, looks = done
    lines = [json.loads(line) for line in (path / TRAINING / METRICS).read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in trained] == [beat.step for beat in beats] == [3, 3, 6]
    assert trained[0].keys() >= {"loss", "terms", "lr", "images_per_second", "memory", "epoch"}
    assert set(trained[0]["terms"]) == {"labels", "logits", "features", "layers"}
    seen = [(line["stage"], line["step"]) for line in lines if line["kind"] == "validation"]
    expected = ["original", "converted", "first", "second", "second"]
    assert [stage for stage, _ in seen] == expected
    assert seen == [(stage, step) for stage, step, _ in looks]
    assert list((path / TRAINING / "tensorboard").iterdir())


@pytest.mark.slow
def test_a_stage_changes_what_it_trains_and_nothing_else(made, tmp_path):
    plan = stages(tmp_path, {**ALIGN, "ema": "null"})
    run(tmp_path, "out", plan, artifact=made)
    before, after = weights(made), weights(tmp_path / "out")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(".conv_dw." in key for key in changed)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_gives_others(made, tmp_path):
    plan = stages(tmp_path, {**ALL, "epochs": 1})
    state = torch.get_rng_state()
    for out, seed in (("one", 1), ("two", 1), ("three", 2)):
        torch.randn(1)  # whatever else was drawn
        run(tmp_path, out, plan, artifact=made, seed=seed)
    torch.set_rng_state(state)
    assert same(tmp_path / "one", tmp_path / "two")
    assert not same(tmp_path / "one", tmp_path / "three")


@pytest.mark.slow
def test_the_callers_random_numbers_are_left_alone(made, tmp_path):
    torch.manual_seed(5)
    wanted = torch.randn(3)
    torch.manual_seed(5)
    run(tmp_path, "out", stages(tmp_path, {**ALL, "epochs": 1}), artifact=made)
    assert torch.equal(torch.randn(3), wanted)


def test_several_passes_make_the_same_step_as_one(made, tmp_path):
    whole = {"name": "s", "steps": 3, "batch_size": 32, "ema": "null"}
    plain = {"augment": "none", "losses": "{labels: 1, logits: 1}"}
    run(tmp_path, "whole", stages(tmp_path, {**whole, **plain}), artifact=made)
    parts = stages(tmp_path, {**whole, **plain, "accumulate": 4})
    run(tmp_path, "parts", parts, artifact=made)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    # DropPath draws for each pass anew, so not the same numbers; but the same data and rate.
    apart = [float((one[k] - other[k]).abs().max()) for k in one if one[k].is_floating_point()]
    assert max(apart) < 0.02


@pytest.mark.slow
def test_layers_hand_over_and_the_old_ones_are_gone(handing_over, made, tmp_path):
    plan = stages(tmp_path, {**ALL, "epochs": 4, "handover": "{until: 0.5}"})
    beats = []
    run(tmp_path, "out", plan, artifact=handing_over, watch=beats.append)
    assert [beat.blend for beat in beats][-1] == 0
    assert 0 < beats[0].blend < 1
    assert weights(tmp_path / "out").keys() == weights(made).keys()
    assert not any(swap.handover for swap in read_artifact(tmp_path / "out").plan.swaps)


@pytest.mark.slow
def test_a_handover_that_no_stage_names_is_the_last_ones(handing_over, made, tmp_path):
    said = []
    plan = stages(tmp_path, ALIGN, ALL)
    run(tmp_path, "out", plan, artifact=handing_over, say=said.append)
    assert any("hand over, in stage second" in line for line in said)
    assert weights(tmp_path / "out").keys() == weights(made).keys()


@pytest.mark.slow
def test_the_original_is_not_touched_and_not_saved(made, tmp_path):
    from dcnify.artifact import open_source

    teacher = open_source(
        made.parent / "model.safetensors",
        arch="convnext_atto",
        model_args=read_artifact(made).base.args,
    )
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    plan = stages(tmp_path, {**ALL, "epochs": 1})
    run(tmp_path, "out", plan, artifact=made, teacher=teacher)
    after = teacher.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert weights(tmp_path / "out").keys() == weights(made).keys()


@pytest.mark.slow
def test_a_missing_original_is_named_where_a_stage_needs_it(made, tmp_path):
    import shutil

    alone = tmp_path / "alone"
    shutil.copytree(made, alone)
    text = (alone / "config.json").read_text().replace("model.safetensors", "gone.safetensors")
    (alone / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"gone.*--teacher.*stage second learns from it"):
        run(tmp_path, "out", stages(tmp_path, ALL), artifact=alone)
    assert not (tmp_path / "out").exists()
    said = []
    labels = {"losses": "{labels: 1}", "epochs": 1}
    summary = run(
        tmp_path, "out", stages(tmp_path, {**ALL, **labels}), artifact=alone, say=said.append
    )
    assert summary.original is None
    assert "the original's accuracy is not measured" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"ema": "null"},
        {"checkpointing": "true"},
        {"channels_last": "false"},
        {"amp": "bf16"},
        {"schedule": "{name: none}"},
        {"schedule": "{name: step, warmup: 0.5}"},
        {"optimizer": "{name: sgd, lr: 0.01, layer_decay: 0.7, options: {momentum: 0.8}}"},
        {"augment": "{smoothing: 0.1, auto: rand-m5-inc1, color_jitter: 0.4}"},
        {"train": '["@norms", "@head", "stages.1.**"]'},
    ],
    ids=str,
)
def test_what_a_stage_can_say_runs(options, made, tmp_path):
    plan = stages(tmp_path, {"name": "s", "steps": 2, "batch_size": 16, **options})
    summary = run(tmp_path, "out", plan, artifact=made, count=48)
    assert summary.finetuned is not None
