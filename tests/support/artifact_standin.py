"""A conversion in miniature: one layer swapped by a stand-in for `dcnify.surgery.replay`."""

from types import SimpleNamespace

import timm
import torch
from torch import nn

from dcnify.graph.site import Site
from dcnify.roles.depthwise_conv import DepthwiseFacts
from dcnify.surgery.plan import ModuleSpec, Plan, PlannedSwap
from dcnify.surgery.result import ConvertResult, OutputFidelity, Report, SiteFidelity

TINY = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 10}


def tiny(**args) -> nn.Module:
    return timm.create_model("convnext_atto", **{**TINY, **args}).eval()


class Swapped(nn.Module):
    """Stands at a site: other names and shapes than what stood there."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x):
        return self.mix(x)


def replay(model: nn.Module, plan: Plan) -> nn.Module:
    for swap in plan.swaps:
        model.set_submodule(swap.site.path, Swapped(swap.module.args["channels"]))
    return model


def planned(path: str, channels: int) -> PlannedSwap:
    shape = (1, channels, 4, 4)
    facts = DepthwiseFacts((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
    site = Site(path, "depthwise_conv", "BCHW", shape, shape, channels, (4, 4), 0, 1, 1, facts)
    return PlannedSwap(site, "all", ModuleSpec("depthwise", {"channels": channels}), (), None, 1, 1)


def converted(model: nn.Module, *sites: tuple[str, int]) -> ConvertResult:
    """``model`` with the stand-in at each (path, channels), as `dcnify.convert` hands it back."""
    plan = Plan("demo", (1, 3, 64, 64), tuple(planned(*site) for site in sites), ())
    report = Report(
        seed=0,
        versions={"torch": torch.__version__},
        images={"count": 1},
        sites=tuple(SiteFidelity(path, 10.0, 0.9) for path, _ in sites),
        output=OutputFidelity(20.0, 0.99, 1.0, 1),
        parameters=(1, 2),
    )
    recipe = SimpleNamespace(name="demo", sha256="ab" * 32, to_yaml=lambda: "version: 1\n")
    return ConvertResult(replay(model, plan).eval(), plan, report, recipe)


SITES = (("stages.0.blocks.0.conv_dw", 8), ("stages.3.blocks.0.conv_dw", 32))


def assert_same(a: nn.Module, b: nn.Module) -> None:
    """Every parameter and buffer, persistent or not, has the same type and the same bits."""
    for left, right in (
        (a.named_parameters, b.named_parameters),
        (a.named_buffers, b.named_buffers),
    ):
        mine, other = dict(left()), dict(right())
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            assert value.dtype == other[name].dtype, name
            assert torch.equal(value.cpu(), other[name]), name
            assert value.requires_grad == other[name].requires_grad
