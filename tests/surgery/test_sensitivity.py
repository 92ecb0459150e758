"""Places that the output is not read from do not count in a fit."""

import pytest
import torch
from support.models import tiny_vit

from dcnify.graph.example import Example
from dcnify.surgery.calibrate.sensitivity import sensitivities

EXAMPLES = [Example.of(torch.randn(n, 3, 32, 32)) for n in (2, 3)]
LAST = "blocks.1.mlp.fc2"


def test_behind_the_last_attention_only_the_token_that_is_read_counts():
    found = sensitivities(tiny_vit(), EXAMPLES, [LAST, "blocks.0.mlp.fc2"])
    assert [one.shape for one in found[LAST]] == [(2, 17), (3, 17)]
    for one in found[LAST]:
        assert torch.equal(one[:, 1:], torch.zeros_like(one[:, 1:]))
        assert torch.allclose(one[:, 0], torch.tensor(17.0))
    assert all((one > 0).all() for one in found["blocks.0.mlp.fc2"])


def test_where_all_places_are_averaged_all_count_also_of_a_convolution():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 4, 4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    (weights,) = sensitivities(model.requires_grad_(False), EXAMPLES[:1], ["0"])["0"]
    assert torch.allclose(weights, torch.ones(2, 64))
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.parametrize("failing", [RuntimeError, TypeError])
def test_a_model_without_gradients_has_no_weights(failing):
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, *gradients):
            raise failing("no gradient here")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = torch.nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return Opaque.apply(self.mix(x)).mean((2, 3))

    assert sensitivities(Model(), EXAMPLES, ["mix"]) == {}
