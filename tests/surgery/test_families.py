"""One small model of many families: everything offered as a site converts, saves and loads."""

import copy

import pytest
import timm
import torch

import dcnify

CONV, ATTENTION = ("depthwise_conv",), ("attention",)
BOTH = CONV + ATTENTION
FAMILIES = {
    "test_convnext": (CONV, {}),
    "test_convnext2": (CONV, {}),
    "test_efficientnet": (CONV, {}),
    "test_efficientnet_ln": (CONV, {}),
    "test_mambaout": (CONV, {}),
    "test_vit": (ATTENTION, {}),
    "test_vit2": (ATTENTION, {}),
    "test_vit3": (ATTENTION, {}),
    "test_vit4": (ATTENTION, {}),
    "test_coatnet": (BOTH, {}),
    "tf_mobilenetv3_small_minimal_100": (CONV, {"width": 64}),
    "mobilenetv4_conv_small_035": (CONV, {"width": 64}),
    "ghostnet_050": (CONV, {"width": 64}),
    "repvit_m0_9": (CONV, {"width": 64}),
    "edgenext_xx_small": (CONV, {"width": 64}),
    "levit_128s": (ATTENTION, {"width": 224}),
    "pvt_v2_b0": (BOTH, {"width": 64}),
    "efficientformer_l1": (ATTENTION, {"width": 224}),
    "caformer_s18": (BOTH, {"width": 64}),
    "inception_next_atto": (CONV, {"width": 64}),
    "cait_xxs24_224": (ATTENTION, {"depth": 2}),
    "beit_base_patch16_224": (ATTENTION, {"depth": 1, "embed_dim": 48, "num_heads": 3}),
    "eva02_tiny_patch14_224": (ATTENTION, {"depth": 2}),
    "vit_small_patch16_rope_224": (ATTENTION, {"depth": 1}),
    "vit_base_patch14_reg4_dinov2": (
        ATTENTION,
        {"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": 70, "width": 70},
    ),
    "naflexvit_base_patch16_gap": (ATTENTION, {"depth": 1, "embed_dim": 48, "num_heads": 3}),
    "hiera_tiny_224": (ATTENTION, {}),
}
"""The roles of each family's sites, and how to make a small one. ``width`` is the image's."""


def everything(roles):
    """A recipe that swaps every site of these roles; one that has no site is an error."""
    swaps = "".join(
        f"  - {{name: {role}, select: {{role: {role}}}, "
        f"replace: {{with: dcnv4, group_channels: 8}}}}\n"
        for role in roles
    )
    return dcnify.Recipe.from_yaml(f"version: 1\nname: everything\nswaps:\n{swaps}")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_converts_saves_and_loads_bit_for_bit(name, tmp_path):
    roles, options = FAMILIES[name][0], dict(FAMILIES[name][1])
    width = options.pop("width", None)
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **options).eval()
    channels, height, own = timm.data.resolve_model_data_config(model)["input_size"]
    size = (width, width) if width else (height, own)
    image = torch.randn(1, channels, *size)
    original = copy.deepcopy(model)
    result = dcnify.convert(model, everything(roles), image, calibration=image)
    assert type(model) is type(original)
    assert {swap.site.role for swap in result.plan.swaps} == set(roles)
    left = [one for one in result.plan.skipped if "no swap selects it" in one.reason]
    assert not [one.path for one in left if "conv" in roles or one.role != "conv"]
    assert torch.isfinite(model(image)).all()
    base = dcnify.artifact.Base("timm", name, {"num_classes": 7, **options})
    dcnify.save(result, tmp_path / "out", base=base)
    again = dcnify.load(tmp_path / "out")
    assert type(again) is type(model)
    assert torch.equal(again(image), model(image))
    for (key, before), (_, after) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert torch.equal(before, after), key
    model.train()(image.repeat(2, 1, 1, 1)).sum().backward()
