"""A stage may be the name of a preset, or what to change of one; errors stay at the user's line."""

from __future__ import annotations

import pytest

from dcnify.errors import InputError
from dcnify.recipe import Finetune, Recipe, Stage, builtins, resolved, stage_preset, stage_presets

SWAPS = """\
version: 1
name: mine
swaps:
  - {name: late, select: {role: attention}, replace: {with: dcnv4}}
"""


def stages(section: str, *overrides: str) -> tuple[Stage, ...]:
    return Recipe.from_yaml(f"{SWAPS}finetune:{section}", "r.yaml", overrides).finetune.stages


def error_of(section: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        stages(section, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ALIGN, RECOVER = stages(" [align, recover]")


@pytest.mark.parametrize("name", list(stage_presets()))
def test_every_preset_is_a_complete_stage_of_its_own_name_with_a_summary(name):
    preset = stage_preset(name)
    assert preset.data["name"] == name
    assert Stage.model_validate(preset.data).name == name
    assert preset.summary.endswith(".")
    assert preset.text.startswith(f"# {preset.summary}\n")
    assert "use" not in preset.data
    assert name not in builtins()


def test_align_trains_the_new_layers_alone_and_needs_no_labels():
    assert ALIGN.train == ("@swapped",)
    assert (ALIGN.losses.labels, ALIGN.losses.logits) == (0.0, 0.0)
    assert (ALIGN.losses.features, ALIGN.losses.layers) == (1.0, 1.0)
    assert ALIGN.augment == Stage.model_validate(ALIGN.model_dump() | {"augment": "none"}).augment


def test_recover_trains_everything_on_labels_and_on_the_original():
    assert RECOVER.train == ("all",)
    assert (RECOVER.losses.labels, RECOVER.losses.logits, RECOVER.losses.features) == (1, 1, 0.5)
    assert (RECOVER.schedule.name, RECOVER.ema) == ("cosine", 0.999)


@pytest.mark.parametrize(
    "section",
    [
        " [align]",
        " align",
        "\n  - align",
        " {stages: align}",
        " {stages: [align]}",
        " {stages: [{use: align}]}",
        "\n  stages:\n    - use: align\n      name: align",
    ],
)
def test_all_short_forms_of_a_preset_mean_the_same(section):
    assert stages(section) == (ALIGN,)


def test_short_forms_work_from_python_too():
    assert Finetune(stages=("align",)).stages == (ALIGN,)
    assert Finetune.model_validate(["align", {"use": "recover"}]).stages == (ALIGN, RECOVER)


def test_other_keys_replace_those_of_the_preset_and_mappings_are_merged():
    (stage,) = stages(" [{use: recover, name: mine, ema: null, optimizer: {lr: 2e-4}}]")
    assert (stage.name, stage.ema) == ("mine", None)
    assert stage.optimizer == RECOVER.optimizer.model_copy(update={"lr": 2e-4})
    assert stage.losses == RECOVER.losses
    (stage,) = stages(" [{use: align, augment: {hflip: 0.5}}]")
    assert (stage.augment.crop_scale, stage.augment.hflip) == ((1.0, 1.0), 0.5)
    (stage,) = stages(" [{use: recover, augment: none}]")
    assert stage.augment == ALIGN.augment


def test_a_length_replaces_the_length_of_the_preset():
    (stage,) = stages(" [{use: recover, steps: 500}]")
    assert (stage.steps, stage.epochs) == (500, None)
    (stage,) = stages(" [{use: recover, epochs: 0.5}]")
    assert (stage.steps, stage.epochs) == (None, 0.5)


def test_a_resolved_recipe_holds_no_preset():
    recipe = Recipe.from_yaml(f"{SWAPS}finetune: [align, {{use: recover, steps: 5}}]\n")
    written = resolved(recipe)["finetune"]
    assert list(written) == ["seed", "stages"]
    assert [stage["name"] for stage in written["stages"]] == ["align", "recover"]
    assert not any("use" in stage for stage in written["stages"])
    assert written["stages"][0]["augment"]["crop_scale"] == [1.0, 1.0]
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_yaml(recipe.to_yaml()).sha256 == recipe.sha256


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            " [aling]",
            "5:12: finetune.stages.0: no stage preset 'aling', did you mean 'align'? "
            "Built in: align, distil, recover",
        ),
        (
            "\n  - align\n  - use: zzz",
            "7:10: finetune.stages.1.use: no stage preset 'zzz'. Built in: align, distil, recover",
        ),
        (
            " [{use: 5}]",
            "5:18: finetune.stages.0.use: expected the name of a stage preset "
            "(align, distil, recover), got 5",
        ),
        (" [{us: align}]", "5:13: unknown key 'us', did you mean 'use'? (and 2 more)"),
        (
            "\n  - use: recover\n    optimizer: {lr: 0}",
            "7:21: finetune.stages.recover.optimizer.lr: a learning rate of 0 trains nothing",
        ),
        (
            "\n  - use: recover\n    optimizer: {lrr: 1}",
            "7:17: unknown key 'lrr', did you mean 'lr'?",
        ),
        (
            "\n  - use: recover\n    optimizer: 5",
            "7:16: finetune.stages.recover.optimizer: expected a mapping, got 5",
        ),
        (
            "\n  - align\n  - use: recover\n    steps: 3\n    epochs: 3",
            "8:12: finetune.stages.recover.steps: epochs are given too; a stage has one length",
        ),
        (
            "\n  - use: align\n    losses: {features: 0, layers: 0}",
            "7:13: finetune.stages.align.losses: every weight is 0, so there is nothing to learn; "
            "give labels, logits, features or layers one",
        ),
        (
            "\n  - align\n  - {use: align}",
            "7:5: finetune.stages.align.name: a second stage named 'align'; names must differ",
        ),
        (
            "\n  - align\n  - {use: recover, batch_size: 33, accumulate: 2}",
            "7:48: finetune.stages.recover.accumulate: 2 passes do not divide a batch of 33",
        ),
    ],
)
def test_errors_of_a_merge_point_at_the_line_of_the_user(section, message):
    assert error_of(section) == f"r.yaml:{message}"


def test_a_stage_from_a_preset_is_set_by_its_name():
    align, recover = stages(
        " [align, recover]",
        "finetune.stages.recover.optimizer.lr=1e-4",
        "finetune.stages.0.steps=10",
        "finetune.stages.align.augment.crop_scale.0=0.5",
    )
    assert (align.steps, align.epochs, align.augment.crop_scale) == (10, None, (0.5, 1.0))
    assert recover.optimizer.lr == 1e-4
    assert stages(" [align]") == (ALIGN,)  # the preset itself has not changed


def test_a_set_can_name_a_preset_and_then_change_it():
    (stage,) = stages(
        " [recover]",
        "finetune.stages.0={use: align, batch_size: 8}",
        "finetune.stages.align.accumulate=2",
    )
    assert (stage.name, stage.batch_size, stage.accumulate) == ("align", 8, 2)
    assert stages(" [aling]", "finetune.stages.0=align") == (ALIGN,)


def test_what_is_wrong_with_a_preset_that_a_set_names_is_told_of_the_set():
    assert error_of(" [align]", "finetune=[recovr]") == (
        "--set finetune=[recovr]: finetune.stages.0: no stage preset 'recovr', "
        "did you mean 'recover'? Built in: align, distil, recover"
    )


def test_an_unknown_preset_is_told_with_the_nearest():
    with pytest.raises(InputError, match=r"^no stage preset 'recver', did you mean 'recover'\?"):
        stage_preset("recver")
