"""Masks of an attention: those that hide nothing are let through, and others refused."""

import pytest
import torch
from support.called_attention import IMAGE, TOKENS, Net, convert
from support.models import tiny_vit
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.graph import find_sites
from dcnify.nn import TokenDCNv4


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
