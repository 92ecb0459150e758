"""The ``finetune`` section: what is written of it, and that it reads back equal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.finetune_section_cases import GOOD, read

from dcnify.recipe import Finetune, Recipe, resolved, to_yaml
from dcnify.recipe.finetune.training import SCHEDULES, USUAL_OPTIMIZERS


def test_without_the_section_nothing_about_it_is_written():
    assert "finetune" not in resolved(read(""))
    assert Recipe.load("vit").model_copy(update={"require": None}).sha256 == (
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


@pytest.mark.slow
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
