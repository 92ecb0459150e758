"""What an attention is called with besides masks: keywords, other tensors, keys from elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from support.called_attention import IMAGE, TOKENS, Attention, Net, convert
from support.models import recipe
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.graph import find_sites


def test_a_tensor_that_the_old_layer_was_not_given_is_refused():
    class Modulated(Attention):
        def forward(self, x, modulation=None):
            return super().forward(x if modulation is None else x * modulation)

    model = Net(keyword=False)
    model.attn = Modulated()
    convert(model)
    with pytest.raises(InputError, match="modulation"):
        model.attn(torch.randn(1, 16, 16), torch.randn(1, 1, 16))


def test_the_tokens_are_taken_by_their_name_whatever_the_order_of_keywords():
    model = Net()
    convert(model)
    layer, x = model.attn, torch.randn(1, 16, 16)
    mask = torch.zeros(1, 1, 16, 16)
    assert torch.equal(layer(attention_mask=mask, hidden_states=x), layer(x))


@pytest.mark.parametrize("keywords", [True, False])
def test_tokens_behind_a_position_embedding_of_their_shape_are_told_apart(keywords):
    class Placed(Attention):
        def forward(self, place, x):
            return super().forward(x + place)

    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.attn = nn.Conv2d(3, 16, 8, 8), Placed()
            self.place = nn.Parameter(torch.randn(1, TOKENS, 16))

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            y = self.attn(place=self.place, x=x) if keywords else self.attn(self.place, x)
            return (x + y).mean(1)

    model, image = Places().eval(), IMAGE[:1]
    dcnify.convert(model, recipe("attention"), image, calibration=image)
    place, x = torch.randn(2, 1, TOKENS, 16)
    assert torch.equal(model.attn(place, x), model.attn(torch.zeros_like(place), x))
    assert not torch.equal(model.attn(place, x), model.attn(place, x + 1))


class Cross(nn.Module):
    """Queries from the image's tokens, keys and values from others."""

    def __init__(self, how, fused=True):
        super().__init__()
        self.how, self.fused = how, fused
        self.q, self.kv = nn.Linear(16, 16), nn.Linear(16, 32)

    def forward(self, x, context):
        if self.how == "values":
            k, v = self.kv(x)[..., :16], self.kv(context)[..., 16:]
        else:
            seen = torch.cat([context, x], 1) if self.how == "both" else context
            k, v = self.kv(seen).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in (self.q(x), k, v))
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)


class Crossed(nn.Module):
    def __init__(self, how, fused, learned):
        super().__init__()
        self.patch, self.cross = nn.Conv2d(3, 16, 8, 8), Cross(how, fused)
        self.context = nn.Parameter(torch.randn(1, TOKENS, 16)) if learned else None

    def forward(self, x, text=None):
        x = self.patch(x).flatten(2).transpose(1, 2)
        context = text if self.context is None else self.context.expand(len(x), -1, -1)
        return (x + self.cross(x, context)).mean(1)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("how", ["all", "both", "values"])
def test_keys_and_values_that_are_not_the_images_tokens_are_a_near_miss(how, learned, fused):
    text = (torch.randn(2, TOKENS, 16),)
    example = dcnify.Example((IMAGE, *(() if learned else text)), image=0)
    sites = find_sites(Crossed(how, fused, learned).eval(), example)
    assert not len(sites)
    assert any(miss.reason.startswith("cross-attention") for miss in sites.near_misses)


def test_keys_of_a_reduced_map_are_still_the_images_tokens():
    class Reduced(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.kv, self.sr = nn.Linear(16, 16), nn.Linear(16, 32), nn.Conv2d(16, 16, 2, 2)

        def forward(self, x):
            small = self.sr(x.transpose(1, 2).unflatten(2, (4, 4))).flatten(2).transpose(1, 2)
            parts = (self.q(x), *self.kv(small).chunk(2, -1))
            q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in parts)
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    patches = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.Flatten(2))
    model = nn.Sequential(patches, Turned(), Reduced())
    assert len(find_sites(model.eval(), IMAGE)) == 1


class Turned(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["ViT", "DeiT", "Dinov2", "Beit", "IJepa", "SiglipVision"])
def test_transformers_models_convert_and_export(name, attention):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**SMALL, attn_implementation=attention)
    model = getattr(transformers, f"{name}Model")(config).eval()
    result = convert(model)
    assert len(result.plan.swaps) == 1
    expected = model(IMAGE).last_hidden_state
    exported = torch.export.export(model, (IMAGE,)).module()
    assert torch.allclose(exported(IMAGE).last_hidden_state, expected, atol=1e-5)


def test_segformer_of_transformers_takes_other_shapes():
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(depths=[1] * 4, hidden_sizes=[16, 32, 32, 32])
    model = transformers.SegformerModel(config).eval()
    x = torch.randn(1, 3, 64, 128)
    dcnify.convert(model, recipe("attention"), x, calibration=x)
    for size in ((64, 128), (128, 64), (64, 256)):
        rows, columns = model(torch.randn(1, 3, *size)).last_hidden_state.shape[2:]
        assert (rows, columns) == (size[0] // 32, size[1] // 32)
