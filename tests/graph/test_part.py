"""A part of a model is looked at alone where the model cannot be captured."""

from __future__ import annotations

import pytest
import torch
from support import models
from support.detectors import Counting, detector, example_inputs
from torch import nn

import dcnify
from dcnify.graph.example import Example
from dcnify.graph.part import call_of_part, example_for

LIST = example_inputs()[0]
BATCH = torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize("given", [(LIST,), LIST, {"images": LIST}, {"images": tuple(LIST)}])
def test_a_list_of_images_is_the_call_of_the_part_that_is_given_them_as_a_batch(given):
    example = example_for(detector(), given)
    assert (example.part, example.shape) == ("backbone", (2, 3, 32, 32))
    wanted = detector().transform(LIST)
    assert torch.equal(example.images, wanted)


def test_sites_of_a_part_go_by_their_paths_in_the_model():
    model = detector()
    assert [site.path for site in dcnify.find_sites(model, (LIST,))] == ["backbone.mix"]
    given = Example((BATCH,), part="backbone")
    assert [site.path for site in dcnify.find_sites(model, given)] == ["backbone.mix"]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (detector(), "its code depends on the values of a tensor"),
        (Counting(), "the size of a tensor depends on the values of another"),
    ],
)
def test_a_model_that_is_given_a_batch_and_cannot_be_captured_names_its_part(model, why):
    with pytest.raises(dcnify.InputError, match=f"{why}.*--part backbone") as caught:
        dcnify.find_sites(model, BATCH)
    assert "\n" not in str(caught.value)


def test_neither_a_stem_nor_what_has_no_weights_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.transform = nn.Identity()
            self.stem = nn.Conv2d(3, 4, 1)
            self.rest = nn.Conv2d(4, 64, 3)

        def forward(self, x):
            x = self.stem(self.transform(x))
            return self.rest(x) if x.mean() > 0 else x

    with pytest.raises(dcnify.InputError, match="values of a tensor") as caught:
        dcnify.find_sites(Net(), BATCH)
    assert "--part" not in str(caught.value)


def test_the_call_of_a_part_is_taken_from_a_call_of_the_model():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = detector().backbone

        def forward(self, x):
            return self.net(2 * x, scale=3.0)

    found = call_of_part(Outer(), Example((BATCH,)), "net")
    assert torch.equal(found.images, 2 * BATCH)
    assert (found.part, found.kwargs) == ("net", {"scale": 3.0})


def test_a_part_of_a_part_is_seen_in_the_call_of_the_outer_one():
    model = detector()
    outer = example_for(model, (LIST,))
    found = call_of_part(model, outer, "backbone.stem")
    assert found.part == "backbone.stem"
    assert torch.equal(found.images, outer.images)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("bakbone", "no part 'bakbone', did you mean 'backbone'?"),
        ("backbone.reduce.weight", "no part 'backbone.reduce.weight'"),
        ("backbone.unused", "backbone.unused is not called with one batch of images"),
    ],
)
def test_a_part_that_cannot_be_looked_at_is_refused(part, words):
    model = detector()
    model.backbone.unused = nn.Conv2d(3, 3, 1)
    with pytest.raises(dcnify.InputError, match=words.replace("?", r"\?")):
        call_of_part(model, Example((BATCH,)), part)


def test_a_list_of_images_for_a_model_without_such_a_part_is_refused():
    class First(nn.Module):
        def forward(self, images):
            return images[0].mean((1, 2))

    with pytest.raises(dcnify.InputError, match="no module of the model is given a batch"):
        example_for(First(), (LIST,))
    with pytest.raises(dcnify.InputError, match="does not run on the example: "):
        example_for(nn.Flatten(), (LIST,))


class Shared(nn.Module):
    """Calls a layer of its backbone by itself, which a capture of the backbone does not see."""

    def __init__(self, first: bool):
        super().__init__()
        self.backbone, self.first = detector().backbone, first

    def forward(self, images):
        batch = torch.stack([one[:, :16, :16] for one in images])
        alone = self.backbone.stem(batch) if self.first else 0
        seen = self.backbone(batch)["fine"]
        return seen + (alone if self.first else self.backbone.mix(seen))


@pytest.mark.parametrize(("first", "name"), [(True, "stem"), (False, "mix")])
def test_a_part_of_which_a_layer_is_called_elsewhere_is_refused(first, name):
    with pytest.raises(dcnify.InputError, match=f"backbone.{name} is also called outside") as told:
        dcnify.find_sites(Shared(first), (LIST,))
    assert "\n" not in str(told.value)
    whole = Example((torch.stack([one[:, :16, :16] for one in LIST]),))
    with pytest.raises(dcnify.InputError, match=f"backbone.{name} is also called outside"):
        call_of_part(Shared(first), whole, "backbone")


def test_a_part_that_refuses_the_images_itself_is_no_way_out():
    model = models.tiny_vit(embed_dim=48, depth=1)
    with pytest.raises(dcnify.InputError) as refused:
        dcnify.find_sites(model, torch.randn(1, 3, 40, 40))
    assert "--part" not in str(refused.value)
