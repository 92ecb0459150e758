"""A small diffusion U-Net of diffusers, its training on digits, and what it draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
from timm.utils import ModelEmaV2
from torch import Tensor, nn

from unet_study.quality import SIZE

STEPS = 1000
"""Time steps of the noise."""
BATCH, DECAY = 64, 0.995
"""Images of a training step; of the averaged weights, which are those that are kept."""


def unet(seed: int = 0) -> UNet2DModel:
    """The network, untrained."""
    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        attention_head_dim=32,
        norm_num_groups=8,
    )


def noise_schedule() -> DDIMScheduler:
    """Of training and of sampling."""
    return DDIMScheduler(STEPS, beta_schedule="squaredcos_cap_v2", clip_sample_range=1.0)


def noised(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images at time steps drawn at random, with these and the noise."""
    times = torch.randint(STEPS, (len(images),), generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    return noise_schedule().add_noise(images, noise, times), times, noise


def train(
    model: nn.Module,
    images: Tensor,
    steps: int,
    rate: float,
    seed: int,
    say: Callable[[str], None] = lambda _text: None,
) -> nn.Module:
    """Train ``model`` to predict noise; return the average of its weights along the way."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    average = ModelEmaV2(model, DECAY)
    model.train()
    total = 0.0
    for step in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x, times, noise = noised(images[chosen], generator)
        loss = F.mse_loss(model(x, times).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update(model)
        total += float(loss.detach())
        if (step + 1) % 100 == 0:
            say(f"{step + 1} of {steps} steps, loss {total / 100:.4f}")
            total = 0.0
    return average.module.eval()


@torch.inference_mode()
def noise_loss(model: nn.Module, images: Tensor, seed: int = 1) -> float:
    """The training loss on images, at time steps and with noise that are always the same."""
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for batch in images.split(250):
        x, times, noise = noised(batch, generator)
        total += float(F.mse_loss(model(x, times).sample, noise, reduction="sum"))
    return total / images.numel()


@torch.inference_mode()
def drawn(model: nn.Module, count: int, steps: int = 25, seed: int = 2) -> Tensor:
    """(N, 1, 16, 16) samples by DDIM without added noise: the same start, the same image."""
    generator = torch.Generator().manual_seed(seed)
    schedule = noise_schedule()
    schedule.set_timesteps(steps)
    done = []
    for some in range(0, count, 250):
        x = torch.randn(min(250, count - some), 1, SIZE, SIZE, generator=generator)
        for time in schedule.timesteps:
            x = schedule.step(model(x, time).sample, time, x).prev_sample
        done.append(x.clamp(-1, 1))
    return torch.cat(done)
