"""What the recipe would cost Stable Diffusion 1.5, counted without weights."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

import dcnify

WAYS = {
    "unet": (),
    "unet, x1": ("swaps.blocks.replace.inner_width=x1",),
    "unet, x1, groups of 16": (
        "swaps.blocks.replace.inner_width=x1",
        "swaps.blocks.replace.group_channels=16",
        "swaps.blocks.replace.offset_rank=null",
    ),
}


def stable_diffusion() -> None:
    """Print parameters and FLOPs of one step on one image of 512x512, before and after."""
    with torch.device("meta"):
        model = UNet2DConditionModel(cross_attention_dim=768).eval()
        latents, text = torch.zeros(1, 4, 64, 64), torch.zeros(1, 77, 768)
        example = dcnify.Example((latents, torch.zeros(1), text), image=0)
    for name, overrides in WAYS.items():
        start = ("swaps.blocks.init=transfer", *overrides)
        plan = dcnify.plan(model, dcnify.Recipe.load("unet", start), example)
        parameters = sum(one.parameters - one.site.parameters for one in plan.swaps)
        flops = sum(one.flops - one.site.flops for one in plan.swaps)
        print(
            f"{name}: {len(plan.swaps)} layers, parameters {plan.model_parameters / 1e6:.1f} M -> "
            f"{(plan.model_parameters + parameters) / 1e6:.1f} M, FLOPs "
            f"{plan.model_flops / 1e9:.0f} G -> {(plan.model_flops + flops) / 1e9:.0f} G"
        )
