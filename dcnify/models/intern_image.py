"""InternImage and FlashInternImage by name, for `timm.create_model`."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from dcnify.models.architecture import InternImage
from dcnify.models.checkpoints import checkpoint_filter_fn

SMALL = {"post_norm": True, "layer_scale": 1e-5}
HUGE = {"dw_kernel_size": 5, "center_feature_scale": True, "clip_head": True}

INTERN_IMAGE: dict[str, dict[str, Any]] = {
    "t": {"channels": 64, "depths": (4, 4, 18, 4), "groups": (4, 8, 16, 32)},
    "s": {"channels": 80, "depths": (4, 4, 21, 4), "groups": (5, 10, 20, 40), **SMALL},
    "b": {"channels": 112, "depths": (4, 4, 21, 4), "groups": (7, 14, 28, 56), **SMALL},
    "l": {"channels": 160, "depths": (5, 5, 22, 5), "groups": (10, 20, 40, 80), **SMALL},
    "xl": {"channels": 192, "depths": (5, 5, 24, 5), "groups": (12, 24, 48, 96), **SMALL},
    "h": {"channels": 320, "depths": (6, 6, 32, 6), "groups": (10, 20, 40, 80), **HUGE},
    "g": {"channels": 512, "depths": (2, 2, 48, 4), "groups": (16, 32, 64, 128), **HUGE},
}
INTERN_IMAGE["l"]["offset_scale"] = INTERN_IMAGE["xl"]["offset_scale"] = 2.0
INTERN_IMAGE["h"] |= {"res_post_norm": True, "post_norm_block_ids": (5, 11, 17, 23, 29)}
INTERN_IMAGE["g"] |= {"post_norm": True, "post_norm_block_ids": (5, 11, 17, 23, 29, 35, 41, 47)}
"""The published sizes (InternImage, table 1 and configurations)."""

UNBIASED = {"core_op": "dcnv4", "dcn_output_bias": False, "mlp_fc2_bias": False}
FLASH: dict[str, dict[str, Any]] = {
    "t": {**INTERN_IMAGE["t"], **UNBIASED},
    "s": {**INTERN_IMAGE["s"], **UNBIASED, "dw_kernel_size": 3},
    "b": {**INTERN_IMAGE["b"], **UNBIASED, "dw_kernel_size": 3, "offset_scale": 0.5},
    "l": {**INTERN_IMAGE["l"], "core_op": "dcnv4", "dw_kernel_size": 3},
}
"""The published sizes of FlashInternImage (DCNv4, section 5 and configurations)."""


def _cfg(repository: str, file: str, size: int = 224, classes: int = 1000) -> dict[str, Any]:
    return {
        "hf_hub_id": f"OpenGVLab/{repository}",
        "hf_hub_filename": f"{file}.pth",
        "num_classes": classes,
        "input_size": (3, size, size),
        "pool_size": (size // 32, size // 32),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.conv1",
        "classifier": "head",
        "license": "mit",
    }


def _pooled_larger(config: dict[str, Any]) -> dict[str, Any]:
    """H and G pool a map of twice the size."""
    return {**config, "pool_size": tuple(2 * side for side in config["pool_size"])}


default_cfgs = generate_default_cfgs(
    {
        "intern_image_t.ogvl_in1k": _cfg("InternImage", "internimage_t_1k_224"),
        "intern_image_s.ogvl_in1k": _cfg("InternImage", "internimage_s_1k_224"),
        "intern_image_b.ogvl_in1k": _cfg("InternImage", "internimage_b_1k_224"),
        "intern_image_l.ogvl_in22k_ft_in1k_384": _cfg(
            "InternImage", "internimage_l_22kto1k_384", 384
        ),
        "intern_image_l.ogvl_in22k_384": _cfg(
            "InternImage", "internimage_l_22k_192to384", 384, 21841
        ),
        "intern_image_xl.ogvl_in22k_ft_in1k_384": _cfg(
            "InternImage", "internimage_xl_22kto1k_384", 384
        ),
        "intern_image_xl.ogvl_in22k_384": _cfg(
            "InternImage", "internimage_xl_22k_192to384", 384, 21841
        ),
        "intern_image_h.ogvl_in22k_ft_in1k_640": _pooled_larger(
            _cfg("InternImage", "internimage_h_22kto1k_640", 640)
        ),
        "intern_image_h.ogvl_in22k_384": _pooled_larger(
            _cfg("InternImage", "internimage_h_jointto22k_384", 384, 21841)
        ),
        "intern_image_g.ogvl_in22k_ft_in1k_512": _pooled_larger(
            _cfg("InternImage", "internimage_g_22kto1k_512", 512)
        ),
        "intern_image_g.ogvl_in22k_384": _pooled_larger(
            _cfg("InternImage", "internimage_g_pretrainto22k_384", 384, 21841)
        ),
        "flash_intern_image_t.ogvl_in1k": _cfg("DCNv4", "flash_intern_image_t_1k_224"),
        "flash_intern_image_s.ogvl_in1k": _cfg("DCNv4", "flash_intern_image_s_1k_224"),
        "flash_intern_image_b.ogvl_in1k": _cfg("DCNv4", "flash_intern_image_b_1k_224"),
        # The link in the original's README, with "internimage", leads nowhere (its issue 73).
        "flash_intern_image_l.ogvl_in22k_ft_in1k_384": _cfg(
            "DCNv4", "flash_intern_image_l_22kto1k_384", 384
        ),
    }
)


def _create(variant: str, pretrained: bool, size: dict[str, Any], given: Any) -> InternImage:
    return build_model_with_cfg(
        InternImage,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **{**size, **given},
    )


@register_model
def intern_image_t(pretrained: bool = False, **kwargs: Any) -> InternImage:
    """InternImage-T: 30 M parameters."""
    return _create("intern_image_t", pretrained, INTERN_IMAGE["t"], kwargs)


@register_model
def intern_image_s(pretrained: bool = False, **kwargs: Any) -> InternImage:
    """InternImage-S: 50 M parameters."""
    return _create("intern_image_s", pretrained, INTERN_IMAGE["s"], kwargs)


@register_model
def intern_image_b(pretrained: bool = False, **kwargs: Any) -> InternImage:
    """InternImage-B: 97 M parameters."""
    return _create("intern_image_b", pretrained, INTERN_IMAGE["b"], kwargs)


@register_model
def intern_image_l(pretrained: bool = False, **kwargs: Any) -> InternImage:
    """InternImage-L: 223 M parameters, 384x384."""
    return _create("intern_image_l", pretrained, INTERN_IMAGE["l"], kwargs)


@register_model
def intern_image_xl(pretrained: bool = False, **kwargs: Any) -> InternImage:
    """InternImage-XL: 335 M parameters, 384x384."""
    return _create("intern_image_xl", pretrained, INTERN_IMAGE["xl"], kwargs)


@register_model
def intern_image_h(pretrained: bool = False, **kwargs: Any) -> InternImage:
    """InternImage-H: 1.08 B parameters, 640x640."""
    return _create("intern_image_h", pretrained, INTERN_IMAGE["h"], kwargs)


@register_model
def intern_image_g(pretrained: bool = False, **kwargs: Any) -> InternImage:
    """InternImage-G: 3 B parameters, 512x512."""
    return _create("intern_image_g", pretrained, INTERN_IMAGE["g"], kwargs)


@register_model
def flash_intern_image_t(pretrained: bool = False, **kwargs: Any) -> InternImage:
    """FlashInternImage-T: 30 M parameters."""
    return _create("flash_intern_image_t", pretrained, FLASH["t"], kwargs)


@register_model
def flash_intern_image_s(pretrained: bool = False, **kwargs: Any) -> InternImage:
    """FlashInternImage-S: 50 M parameters."""
    return _create("flash_intern_image_s", pretrained, FLASH["s"], kwargs)


@register_model
def flash_intern_image_b(pretrained: bool = False, **kwargs: Any) -> InternImage:
    """FlashInternImage-B: 97 M parameters."""
    return _create("flash_intern_image_b", pretrained, FLASH["b"], kwargs)


@register_model
def flash_intern_image_l(pretrained: bool = False, **kwargs: Any) -> InternImage:
    """FlashInternImage-L: 223 M parameters, 384x384."""
    return _create("flash_intern_image_l", pretrained, FLASH["l"], kwargs)
