"""The ``finetune`` section: what it means, and how it is set."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.finetune_section_cases import GOOD, read, stage_of

from dcnify.recipe import Recipe, builtins
from dcnify.recipe.finetune.training import SCHEDULES, USUAL_OPTIMIZERS


def test_a_stage_says_little_and_means_all_of_it():
    finetune = read(GOOD).finetune
    (stage,) = finetune.stages
    assert (finetune.seed, stage.name, stage.epochs, stage.steps) == (3, "only", 2.0, None)
    assert (stage.train, stage.batch_size, stage.accumulate) == (("all",), 64, 1)
    assert (stage.optimizer.name, stage.optimizer.lr, stage.optimizer.offset_lr) == (
        "adamw",
        1e-3,
        0.1,
    )
    assert (stage.schedule.name, stage.schedule.warmup) == ("cosine", 0.05)
    assert (stage.losses.labels, stage.losses.logits, stage.losses.temperature) == (1.0, 0.0, 2.0)
    assert stage.augment.crop_ratio == (3 / 4, 4 / 3)
    assert (stage.ema, stage.amp, stage.channels_last, stage.handover) == (None, "no", True, None)


def test_augment_none_shows_images_as_in_validation():
    plain = stage_of("augment: none").augment
    assert (plain.crop_scale, plain.crop_ratio, plain.hflip) == ((1.0, 1.0), (1.0, 1.0), 0.0)


def test_what_trains_is_words_groups_and_patterns_in_any_number():
    assert stage_of('train: "@swapped"').train == ("@swapped",)
    assert stage_of('train: ["@norms", "stages.3", "re:head\\\\..*bias"]').train == (
        "@norms",
        "stages.3",
        r"re:head\..*bias",
    )


def test_arguments_of_the_optimizer_pass_through_with_their_types():
    text = GOOD.replace("{lr: 1e-3}", "{lr: 1, options: {nesterov: true, betas: [0.9, 1], a: b}}")
    found = read(text).finetune.stages[0].optimizer.options
    assert found == {"a": "b", "betas": (0.9, 1), "nesterov": True}
    assert list(found) == sorted(found)


def test_labels_need_no_weight_to_be_mixed():
    stage = stage_of("losses: {labels: 0, logits: 1}\n      augment: {mixup: 0.8}")
    assert (stage.losses.labels, stage.augment.mixup) == (0.0, 0.8)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_one_of_timm(name):
    import torch
    from timm.scheduler import create_scheduler_v2

    assert stage_of(f"schedule: {{name: {name}}}").schedule.name == name
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    made, _ = create_scheduler_v2(optimizer, sched=name, num_epochs=10)
    assert (made is None) == (name == "none")


def test_the_usual_optimizers_are_known_to_timm():
    from timm.optim import list_optimizers

    assert set(USUAL_OPTIMIZERS) <= set(list_optimizers())
    unusual = GOOD.replace("{lr: 1e-3}", "{name: adopt, lr: 1e-3}")
    assert read(unusual).finetune.stages[0].optimizer.name == "adopt"


def test_reading_the_usual_loads_neither_torch_nor_timm():
    script = (
        "import sys; from dcnify.recipe import load_finetune; load_finetune('align,recover'); "
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_stage_is_set_by_name_or_index_and_has_one_length():
    assert read(GOOD, "finetune.stages.only.optimizer.lr=1e-4").finetune.stages[0].optimizer.lr == (
        1e-4
    )
    stage = read(GOOD, "finetune.stages.0.steps=10").finetune.stages[0]
    assert (stage.steps, stage.epochs) == (10, None)
    stage = read(GOOD, "finetune.stages.0.steps=10", "finetune.stages.0.epochs=1").finetune.stages
    assert (stage[0].steps, stage[0].epochs) == (None, 1.0)
    stage = read(GOOD, "finetune.stages.only.optimizer.options.betas=[0.9, 0.95]").finetune.stages
    assert stage[0].optimizer.options == {"betas": (0.9, 0.95)}


def test_a_section_is_set_as_a_whole_and_taken_away():
    assert [s.name for s in read("", "finetune=[align, recover]").finetune.stages] == [
        "align",
        "recover",
    ]
    assert read("", "finetune=align", "finetune.stages.align.steps=3").finetune.stages[0].steps == 3
    assert read(GOOD, "finetune=") == read("")


def test_places_of_a_section_are_known_from_the_recipe_and_from_the_section():
    recipe = read(GOOD)
    assert recipe.origins.prefix(("finetune", "stages", 0, "epochs")) == "r.yaml:9:15: "
    assert recipe.finetune.origins.prefix(("stages", 0, "epochs")) == "r.yaml:9:15: "
    assert recipe.finetune.origins.prefix(()) == "r.yaml:6:3: "


def test_builtins_that_are_calibrated_say_how_to_go_on():
    trained = {name for name in builtins() if Recipe.load(name).finetune}
    assert trained == {
        "convnext-calibrated",
        "swin-calibrated",
        "vit-calibrated",
        "internimage-flash",
    }
