"""How an attention is called: masks that hide nothing, keywords, keys from elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from support.models import recipe, tiny_vit
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.graph import find_sites
from dcnify.nn import TokenDCNv4

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TOKENS = 16


class Attention(nn.Module):
    """Self-attention with an optional mask, fused or written out."""

    fused = True

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, hidden_states, attention_mask=None, is_causal=False):
        qkv = self.qkv(hidden_states).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return self.mix(*qkv, attention_mask).transpose(1, 2).flatten(2)

    def mix(self, q, k, v, mask):
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        scores = q @ k.mT
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        return scores.softmax(-1) @ v


def all_seen(x):
    """A mask as libraries build it while they trace: of ones, from indices."""
    return (torch.arange(TOKENS)[:, None] >= 0).expand(len(x), 1, TOKENS, TOKENS)


def nothing_added(x):
    return torch.zeros(len(x), 1, TOKENS, TOKENS).masked_fill(~all_seen(x), float("-inf"))


def of_the_input_but_ones(x):
    return x.new_ones(len(x), 1, TOKENS, TOKENS).bool()


def causal(x):
    return torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()


def causal_added(x):
    return torch.full((TOKENS, TOKENS), torch.finfo(torch.float32).min).triu(1)


def written_into(x):
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool)
    mask[:, 5:] = False
    return mask


def of_the_image(x):
    return (x.mean() + x.flatten(1).sum(1) > 0).view(-1, 1, 1, 1).expand(-1, 1, TOKENS, TOKENS)


class Net(nn.Module):
    """Patches and one attention, with a mask while it is traced, or always."""

    def __init__(self, mask=None, always=False, keyword=True, fused=True):
        super().__init__()
        self.patch, self.attn = nn.Conv2d(3, 16, 8, 8), Attention()
        self.attn.fused = fused
        self.mask, self.always, self.keyword = mask, always, keyword

    def forward(self, x):
        given = None
        if self.mask is not None and (self.always or torch.compiler.is_compiling()):
            given = self.mask(x)
        x = self.patch(x).flatten(2).transpose(1, 2)
        y = (
            self.attn(attention_mask=given, hidden_states=x)
            if self.keyword
            else self.attn(x, given)
        )
        return (x + y).mean(1)


def convert(model):
    return dcnify.convert(model.eval(), recipe("attention"), IMAGE, calibration=IMAGE)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("keyword", [True, False])
@pytest.mark.parametrize("mask", [all_seen, nothing_added, of_the_input_but_ones])
def test_a_mask_that_hides_nothing_is_none(mask, keyword, fused):
    model = Net(mask, keyword=keyword, fused=fused).eval()
    assert [site.path for site in find_sites(model, IMAGE)] == ["attn"]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("mask", [causal, causal_added, written_into, of_the_image])
def test_a_mask_that_hides_something_is_a_near_miss(mask, fused):
    sites = find_sites(Net(mask, fused=fused).eval(), IMAGE)
    assert not len(sites)
    assert all("mask" in miss.reason or "2 tensors" in miss.reason for miss in sites.near_misses)


def test_a_mask_that_is_an_input_is_a_near_miss():
    class Masked(Net):
        def forward(self, x, mask):
            x = self.patch(x).flatten(2).transpose(1, 2)
            return self.attn(x, mask).mean(1)

    example = dcnify.Example((IMAGE, torch.zeros(2, 1, TOKENS, TOKENS)), image=0)
    sites = find_sites(Masked().eval(), example)
    assert not len(sites)
    assert "mask" in sites.near_misses[0].reason


@pytest.mark.parametrize("keyword", [True, False])
@pytest.mark.parametrize("mask", [all_seen, nothing_added])
def test_a_converted_model_runs_exports_and_compiles_with_the_mask_of_tracing(mask, keyword):
    model = Net(mask, keyword=keyword)
    convert(model)
    expected = model(IMAGE)
    exported = torch.export.export(model, (IMAGE,)).module()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for form in (exported, compiled):
        assert torch.allclose(form(IMAGE), expected, atol=1e-6)
    model.always = True
    assert torch.equal(model(IMAGE), expected)


@pytest.mark.parametrize("keyword", [True, False])
@pytest.mark.parametrize("mask", [causal, causal_added, written_into, of_the_image])
def test_a_converted_model_refuses_a_mask_that_hides_something(mask, keyword):
    model = Net(keyword=keyword)
    convert(model)
    model.mask, model.always = mask, True
    with pytest.raises(InputError, match="cannot honour attention_mask") as caught:
        model(IMAGE)
    assert "\n" not in str(caught.value)


def test_an_exported_model_refuses_a_mask_that_hides_something_when_it_runs():
    model = Net(lambda x: x.new_ones(TOKENS, TOKENS) * (x.mean() > 0) > 0, always=True)
    model.mask, mask = None, model.mask
    convert(model)
    model.mask = mask
    program = torch.export.export(model, (IMAGE.abs(),)).module()
    program(IMAGE.abs())
    with pytest.raises(RuntimeError, match="cannot honour attention_mask"):
        program(-IMAGE.abs())


@pytest.mark.parametrize("mask", [torch.zeros(1, 1, 16, 16).bool(), torch.full((16, 16), -1e9)])
def test_a_layer_on_its_own_refuses_masks_by_position_and_keyword(mask):
    layer, x = TokenDCNv4(8, grid=(4, 4), groups=2), torch.randn(1, 16, 8)
    assert layer(x, torch.ones(16, 16).bool()).shape == layer(x, None).shape == x.shape
    for call in (
        lambda: layer(x, attention_mask=mask),
        lambda: layer(attn_mask=mask, x=x),
    ):
        with pytest.raises(InputError, match="mask"):
            call()
    if mask.dtype == torch.bool:
        with pytest.raises(InputError, match="argument 1"):
            layer(x, mask)


def test_causality_is_refused_by_position_too():
    model = tiny_vit()
    convert(model)
    layer, x = model.blocks[0].attn, torch.randn(1, 17, 24)
    assert layer(x, None, False).shape == x.shape
    for call in (lambda: layer(x, None, True), lambda: layer(x, is_causal=True)):
        with pytest.raises(InputError, match="causal"):
            call()


def test_a_tensor_that_the_old_layer_was_not_given_is_refused():
    class Modulated(Attention):
        def forward(self, x, modulation=None):
            return super().forward(x if modulation is None else x * modulation)

    model = Net(keyword=False)
    model.attn = Modulated()
    convert(model)
    with pytest.raises(InputError, match="modulation"):
        model.attn(torch.randn(1, 16, 16), torch.randn(1, 1, 16))


def test_a_learned_bias_under_the_name_of_a_mask_is_let_through_and_a_mask_in_it_refused():
    class Biased(Net):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(1, 2, TOKENS, TOKENS))
            self.hide = False

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            mask = self.table.masked_fill(causal(x), -1e9) if self.hide else self.table
            return self.attn(x, attention_mask=mask).mean(1)

    model = Biased()
    convert(model)
    model(IMAGE)
    model.hide = True
    with pytest.raises(InputError, match="attention_mask"):
        model(IMAGE)


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
