"""The ``finetune`` section: what is wrong with it is pointed at."""

from __future__ import annotations

import pytest
from support.finetune_section_cases import GOOD, error_of, read


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("steps: 4", "11:14: finetune.stages.only.steps: epochs are given too; a stage has one"),
        ("steps: 1.5", "11:14: finetune.stages.only.steps: expected an integer, got 1.5"),
        (
            "accumulate: 3",
            "11:19: finetune.stages.only.accumulate: 3 passes do not divide a batch of 64",
        ),
        ("batch_size: 0", "11:19: finetune.stages.only.batch_size: expected 1 or more, got 0"),
        (
            "losses: {labels: 0}",
            "11:15: finetune.stages.only.losses: every weight is 0, so there is nothing to learn",
        ),
        (
            "losses: {logits: -1}",
            "11:24: finetune.stages.only.losses.logits: expected 0 or more, got -1",
        ),
        (
            "losses: {labels: .inf}",
            "11:24: finetune.stages.only.losses.labels: expected a finite number, got inf",
        ),
        (
            "losses: {temperature: 0}",
            "11:29: finetune.stages.only.losses.temperature: expected more than 0, got 0",
        ),
        (
            "handover: {until: 0}",
            "11:25: finetune.stages.only.handover.until: expected more than 0, got 0",
        ),
        ("handover: true", "11:17: finetune.stages.only.handover: expected a mapping, got true"),
        (
            "augment: {crop_scale: [1.0, 0.5]}",
            "11:29: finetune.stages.only.augment.crop_scale: expected [smallest, largest] shares "
            "of the image, above 0 and up to 1, got [1.0, 0.5]",
        ),
        (
            "augment: {crop_scale: [0.5, 1.5]}",
            "11:29: finetune.stages.only.augment.crop_scale: expected [smallest, largest] shares",
        ),
        (
            "augment: {crop_ratio: [1, .nan]}",
            "11:29: finetune.stages.only.augment.crop_ratio: expected [smallest, largest] ratios",
        ),
        (
            f"augment: {{crop_ratio: [1, 0x{'f' * 290}]}}",
            "11:29: finetune.stages.only.augment.crop_ratio: expected [smallest, largest] ratios",
        ),
        (
            "augment: {auto: rnd-m9}",
            "11:23: finetune.stages.only.augment.auto: expected a policy of timm such as "
            "'rand-m9-mstd0.5-inc1', 'augmix-m5-w4-d2' or '3a', got 'rnd-m9'",
        ),
        ("augment: nothing", "11:16: finetune.stages.only.augment: expected none or a mapping"),
        (
            "train: []",
            "11:14: finetune.stages.only.train: expected at least one item, got an empty list",
        ),
        (
            "train: '@swaped'",
            "11:14: finetune.stages.only.train: unknown group '@swaped', did you mean '@swapped'?",
        ),
        (
            "train: ['@x']",
            "11:15: finetune.stages.only.train.0: unknown group '@x'; "
            "there is @swapped, @norms, @head",
        ),
        ("train: @swapped", "11:14: text that begins with '@' goes in quotes, such as"),
        ("train: a..b", "11:14: finetune.stages.only.train: pattern 'a..b' has an empty component"),
        (
            "schedule: {name: plateau}",
            "11:24: finetune.stages.only.schedule.name: plateau follows a measure of the model",
        ),
        (
            "schedule: {name: cosin}",
            "11:24: finetune.stages.only.schedule.name: expected 'cosine', 'tanh', 'step', "
            "'multistep', 'poly' or 'none', got 'cosin', did you mean 'cosine'?",
        ),
        (
            "schedule: {warmup: 5}",
            "11:26: finetune.stages.only.schedule.warmup: expected 1 or less, got 5",
        ),
        ("ema: 1", "11:12: finetune.stages.only.ema: expected less than 1, got 1"),
        (
            "amp: fp32",
            "11:12: finetune.stages.only.amp: expected 'no', 'fp16' or 'bf16', got 'fp32'",
        ),
        (
            "drop_path: 0.1",
            "11:7: unknown key 'drop_path'; the keys of finetune.stages.only are use, name, train,",
        ),
        (
            "seed: 1",
            "11:7: unknown key 'seed' in finetune.stages.only; it belongs under 'finetune'",
        ),
    ],
)
def test_what_is_wrong_with_a_stage_is_pointed_at(more, message):
    assert error_of(f"{GOOD}      {more}\n").startswith(f"r.yaml:{message}")


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("lr: 0", "23: finetune.stages.only.optimizer.lr: a learning rate of 0 trains nothing"),
        ("lr: -1", "23: finetune.stages.only.optimizer.lr: expected more than 0, got -1.0"),
        ("lr: .nan", "23: finetune.stages.only.optimizer.lr: expected a finite number, got nan"),
        ("name: sgd", "18: missing key 'lr' in finetune.stages.only.optimizer"),
        (
            "lr: 1, name: adamW",
            "32: finetune.stages.only.optimizer.name: timm has no optimizer 'adamW', "
            "did you mean 'adamw'?",
        ),
        (
            "lr: 1, name: zzzzz",
            "32: finetune.stages.only.optimizer.name: timm has no optimizer 'zzzzz'. Usual: adamw",
        ),
        (
            "lr: 1, layer_decay: 0",
            "39: finetune.stages.only.optimizer.layer_decay: expected more than 0, got 0",
        ),
        ("lr: 1, clip: 0", "32: finetune.stages.only.optimizer.clip: expected more than 0, got 0"),
        (
            "lr: 1, options: [1]",
            "35: finetune.stages.only.optimizer.options: expected a mapping such as "
            "{betas: [0.9, 0.95]}, got [1]",
        ),
        (
            "lr: 1, options: {weight_decay: 0}",
            "50: finetune.stages.only.optimizer.options.weight_decay: "
            "give it as optimizer.weight_decay",
        ),
        (
            "lr: 1, options: {a: {b: 1}}",
            "39: finetune.stages.only.optimizer.options.a: expected a value or a list of values, "
            "got a mapping",
        ),
        (
            "lr: 1, options: {a: [.inf]}",
            "39: finetune.stages.only.optimizer.options.a: expected a value or a list of values",
        ),
        (
            f"lr: 1, options: {{a: {2**63}}}",
            "39: finetune.stages.only.optimizer.options.a: expected a value or a list of values",
        ),
        (
            "lr: 1, options: {a-b: 1}",
            "41: finetune.stages.only.optimizer.options.a-b: 'a-b' is not the name of an argument",
        ),
    ],
)
def test_what_is_wrong_with_an_optimizer_is_pointed_at(optimizer, message):
    text = GOOD.replace("lr: 1e-3", optimizer)
    assert error_of(text).startswith(f"r.yaml:10:{message}")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "finetune: 5\n",
            "5:11: finetune: expected a list of stages, such as [align, recover], "
            "or a mapping, got 5",
        ),
        ("finetune: []\n", "5:11: finetune.stages: expected at least one item, got an empty list"),
        ("finetune: {seed: 1}\n", "5:11: missing key 'stages' in finetune"),
        (
            "finetune: {stages: {a: 1}}\n",
            "5:20: finetune.stages: expected a list of stages, such as [align, recover], "
            "got a mapping",
        ),
        (
            "finetune: [5]\n",
            "5:12: finetune.stages.0: expected a mapping or the name of a stage preset "
            "(align, distil, recover), got 5",
        ),
        (
            GOOD.replace("      epochs: 2\n", ""),
            "8:7: finetune.stages.only: missing key 'epochs' or 'steps', the length of the stage",
        ),
        (
            GOOD + "    - {name: only, steps: 3, optimizer: {lr: 1}}\n",
            "11:14: finetune.stages.only.name: a second stage named 'only'; names must differ",
        ),
        (
            GOOD.replace("seed: 3", "seed: -3"),
            "6:9: finetune.seed: expected 0 or more, got -3",
        ),
        (
            GOOD.replace("seed: 3", "seed: 4294967296"),
            "6:9: finetune.seed: expected 4294967295 or less, got 4294967296",
        ),
    ],
)
def test_what_is_wrong_with_the_section_is_pointed_at(section, message):
    assert error_of(section) == f"r.yaml:{message}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("finetune.stages.onl.steps=1", "no stage named 'onl', did you mean 'only'?"),
        ("finetune.stages.4.steps=1", "no item '4'; finetune.stages has items 0 to 0"),
        ("finetune.stages.only.steps=0", "expected 1 or more, got 0"),
        ("finetune.stages.only.augment.crop_scale=2", "expected [smallest, largest] shares"),
        ("finetune.stages.only.optimzer.lr=1", "unknown key 'optimzer', did you mean 'optimizer'?"),
        ("finetune.stages.only.train=@norms", "text that begins with '@' goes in quotes"),
    ],
)
def test_what_is_wrong_with_an_override_of_a_stage_names_the_override(override, words):
    assert error_of(GOOD, override).startswith(f"--set {override}: {words}")


def test_a_stage_of_a_recipe_that_has_none_cannot_be_set():
    assert error_of("", "finetune.stages.align.steps=3") == (
        "--set finetune.stages.align.steps=3: there is no stage yet; give a whole list, "
        "such as --set finetune.stages=[align, recover]"
    )
    assert len(read("", "finetune.stages=[align, recover]").finetune.stages) == 2
