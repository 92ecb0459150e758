"""`load_finetune`: stages by name, recipes and files, for training without a recipe at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcnify.errors import InputError
from dcnify.recipe import Recipe, builtin, load_finetune, stage_preset

RECIPE = builtin("vit").text + "finetune: [align, {use: recover, steps: 7}]\n"
LINES = RECIPE.count("\n")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(name: object, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_finetune(name, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_presets_by_name_alone_with_commas_and_as_a_list():
    assert [s.name for s in load_finetune("align").stages] == ["align"]
    assert [s.name for s in load_finetune("align, recover").stages] == ["align", "recover"]
    assert load_finetune(["align", "recover"]) == load_finetune("align,recover")
    assert load_finetune(["align"]) == load_finetune("align")


def test_a_builtin_recipe_gives_its_section():
    assert load_finetune("vit-calibrated") == Recipe.load("vit-calibrated").finetune
    assert load_finetune(["vit-calibrated"]) == Recipe.load("vit-calibrated").finetune


def test_a_file_is_a_recipe_a_section_or_a_stage(here):
    Path("recipe.yaml").write_text(RECIPE)
    Path("section.yaml").write_text("stages: [align, {use: recover, steps: 7}]\n")
    Path("stage.yaml").write_text(stage_preset("align").text)
    Path("used.yaml").write_text("use: align\n")
    assert load_finetune("recipe.yaml") == load_finetune(Path("section.yaml"))
    assert load_finetune("section.yaml").stages[1].steps == 7
    assert load_finetune("stage.yaml") == load_finetune("used.yaml") == load_finetune("align")


def test_a_preset_is_not_captured_by_a_file_of_that_name(here):
    Path("align").write_text("stages: [recover]\n")
    assert load_finetune("align").stages[0].name == "align"
    assert load_finetune("./align").stages[0].name == "recover"


def test_a_file_without_suffix_loads_by_its_bare_name(here):
    Path("mine").write_text("stages: [recover]\n")
    assert load_finetune("mine") == load_finetune("recover")


def test_overrides_may_begin_with_finetune_or_not(here):
    Path("section.yaml").write_text("stages: [align]\n")
    for name in ("align", "section.yaml"):
        for prefix in ("finetune.", ""):
            changed = load_finetune(name, [f"{prefix}stages.align.optimizer.lr=0.5"])
            assert changed.stages[0].optimizer.lr == 0.5
    assert load_finetune("vit-calibrated", ["finetune.stages.0.steps=3"]).stages[0].steps == 3
    assert load_finetune("vit", ["finetune=[align]"]) == load_finetune("align")


def test_what_is_not_found_names_the_nearest_stage_or_recipe():
    message = error_of("recovr")
    assert message.startswith(
        "no stage or recipe 'recovr', did you mean 'recover'? Stages: align, distil, recover; "
        "recipes: convnext, convnext-calibrated, "
    )
    assert message.endswith("; a file needs its path, such as ./recovr.yaml")
    assert error_of("align,zz") == "no stage preset 'zz'. Built in: align, distil, recover"
    assert error_of("align,vit") == "no stage preset 'vit'. Built in: align, distil, recover"
    assert error_of([]) == "no stages given; built in: align, distil, recover"
    assert error_of("no.yaml") == "no.yaml: no such file"
    assert error_of("").startswith("no stage or recipe ''. Stages: ")


def test_a_recipe_without_the_section_says_how_to_add_one():
    assert error_of("vit") == (
        "vit.yaml (built-in): the recipe 'vit' has no fine-tuning; give it some, such as "
        "'finetune: [align, recover]'"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stags: [align]\n", "1:1: unknown key 'stags', did you mean 'stages'?"),
        ("seed: 1\n", "1:1: missing key 'stages'"),
        ("stages:\n  - {use: align, steps: 0}\n", "2:25: stages.align.steps: expected 1 or more"),
        ("use: align\nsteps: 0\n", "2:8: stages.align.steps: expected 1 or more, got 0"),
        ("use: align\nstps: 4\n", "2:1: unknown key 'stps', did you mean 'steps'?"),
        ("foo: 1\n", "1:1: unknown key 'foo'; the keys of a fine-tuning section are seed, stages"),
        (
            RECIPE.replace("steps: 7", "steps: 0"),
            f"{LINES}:41: finetune.stages.recover.steps: expected",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_pointed_at(here, text, message):
    Path("f.yaml").write_text(text)
    assert error_of("f.yaml").startswith(f"f.yaml:{message}")


def test_what_is_wrong_with_names_and_overrides_is_told_of_them():
    assert error_of("align,align") == (
        "align,align: stages.align.name: a second stage named 'align'; names must differ"
    )
    assert error_of("align", "stages.align.optimizer.lr=0") == (
        "--set stages.align.optimizer.lr=0: a learning rate of 0 trains nothing"
    )
    assert error_of("align", "optimizer.lr=1").startswith(
        "--set optimizer.lr=1: unknown key 'optimizer'; the keys are seed, stages"
    )


def test_places_are_known(here):
    Path("section.yaml").write_text("stages:\n  - use: align\n    train: ['@norms']\n")
    origins = load_finetune("section.yaml").origins
    assert origins.prefix(("stages", 0, "train", 0)) == "section.yaml:3:13: "
    assert origins.prefix(("stages", 0, "losses")) == "section.yaml:2:5: "
    Path("recipe.yaml").write_text(RECIPE)
    assert load_finetune("recipe.yaml").origins.prefix(("stages", 0)) == f"recipe.yaml:{LINES}:12: "


def test_a_stage_is_no_recipe():
    with pytest.raises(InputError, match=r"^'align' is a stage, not a recipe; a recipe has it as "):
        Recipe.load("align")
