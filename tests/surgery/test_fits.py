"""Checking recipes by the thousand: the same answers as planning, and nothing is built twice."""

from __future__ import annotations

import random

import pytest
import timm
import torch
from support.models import tiny_convnext
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dcnify.errors import DcnifyError, InputError
from dcnify.recipe import Recipe
from dcnify.roles.find import find
from dcnify.surgery import build, fits
from dcnify.surgery.fits import Fits, likeness
from dcnify.surgery.planner import plan_found

CHOICES = {
    "kernel_size": [1, 2, 3, [3, 5], 7, 61, 65],
    "group_channels": [1, 3, 8, 16],
    "dw_kernel_size": [None, 1, 3, 4],
    "softmax": [False, True],
    "remove_center": [False, True],
    "center_feature_scale": [False, True],
    "offset_rank": [None, 4],
    "offset_scale": [0.5, 1.0],
    "pointwise": [False, True],
}


@pytest.fixture(scope="module")
def convnext():
    return find(tiny_convnext(), torch.randn(1, 3, 32, 32))


@pytest.fixture(scope="module")
def vit():
    model = timm.create_model("test_vit", img_size=64)
    return find(model, torch.randn(1, 3, 64, 64))


@pytest.fixture
def built(monkeypatch):
    """Modules that are built."""
    seen = []
    real = fits.build_at
    monkeypatch.setattr(fits, "build_at", lambda *given: seen.append(given[0]) or real(*given))
    return seen


def answer(check):
    """What a check says, empty if it has nothing against it."""
    try:
        check()
    except DcnifyError as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "base"), [("convnext", "convnext"), ("vit", "vit")])
def test_what_is_said_of_a_recipe_is_what_planning_says(name, base, request):
    found = request.getfixturevalue(name)
    swap, drawn, said = Recipe.load(base).swaps[0].name, random.Random(0), []
    checked = Fits(found)
    for _ in range(60):
        values = {key: drawn.choice(values) for key, values in CHOICES.items()}
        changes = [f"swaps.{swap}.replace.{key}={value}" for key, value in values.items()]
        try:
            recipe = Recipe.load(base, [one.replace("None", "null") for one in changes])
        except InputError:
            continue
        said.append(answer(lambda recipe=recipe: checked.check(recipe)))
        assert said[-1] == answer(lambda recipe=recipe: plan_found(found.model, recipe, found))
    assert said.count("") > 5
    assert len(set(said)) > 2


def test_layers_of_one_kind_are_built_once_and_equal_recipes_not_again(convnext, built):
    checked = Fits(convnext)
    recipe = Recipe.load("convnext")
    checked.check(recipe)
    kinds = {(site.channels, site.input_shape) for site in convnext.sites}
    assert len(built) == len(kinds) < len(convnext.sites)
    checked.check(Recipe.load("convnext", ["swaps.dw7.init=fit", "finetune=[recover]"]))
    assert len(built) == len(kinds)
    checked.check(Recipe.load("convnext", ["swaps.dw7.replace.offset_scale=2.0"]))
    assert len(built) == 2 * len(kinds)


def test_a_module_that_may_keep_the_old_layer_is_not_given_the_live_one(vit, monkeypatch):
    given = []
    real = fits.build_at
    monkeypatch.setattr(fits, "build_at", lambda *all: given.append(all[-1]) or real(*all))
    Fits(vit).check(Recipe.load("vit"))
    assert given
    assert all(weight.is_meta for layer in given for weight in layer.parameters())


def test_layers_are_alike_whatever_their_weights_but_not_whatever_their_settings():
    def layer(**settings):
        return nn.Sequential(nn.Conv2d(4, 4, **{"kernel_size": 3, "bias": False, **settings}))

    assert likeness(layer()) == likeness(layer())
    assert likeness(layer()) != likeness(layer(bias=True))
    assert likeness(layer()) != likeness(layer(padding=1))
    wide, narrow = layer(), layer()
    wide.scale, narrow.scale = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(1))
    assert likeness(wide) != likeness(narrow)
    own, other = layer(), layer()
    own.hook, other.hook = lambda: 1, lambda: 1
    assert likeness(own) != likeness(other), "what cannot be compared is not taken for equal"


class Called(TorchDispatchMode):
    """The operators that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_weights_without_memory_are_not_filled(convnext):
    spec = plan_found(convnext.model, Recipe.load("convnext"), convnext).swaps[0].module
    with Called() as called:
        module = build.build(spec)
    assert all(one.is_meta for one in module.parameters())
    assert "empty" in called.names
    assert not {"uniform_", "normal_", "zero_", "fill_"} & set(called.names)
