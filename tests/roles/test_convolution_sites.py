"""What is and is not a convolution's site, on modules written for the purpose."""

import pytest
import torch
import torch.nn.functional as F
from support.near_misses import IMAGE, near
from torch import nn

from dcnify.errors import InputError
from dcnify.graph import find_sites


def depthwise(**options):
    return nn.Conv2d(8, options.pop("out", 8), options.pop("kernel", 3), groups=8, **options)


def test_a_depthwise_convolution_is_described_in_full():
    conv = nn.Conv2d(8, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=1, groups=8)
    (site,) = find_sites(nn.Sequential(conv), IMAGE)
    assert (site.path, site.role, site.layout) == ("0", "depthwise_conv", "BCHW")
    assert (site.kernel, site.stride, site.padding) == ((3, 5), (2, 1), (1, 1, 2, 2))
    assert (site.input_shape, site.output_shape) == ((1, 8, 12, 16), (1, 8, 6, 16))
    assert (site.grid, site.parameters, site.bias) == ((12, 16), 8 * 15 + 8, True)
    assert site.flops == 2 * 8 * 6 * 16 * 15


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.Conv2d(8, 8, 3, groups=4), "4 groups"),
        (depthwise(out=16), "16 out"),
        (depthwise(kernel=1), "1x1"),
        (depthwise(padding=1, padding_mode="reflect"), "reflect"),
        (nn.ConvTranspose2d(8, 8, 2, groups=8), "transposed"),
    ],
)
def test_near_misses_say_why(layer, word):
    assert word in near(nn.Sequential(nn.Identity(), layer))["1"]


def test_a_one_dimensional_convolution_is_a_near_miss():
    layer = nn.Conv1d(8, 8, 3, groups=8)
    model = nn.Sequential(nn.Flatten(2), layer)
    assert "1-D" in near(model)["1"]


def test_a_weight_computed_from_the_image_is_a_near_miss():
    class Dynamic(nn.Module):
        def forward(self, x):
            kernel = x.mean((0, 2, 3)).reshape(8, 1, 1, 1).expand(8, 1, 3, 3)
            return F.conv2d(x, kernel, groups=8, padding=1)

    assert "computed from the image" in near(nn.Sequential(Dynamic()))["0"]


def test_a_weight_computed_from_weights_is_a_site():
    layer = nn.utils.parametrizations.weight_norm(depthwise(padding=1))
    assert len(find_sites(nn.Sequential(layer), IMAGE)) == 1


def test_a_module_that_does_more_than_convolve_has_its_convolution_as_a_site():
    class ConvAndMore(nn.Conv2d):
        def forward(self, x):
            return F.relu(super().forward(x))

    (site,) = find_sites(nn.Sequential(ConvAndMore(8, 8, 3, groups=8)), IMAGE)
    assert (site.path, site.kernel, site.parameters) == ("0.conv_region", (3, 3), 8 * 9 + 8)


def test_a_module_that_does_more_and_cannot_be_traced_is_a_near_miss():
    class ConvOfAny(nn.Conv2d):
        def forward(self, *inputs):
            return F.relu(super().forward(*inputs))

    reasons = near(nn.Sequential(ConvOfAny(8, 8, 3, groups=8)))
    assert "more than convolve" in reasons["0"]
    assert "more arguments than its forward names" in reasons["0"]


def test_a_module_called_twice_is_one_site_with_two_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = depthwise(padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    (site,) = find_sites(Twice(), IMAGE)
    assert site.calls == 2


def test_a_tied_module_is_one_site_with_its_aliases():
    conv = depthwise(padding=1)
    (site,) = find_sites(nn.Sequential(conv, nn.ReLU(), conv), IMAGE)
    assert (site.path, site.aliases, site.calls) == ("0", ("2",), 2)


def test_capture_leaves_the_model_as_it_was():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.cache = depthwise(padding=1), {}

        def forward(self, x):
            self.cache["seen"] = x * 2
            return self.conv(x)

    model = Remembers().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    find_sites(model, IMAGE)
    assert model.training
    assert model.cache == {}
    assert not model._forward_hooks
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_image_the_model_refuses_is_one_line():
    model = nn.Sequential(depthwise())
    with pytest.raises(InputError, match="does not run on a 1x3x12x16 input") as caught:
        find_sites(model, torch.zeros(1, 3, 12, 16))
    assert "\n" not in str(caught.value)


def test_a_model_that_remembers_an_activation_is_captured():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = depthwise(padding=1)

        def forward(self, x):
            self.last = self.conv(x)
            return self.last

    model = Remembers()
    model(IMAGE)
    assert len(find_sites(model, IMAGE)) == 1


def test_an_unbatched_convolution_is_a_near_miss():
    class Unbatched(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = depthwise(padding=1)

        def forward(self, x):
            return self.conv(x[0])

    assert "batch" in near(Unbatched())["conv"]
