"""Which parameters a stage trains."""

from __future__ import annotations

import pytest
import timm
from torch import nn

from dcnify.errors import InputError
from dcnify.finetune.training.selection import heads_of, trained_by
from dcnify.nn import Handover


@pytest.fixture(scope="module")
def vit():
    return timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=10)


@pytest.fixture(scope="module")
def convnext():
    return timm.create_model("convnext_atto", depths=[1, 1, 1, 1], dims=[8, 8, 16, 16])


def test_all_is_all(vit):
    assert trained_by(vit, ["all"], []) == [name for name, _ in vit.named_parameters()]


def test_swapped_is_what_is_beneath_the_swapped_layers(vit):
    found = trained_by(vit, ["@swapped"], ["blocks.1.attn"])
    assert found
    assert all(name.startswith("blocks.1.attn.") for name in found)


@pytest.mark.parametrize(
    ("model", "head", "norms"),
    [
        ("vit", {"head.weight", "head.bias"}, 10),
        ("convnext", {"head.fc.weight", "head.fc.bias"}, 18),
    ],
)
def test_head_and_norms_of_timms_models(model, head, norms, request):
    model = request.getfixturevalue(model)
    assert set(trained_by(model, ["@head"], [])) == head
    found = trained_by(model, ["@norms"], [])
    assert len(found) == norms
    assert all(model.get_parameter(name).ndim == 1 for name in found)


def test_patterns_are_on_modules_and_parameters_and_add_up(vit):
    assert trained_by(vit, ["**.bias", "pos_embed"], [])[0] == "pos_embed"
    assert all(name.endswith(("bias", "pos_embed")) for name in trained_by(vit, ["**.bias"], []))
    assert trained_by(vit, ["blocks.0.mlp"], []) == [
        f"blocks.0.mlp.{name}" for name, _ in vit.blocks[0].mlp.named_parameters()
    ]
    assert trained_by(vit, [r"re:blocks\.1\.norm[12]\.weight"], []) == [
        "blocks.1.norm1.weight",
        "blocks.1.norm2.weight",
    ]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("blocks.0.atn", "did you mean 'blocks.0.attn'"),
        ("@swapped", "no layer was swapped"),
        ("blocks.7", "covers no parameter"),
    ],
)
def test_a_pattern_that_covers_nothing_is_refused(pattern, words, vit):
    with pytest.raises(InputError, match=words):
        trained_by(vit, ["all", pattern], [])


def test_a_model_without_a_head_says_so():
    model = nn.Sequential(nn.Linear(2, 2))
    assert heads_of(model) == ()
    with pytest.raises(InputError, match="the model names no classifier"):
        trained_by(model, ["@head"], [])


def test_a_tied_parameter_is_covered_by_any_of_its_names():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    assert trained_by(model, ["a"], []) == ["a.weight", "a.bias"]
    assert trained_by(model, ["all"], []) == ["a.weight", "a.bias", "b.bias"]
    assert trained_by(model, ["b"], []) == ["a.weight", "b.bias"]


def test_old_layers_that_hand_over_do_not_learn_but_for_what_the_new_ones_share():
    old, new = nn.Linear(2, 2), nn.Linear(2, 2)
    new.bias = old.bias
    model = nn.ModuleDict({"layer": Handover(old, new), "other": nn.Linear(2, 2)})
    found = trained_by(model, ["all"], ["layer"])
    assert "layer.old.weight" not in found
    assert {"layer.new.weight", "layer.old.bias", "other.weight"} <= set(found)
