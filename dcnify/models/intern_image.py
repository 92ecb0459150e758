"""InternImage and FlashInternImage by name, for `timm.create_model`."""

from collections.abc import Callable
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


SIZES = {
    **{f"intern_image_{size}": args for size, args in INTERN_IMAGE.items()},
    **{f"flash_intern_image_{size}": args for size, args in FLASH.items()},
}
"""Arguments of `InternImage` by registered name."""

_PUBLISHED = {
    "intern_image_t.ogvl_in1k": ("internimage_t_1k_224", 224, 1000),
    "intern_image_s.ogvl_in1k": ("internimage_s_1k_224", 224, 1000),
    "intern_image_b.ogvl_in1k": ("internimage_b_1k_224", 224, 1000),
    "intern_image_l.ogvl_in22k_ft_in1k_384": ("internimage_l_22kto1k_384", 384, 1000),
    "intern_image_l.ogvl_in22k_384": ("internimage_l_22k_192to384", 384, 21841),
    "intern_image_xl.ogvl_in22k_ft_in1k_384": ("internimage_xl_22kto1k_384", 384, 1000),
    "intern_image_xl.ogvl_in22k_384": ("internimage_xl_22k_192to384", 384, 21841),
    "intern_image_h.ogvl_in22k_ft_in1k_640": ("internimage_h_22kto1k_640", 640, 1000),
    "intern_image_h.ogvl_in22k_384": ("internimage_h_jointto22k_384", 384, 21841),
    "intern_image_g.ogvl_in22k_ft_in1k_512": ("internimage_g_22kto1k_512", 512, 1000),
    "intern_image_g.ogvl_in22k_384": ("internimage_g_pretrainto22k_384", 384, 21841),
    "flash_intern_image_t.ogvl_in1k": ("flash_intern_image_t_1k_224", 224, 1000),
    "flash_intern_image_s.ogvl_in1k": ("flash_intern_image_s_1k_224", 224, 1000),
    "flash_intern_image_b.ogvl_in1k": ("flash_intern_image_b_1k_224", 224, 1000),
    # The link in the original's README, with "internimage", leads nowhere (its issue 73).
    "flash_intern_image_l.ogvl_in22k_ft_in1k_384": ("flash_intern_image_l_22kto1k_384", 384, 1000),
}
"""Published weights by timm's name and tag: file on the hub, side of the image, classes."""


def _cfg(name: str, file: str, side: int, classes: int) -> dict[str, Any]:
    pooled = side // (16 if SIZES[name].get("clip_head") else 32)
    return {
        "hf_hub_id": f"OpenGVLab/{'DCNv4' if name.startswith('flash') else 'InternImage'}",
        "hf_hub_filename": f"{file}.pth",
        "num_classes": classes,
        "input_size": (3, side, side),
        "pool_size": (pooled, pooled),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.conv1",
        "classifier": "head",
        "license": "mit",
    }


default_cfgs = generate_default_cfgs(
    {name: _cfg(name.partition(".")[0], *about) for name, about in _PUBLISHED.items()}
)


def _entrypoint(name: str, size: dict[str, Any]) -> Callable[..., InternImage]:
    """The function that timm calls for a registered name."""

    def create(pretrained: bool = False, **kwargs: Any) -> InternImage:
        return build_model_with_cfg(
            InternImage,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
            **{**size, **kwargs},
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{name}, a published size; arguments are those of `InternImage`."
    return create


for _name, _size in SIZES.items():
    globals()[_name] = register_model(_entrypoint(_name, _size))
