"""Each loss against a plain computation in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dcnify import Example
from dcnify.finetune.training.objective import Objective
from dcnify.recipe.finetune.section import Losses


class Small(nn.Module):
    """Two layers that mix space; the second is given what the first makes."""

    num_classes = 5

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, images):
        return self.head(self.second(self.first(images).relu()).mean((2, 3)))


SITES = ("first", "second")


@pytest.fixture
def models():
    theirs = Small().double().eval()
    mine = copy.deepcopy(theirs)
    with torch.no_grad():
        for parameter in mine.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return mine, theirs


def taken(models, losses, **more):
    mine, theirs = models
    objective = Objective(mine, theirs, SITES, losses, nn.CrossEntropyLoss(), **more)
    images, labels = torch.randn(6, 3, 8, 8).double(), torch.arange(6) % 5
    return objective, images, labels, objective(images, labels)


def relative(given, wanted):
    given, wanted = given.detach(), wanted.detach()
    return ((given - wanted) ** 2).mean() / (wanted**2).mean()


class Conditioned(Small):
    def forward(self, *, step, pixel_values):
        return {"logits": super().forward(pixel_values + step[:, None, None, None])}


def test_both_models_are_called_as_the_example_says():
    theirs = Conditioned().double().eval()
    mine = copy.deepcopy(theirs)
    example = Example(
        kwargs={"step": torch.ones(1).double(), "pixel_values": torch.ones(1, 3, 8, 8)}
    )
    losses = Losses(labels=1.0, logits=1.0, features=1.0, layers=1.0)
    objective, images, labels, (_, terms) = taken((mine, theirs), losses, example=example)
    wanted = Small.forward(theirs, images + 1).detach()
    assert torch.equal(objective(images)["logits"], wanted)
    assert float(terms["labels"]) == pytest.approx(
        float(nn.functional.cross_entropy(wanted, labels))
    )
    assert [float(terms[name]) for name in ("logits", "features", "layers")] == [0, 0, 0]


def test_every_term_is_what_it_says(models):
    losses = Losses(labels=0.5, logits=0.25, temperature=3.0, features=2.0, layers=1.5)
    _, images, labels, (total, terms) = taken(models, losses)
    mine, theirs = models
    total = total.detach()
    given, wanted = mine(images).detach(), theirs(images).detach()
    expected = {"labels": -given.log_softmax(1)[range(6), labels].mean()}
    soft, hard = ((logits / 3).softmax(1) for logits in (given, wanted))
    expected["logits"] = 9 * (hard * (hard.log() - soft.log())).sum(1).mean()
    ours, original = mine.first(images), theirs.first(images)
    ours2, original2 = mine.second(ours.relu()), theirs.second(original.relu())
    expected["features"] = (relative(ours, original) + relative(ours2, original2)) / 2
    alone = mine.second(original.relu())
    expected["layers"] = (relative(ours, original) + relative(alone, original2)) / 2
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        # Divergences are taken in float32.
        assert float(terms[name]) == pytest.approx(float(value), rel=1e-4), name
    weighed = 0.5 * terms["labels"] + 0.25 * terms["logits"]
    weighed = weighed + 2 * terms["features"] + 1.5 * terms["layers"]
    assert float(total) == pytest.approx(float(weighed))


def test_an_output_that_is_no_logits_is_compared_by_its_square_error(models):
    models[1].num_classes = 7
    _, images, _, (_, terms) = taken(models, Losses(labels=0, logits=1))
    mine, theirs = models
    assert float(terms["logits"]) == pytest.approx(float(relative(mine(images), theirs(images))))


def test_the_original_gets_no_gradients_and_is_no_part_of_the_state(models):
    objective, _, _, (total, _) = taken(models, Losses(logits=1, features=1, layers=1))
    total.backward()
    assert all(one.grad is None for one in models[1].parameters())
    assert all(one.grad is not None for one in models[0].parameters())
    assert len(objective.state_dict()) == len(models[0].state_dict())


def test_layers_alone_teach_each_layer_by_itself(models):
    _, _, _, (total, _) = taken(models, Losses(labels=0, layers=1))
    total.backward()
    mine = models[0]
    assert mine.head.weight.grad is None
    assert mine.first.weight.grad.abs().sum() > 0


def test_hooks_go_when_it_is_released(models):
    objective, *_ = taken(models, Losses(features=1))
    assert any(layer._forward_hooks for model in models for layer in model.modules())
    objective.release()
    assert not any(layer._forward_hooks for model in models for layer in model.modules())


def test_errors_are_relative_to_what_all_processes_have(models):
    losses = Losses(labels=0, features=1, layers=1)
    objective, images, labels, (alone, _) = taken(models, losses)
    objective.release()
    shared = Objective(
        *models, SITES, losses, nn.CrossEntropyLoss(), mean_over_processes=lambda mean: 2 * mean
    )
    assert float(shared(images, labels)[0].detach()) == pytest.approx(float(alone.detach()) / 2)
