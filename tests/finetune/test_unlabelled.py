"""Fine-tuning on images without labels: the original is the teacher and the yardstick."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.finetune_cases import converted, same, stages

import dcnify
from dcnify.artifact import read_artifact
from dcnify.cli import main
from dcnify.data import open_unlabelled
from dcnify.errors import InputError
from dcnify.finetune import METRICS, TRAINING, Options, finetune
from dcnify.recipe import load_finetune

DISTIL = {
    "name": "distil",
    "steps": 20,
    "batch_size": 16,
    "losses": "{labels: 0, logits: 1}",
    "optimizer": "{lr: 1.0e-4, offset_lr: 1}",
    "augment": "{mixup: 0.8, mix_prob: 0.5}",
    "ema": "null",
    "batch_norm": "eval",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Thirty small images of stripes, in no class folders."""
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for index in range(30):
        coarse = torch.randint(0, 256, (3, 3, 3), generator=generator, dtype=torch.uint8)
        image = Image.fromarray(coarse.numpy())
        image.resize((32, 32)).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An artifact whose new layers matter, in contrast to those behind a fresh layer scale."""
    folder = tmp_path_factory.mktemp("converted")
    return converted(folder, drop_path_rate=0.0, ls_init_value=1.0, head_init_scale=5.0)


def train(made, photos, out, plan, **more):
    heard = {key: more.pop(key) for key in ("watch", "looked", "say") if key in more}
    opened = partial(_opened, photos)
    options = Options(cpu=True, crop_pct=1.0, **more)
    return finetune(made, opened, out, plan, options=options, **heard)


def _opened(photos, classes, mode):
    return open_unlabelled(photos, mode=mode)


def test_one_image_in_five_is_left_out_and_the_rest_are_trained_on(photos):
    data = open_unlabelled(photos)
    assert (len(data.train), len(data.validation), data.classes) == (24, 6, None)
    parts = (data.train.dataset, data.validation.dataset)
    trained, left_out = ({part.name(index) for index in range(len(part))} for part in parts)
    assert not trained & left_out
    assert len(trained | left_out) == 30
    assert len(open_unlabelled(photos, count=10).train) == 10


def test_too_few_images_are_refused(photos, tmp_path):
    for name in ("00.png", "01.png"):
        (tmp_path / name).write_bytes((photos / name).read_bytes())
    with pytest.raises(InputError, match="2 images are too few"):
        open_unlabelled(tmp_path)


@pytest.fixture(scope="module")
def done(made, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    looks, said = [], []
    plan = stages(folder, DISTIL)
    summary = train(
        made,
        photos,
        folder / "out",
        plan,
        looked=lambda *look: looks.append(look),
        say=said.append,
    )
    return folder / "out", summary, looks, said


def test_distillation_brings_the_model_closer_on_images_left_out(done, made):
    path, summary, looks, said = done
    assert summary.measure == "agreement"
    assert summary.original is None
    assert summary.distances["distil"] < 0.8 * summary.distances["converted"]
    assert summary.finetuned >= summary.converted
    assert not any("gained nothing" in line for line in said)
    assert not same(path, made)
    assert dcnify.load(path)(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert [step for _, step, _ in looks] == [0, 4, 8, 12, 16, 20]


def test_the_artifact_has_the_best_weights_and_its_report_the_distances(done):
    path, _, looks, _ = done
    (told,) = read_artifact(path).report["finetune"]
    assert told["distance"] == "kl"
    assert told["distances"]["distil"] == min(score.distance for _, _, score in looks)
    assert told["best_artifact"] is None
    lines = [json.loads(line) for line in (path / TRAINING / METRICS).read_text().splitlines()]
    assert all({"agreement", "kl"} <= one.keys() for one in lines if one["kind"] == "validation")


def test_batch_norms_keep_their_statistics_where_a_stage_says_so(photos, tmp_path):
    from dcnify.finetune.training.selection import frozen_norms

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    assert frozen_norms(model, every=False) == []
    assert frozen_norms(model, every=True) == [model[1]]


@pytest.mark.slow
def test_a_harmful_training_leaves_the_start_and_says_so(made, photos, tmp_path):
    said = []
    plan = stages(tmp_path, {**DISTIL, "optimizer": "{lr: 30, clip: null}", "steps": 4})
    summary = train(made, photos, tmp_path / "out", plan, say=said.append)
    assert same(tmp_path / "out", made)
    assert summary.distances["distil"] == summary.distances["converted"]
    assert (
        "distil gained nothing on the images left out: the weights are those from before it" in said
    )


def test_a_stage_on_labels_is_refused_with_the_way_out(made, photos, tmp_path):
    with pytest.raises(InputError, match=r"stage recover: losses\.labels.*no labels.*-r distil"):
        train(made, photos, tmp_path / "out", load_finetune("recover"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_stopped_training_ends_like_one_that_was_not(made, photos, done, tmp_path):
    class Killed(Exception):
        pass

    def kill(metrics):
        if metrics.step == 5:
            raise Killed

    plan = stages(tmp_path, DISTIL)
    with pytest.raises(Killed):
        train(made, photos, tmp_path / "out", plan, watch=kill, keep_every=1)
    train(made, photos, tmp_path / "out", plan, resume=True)
    assert same(tmp_path / "out", done[0])


@pytest.mark.slow
def test_a_model_without_classes_is_compared_by_cosine(photos, tmp_path):
    made = converted(tmp_path, num_classes=0)
    summary = train(made, photos, tmp_path / "out", stages(tmp_path, DISTIL))
    assert (summary.measure, summary.distance) == ("cosine", "relative_error")
    assert summary.distances["distil"] <= summary.distances["converted"]


@pytest.mark.slow
def test_the_verb_takes_images_without_labels(made, photos, tmp_path, capsys):
    small = ["--set", "stages.distil.steps=2"]
    call = ["finetune", str(made), "--images", str(photos), "-o", str(tmp_path / "out"), "--cpu"]
    assert main([*call, "-r", "distil", *small]) == 0
    out, err = capsys.readouterr()
    assert "agreement" in out
    assert "KL divergence" in out
    assert "converted: agreement" in err
    assert main([*call[:2], "-o", str(tmp_path / "no")]) == 2
    assert "missing option '--data', or '--images'" in capsys.readouterr().err
