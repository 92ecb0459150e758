"""What is given as a model: exported programs, code that cannot be looked into, other modes."""

import contextlib
import io

import pytest
import torch
from support.models import recipe
from torch import nn
from torch.nn.utils import prune

import dcnify
from dcnify.errors import InputError
from dcnify.graph import find_sites
from dcnify.nn import DepthwiseDCNv4

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def net():
    torch.manual_seed(0)
    mixer = nn.Conv2d(8, 8, 5, padding=2, groups=8)
    return nn.Sequential(nn.Conv2d(3, 8, 2, 2), mixer, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


class Within(nn.Module):
    """A body that runs under modes of PyTorch."""

    def __init__(self, *modes):
        super().__init__()
        self.body, self.modes = net(), modes

    def forward(self, x):
        with contextlib.ExitStack() as stack:
            for mode in self.modes:
                stack.enter_context(mode())
            x = self.body[:2](x)
        return self.body[2:](x)


def autocast(enabled=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


@pytest.mark.parametrize(
    "modes",
    [
        (torch.no_grad,),
        (autocast,),
        (lambda: autocast(False),),
        (torch.no_grad, autocast),
        (torch.inference_mode,),
    ],
)
def test_layers_under_no_grad_and_autocast_are_found_and_swapped(modes):
    model = Within(*modes).eval()
    assert [site.path for site in find_sites(model, IMAGE)] == ["body.1"]
    dcnify.convert(model, recipe("depthwise_conv"), IMAGE, calibration=IMAGE)
    assert isinstance(model.body[1], DepthwiseDCNv4)
    assert model(IMAGE).shape == (2, 8)


def test_an_attention_under_autocast_hands_its_projections_over():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.attn = nn.Conv2d(3, 16, 4, 4), nn.MultiheadAttention(16, 2)

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            with autocast():
                return self.attn(x, x, x)[0].mean(1)

    torch.manual_seed(0)
    model = Attends()
    model.attn.batch_first = True
    value = model.attn.in_proj_weight[32:].clone()
    dcnify.convert(model.eval(), recipe("attention"), IMAGE, calibration=IMAGE)
    assert torch.allclose(model.attn.dcn.value_proj.weight, value, atol=1e-5)


def test_an_exported_program_is_opened_with_a_module_for_every_layer():
    program = torch.export.export(net(), (IMAGE,))
    result = dcnify.convert(program, recipe("depthwise_conv"), IMAGE, calibration=IMAGE)
    assert [swap.site.path for swap in result.plan.swaps] == ["1"]
    before = result.model(IMAGE)
    result.model.get_submodule("1").dcn.output_proj.weight.data.zero_()
    assert not torch.equal(result.model(IMAGE), before)


def test_a_flat_graph_has_no_layer_to_swap_and_says_what_to_give():
    flat = torch.export.export(net(), (IMAGE,)).module()
    sites = find_sites(flat, IMAGE)
    assert not len(sites)
    assert "give the ExportedProgram" in sites.near_misses[0].reason
    with pytest.raises(InputError, match="give the ExportedProgram"):
        dcnify.convert(flat, recipe("depthwise_conv"), IMAGE, calibration=IMAGE)


@pytest.mark.filterwarnings("ignore")
def test_code_that_cannot_be_changed_is_refused_in_one_line():
    given = {
        "TorchScript": torch.jit.script(net()),
        "1 is TorchScript": nn.Sequential(nn.Identity(), torch.jit.trace(net(), IMAGE)),
        "1 is quantised": torch.ao.quantization.quantize_dynamic(
            nn.Sequential(net(), nn.Linear(8, 5)), {nn.Linear}
        ),
        "load the weights": net().state_dict(),
        "of type function": lambda x: x,
    }
    for words, model in given.items():
        for use in (find_sites, lambda m, x: dcnify.convert(m, recipe("depthwise_conv"), x)):
            with pytest.raises(InputError, match=words) as caught:
                use(model, IMAGE)
            assert "\n" not in str(caught.value)


class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x):
        if x.mean() > 0:  # the line that the error names
            x = -x
        return self.body(x)


def test_code_that_depends_on_values_is_named_by_its_line_and_nothing_else_is_printed():
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(InputError) as caught:
        find_sites(Decides().eval(), IMAGE)
    assert "test_given_model.py" in str(caught.value)
    assert "if x.mean() > 0" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert errors.getvalue() == ""


def test_a_pruned_layer_is_swapped():
    model = net()
    prune.l1_unstructured(model[1], "weight", 0.5)
    dcnify.convert(model, recipe("depthwise_conv"), IMAGE, calibration=IMAGE)
    assert isinstance(model[1], DepthwiseDCNv4)


def test_a_bare_convolution_is_a_model_too():
    torch.manual_seed(0)
    bare = nn.Conv2d(8, 8, 5, padding=2, groups=8).eval()
    x = torch.randn(2, 8, 8, 8)
    dcnify.convert(bare, recipe("depthwise_conv"), x, calibration=x)
    assert isinstance(bare.conv_region, DepthwiseDCNv4)
    with pytest.raises(InputError, match="no depthwise_conv site"):
        dcnify.convert(nn.Conv2d(3, 8, 3), recipe("depthwise_conv"), IMAGE, calibration=IMAGE)
