"""The ``finetune`` section: what it means, what is wrong with it, and that it reads back equal."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcnify.errors import InputError
from dcnify.recipe import Finetune, Recipe, builtins, resolved, to_yaml
from dcnify.recipe.training import SCHEDULES, USUAL_OPTIMIZERS

SWAPS = """\
version: 1
name: mine
swaps:
  - {name: late, select: {role: attention}, replace: {with: dcnv4}}
"""
GOOD = """\
finetune:
  seed: 3
  stages:
    - name: only
      epochs: 2
      optimizer: {lr: 1e-3}
"""


def read(section: str, *overrides: str) -> Recipe:
    return Recipe.from_yaml(SWAPS + section, "r.yaml", overrides)


def stage_of(more: str):
    return read(f"{GOOD}      {more}\n").finetune.stages[0]


def error_of(section: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        read(section, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
            "41: finetune.stages.only.optimizer.options.a-b: 'a-b' is no name of an argument",
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
            "(align, recover), got 5",
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


def test_without_the_section_nothing_about_it_is_written():
    assert "finetune" not in resolved(read(""))
    assert Recipe.load("vit").sha256 == (
        "1556b1ddb192711014d0f6977730f8add530a3bc78727a3143b35450fd4cacd9"
    )


def test_a_null_that_is_a_choice_is_written_and_one_that_is_not_is_left_out():
    text = GOOD.replace("lr: 1e-3", "lr: 1e-3, clip: null")
    written = resolved(read(text).finetune)["stages"][0]
    assert written["optimizer"]["clip"] is None
    assert not {"steps", "ema", "handover"} & written.keys()
    assert Recipe.from_yaml(read(text).to_yaml()) == read(text)


def test_the_digest_is_of_what_a_stage_means():
    same = GOOD.replace("{lr: 1e-3}", "{lr: 0.001, name: adamw}").replace("epochs: 2", "epochs: 2.")
    assert read(same).sha256 == read(GOOD).sha256
    assert read(GOOD, "finetune.seed=4").sha256 != read(GOOD).sha256
    swapped = [GOOD.replace("1e-3", f"1, options: {{{o}}}") for o in ("a: 1, b: 2", "b: 2, a: 1")]
    assert read(swapped[0]).sha256 == read(swapped[1]).sha256
    assert hash(read(swapped[0])) == hash(read(swapped[1]))


def test_places_of_a_section_are_known_from_the_recipe_and_from_the_section():
    recipe = read(GOOD)
    assert recipe.origins.prefix(("finetune", "stages", 0, "epochs")) == "r.yaml:9:15: "
    assert recipe.finetune.origins.prefix(("stages", 0, "epochs")) == "r.yaml:9:15: "
    assert recipe.finetune.origins.prefix(()) == "r.yaml:6:3: "


shares = st.floats(0, 1)
weights = st.floats(0, 1e6)
stages = st.fixed_dictionaries(
    {
        "optimizer": st.fixed_dictionaries(
            {"lr": st.floats(0, 10, exclude_min=True)},
            optional={
                "name": st.sampled_from(USUAL_OPTIMIZERS),
                "lr_scaling": st.sampled_from(["none", "sqrt", "linear"]),
                "offset_lr": weights,
                "layer_decay": st.none() | st.floats(0, 1, exclude_min=True),
                "clip": st.none() | st.floats(0, 10, exclude_min=True),
                "options": st.dictionaries(
                    st.sampled_from(["betas", "eps", "nesterov", "yes", "on"]),
                    st.booleans()
                    | st.integers(-(2**63) + 1, 2**63 - 1)
                    | st.floats(-1e300, 1e300)
                    | st.sampled_from(["no", "1e-3", "@x", "", "null"])
                    | st.lists(st.floats(0, 1), max_size=3),
                ),
            },
        )
    },
    optional={
        "train": st.lists(st.sampled_from(["all", "@swapped", "stages.*", "re:.*"]), min_size=1),
        "schedule": st.fixed_dictionaries(
            {}, optional={"name": st.sampled_from(SCHEDULES), "warmup": shares, "min_lr": shares}
        ),
        "losses": st.fixed_dictionaries({"labels": st.just(1)}, optional={"layers": weights}),
        "augment": st.just("none")
        | st.fixed_dictionaries(
            {}, optional={"hflip": shares, "mixup": weights, "color_jitter": st.none() | weights}
        ),
        "ema": st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
        "amp": st.sampled_from(["no", "fp16", "bf16"]),
        "compile": st.booleans(),
        "handover": st.none() | st.fixed_dictionaries({}, optional={"until": st.just(0.5)}),
    },
)
lengths = st.builds(lambda n: {"steps": n}, st.integers(1, 10**9)) | st.builds(
    lambda n: {"epochs": n}, st.floats(0, 1e6, exclude_min=True)
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.lists(st.tuples(stages, lengths), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_any_section_survives_the_round_trip(drawn, seed):
    listed = [{"name": f"s{i}", **stage, **length} for i, (stage, length) in enumerate(drawn)]
    finetune = Finetune.model_validate({"seed": seed, "stages": listed})
    recipe = Recipe.load("vit").model_copy(update={"finetune": finetune})
    again = Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe
    assert again.sha256 == recipe.sha256
    assert to_yaml(again.finetune) == to_yaml(finetune)


def test_builtins_that_are_calibrated_say_how_to_go_on():
    trained = {name for name in builtins() if Recipe.load(name).finetune}
    assert trained == {"convnext-calibrated", "vit-calibrated", "internimage-flash"}
