"""The JSON Schema accepts what the loader accepts, refuses what it can, and explains each key."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcnify.errors import InputError
from dcnify.recipe import Recipe, builtins, resolved, schema, stage_presets
from dcnify.recipe.json_schema import DIALECT
from dcnify.recipe.reading.document import read_document

VALIDATOR = jsonschema.Draft202012Validator(schema())


def data_of(text: str) -> dict:
    return read_document(text, "recipe.yaml")[0]


def with_value(path: list[str | int], value: object) -> dict:
    data = data_of(builtins()["convnext-late"].text)
    if path[0] == "finetune" and len(path) > 1:
        data["finetune"] = {"stages": [{"use": "recover"}, data_of(stage_presets()["align"].text)]}
    here = data
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    return data


def test_the_schema_is_itself_valid_and_names_its_dialect():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == DIALECT == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    assert json.loads(json.dumps(schema())) == schema()


@pytest.mark.parametrize("name", list(builtins()))
def test_every_builtin_passes_as_written_and_resolved(name):
    VALIDATOR.validate(data_of(builtins()[name].text))
    VALIDATOR.validate(resolved(Recipe.load(name)))


def test_every_key_has_a_title_and_a_description():
    body = schema()
    parts = [body, *body["$defs"].values()]
    assert len(parts) == 20
    for part in parts:
        assert part["description"]
        for key, field in part["properties"].items():
            assert field.get("description"), key


SWAP = ["swaps", 0]
USED = ["finetune", "stages", 0]
STAGE = ["finetune", "stages", 1]
SHORTHANDS = [
    ([*SWAP, "replace", "kernel_size"], 5),
    ([*SWAP, "replace", "kernel_size"], [3, 5]),
    ([*SWAP, "replace", "dw_kernel_size"], None),
    ([*SWAP, "replace", "dw_kernel_size"], 5),
    ([*SWAP, "replace", "offset_rank"], None),
    ([*SWAP, "replace", "offset_rank"], 32),
    ([*SWAP, "replace", "offset_scale"], 2),
    ([*SWAP, "exclude"], "stages.2"),
    ([*SWAP, "exclude"], []),
    ([*SWAP, "select", "modules"], "stages.2"),
    ([*SWAP, "select", "modules"], ["a", "re:b"]),
    ([*SWAP, "select", "stages"], 2),
    ([*SWAP, "select", "where"], {"kernel": [7, 7], "channels": {"min": 96}, "grid": {"max": 28}}),
    ([*SWAP, "select", "where"], {"stride": None}),
    ([*SWAP, "init"], "paper"),
    ([*SWAP, "init"], {"method": "paper"}),
    ([*SWAP, "init"], ["paper", {"method": "transfer"}]),
    ([*SWAP, "require"], {"sqnr_db": -1}),
    ([*SWAP, "expect"], {"max": 3}),
    (["input"], [3, 64, 64]),
    (["finetune"], None),
    (["finetune"], "recover"),
    (["finetune"], ["align", "recover"]),
    (["finetune"], ["align", {"use": "align", "name": "again", "optimizer": {"clip": None}}]),
    (["finetune"], {"seed": 3, "stages": "align"}),
    (USED, "recover"),
    (USED, {"use": "recover", "steps": 3, "optimizer": {"offset_lr": 1}, "losses": {"layers": 1}}),
    ([*USED, "augment"], "none"),
    ([*STAGE, "augment"], {"crop_scale": [0.5, 1], "auto": "rand-m9-mstd0.5-inc1"}),
    ([*STAGE, "train"], "@norms"),
    ([*STAGE, "train"], ["head", "re:.*bias"]),
    ([*STAGE, "epochs"], 0.5),
    ([*STAGE, "handover"], {}),
    ([*STAGE, "optimizer", "options"], {"betas": [0.9, 0.95], "nesterov": True}),
]
WRONG = [
    ([*SWAP, "replace", "kernel_size"], "three"),
    ([*SWAP, "replace", "kernel_size"], [3]),
    ([*SWAP, "replace", "kernel_size"], 0),
    ([*SWAP, "replace", "kernal_size"], 3),
    ([*SWAP, "replace", "dw_kernel_size"], 4),
    ([*SWAP, "replace", "offset_rank"], 0),
    ([*SWAP, "replace", "offset_scale"], 0),
    ([*SWAP, "replace", "with"], "dcnv5"),
    ([*SWAP, "replace", "prefix"], "keep"),
    ([*SWAP, "exclude"], [""]),
    ([*SWAP, "select", "role"], "convs"),
    ([*SWAP, "select", "stages"], []),
    ([*SWAP, "select", "stages"], [-1]),
    ([*SWAP, "select", "where"], {"kernal": 7}),
    ([*SWAP, "select", "where"], {"heads": [3, 3]}),
    ([*SWAP, "select", "where"], {"heads": {"mim": 3}}),
    ([*SWAP, "init"], "guess"),
    ([*SWAP, "init"], []),
    ([*SWAP, "require"], {"on_violation": "fail"}),
    ([*SWAP, "require"], {"sqnr_db": 3, "on_violation": "shout"}),
    ([*SWAP, "name"], "two words"),
    (["swaps"], []),
    (["version"], 2),
    (["input"], [3, 224]),
    (["finetune"], {}),
    (["finetune"], []),
    (["finetune"], "aling"),
    (["finetune"], ["aling"]),
    (["finetune"], [5]),
    (USED, {"use": "recovr"}),
    (USED, {"use": "recover", "optimizer": {"lrr": 1}}),
    ([*USED, "steps"], 0),
    ([*STAGE, "optimizer"], {"name": "sgd"}),
    ([*STAGE, "optimizer", "lr"], 0),
    ([*STAGE, "optimizer", "options"], {"betas": {}}),
    ([*STAGE, "optimizer", "layer_decay"], 1.5),
    ([*STAGE, "schedule"], {"name": "plateau"}),
    ([*STAGE, "losses"], {"temperature": 0}),
    ([*STAGE, "augment"], "some"),
    ([*STAGE, "augment"], {"crop_scale": [0.5, 2]}),
    ([*STAGE, "handover"], {"until": 0}),
    ([*STAGE, "train"], []),
    ([*STAGE, "ema"], 1),
    ([*STAGE, "amp"], "fp32"),
]


@pytest.mark.parametrize(("path", "value"), SHORTHANDS)
def test_every_short_form_that_loads_also_passes(path, value):
    data = with_value(path, value)
    Recipe.from_yaml(json.dumps(data))
    VALIDATOR.validate(data)


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_what_the_loader_refuses_the_schema_refuses(path, value):
    data = with_value(path, value)
    with pytest.raises(InputError):
        Recipe.from_yaml(json.dumps(data))
    assert not VALIDATOR.is_valid(data)


SHAPE_KEYS = ["min", "max", "method", "kernel", "heads", "use", "steps", "epochs", "lr", "stages"]
small = st.integers(-1, 4) | st.sampled_from(
    [None, True, 1.5, "a.b", "paper", "re:x", "", {}, "align", "none", {"use": "recover"}]
)
shapes = st.recursive(
    small,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(SHAPE_KEYS), inner),
    max_leaves=4,
)


@pytest.mark.slow
@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.sampled_from([path for path, _ in SHORTHANDS + WRONG]), shapes)
def test_no_recipe_that_loads_is_marked_as_wrong_by_an_editor(path, value):
    data = with_value(path, value)
    try:
        Recipe.from_yaml(json.dumps(data))
    except InputError:
        return
    VALIDATOR.validate(data)
