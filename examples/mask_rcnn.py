"""Mask R-CNN on FlashInternImage: a step of training and an inference at 800x1333, on a CPU.

With ``--converted`` the backbone is an InternImage that `dcnify.convert` has put on DCNv4's kernel.
"""

from __future__ import annotations

import argparse
import resource
import time

import timm
import torch
from skimage import data
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms.v2.functional import resize, to_image

import dcnify

SIZE = (800, 1333)


class Pyramid(nn.Module):
    """A feature pyramid on any ``backbone`` that returns a list of maps, finest first."""

    def __init__(self, backbone: nn.Module, channels: list[int], out_channels: int = 256) -> None:
        super().__init__()
        self.backbone, self.out_channels = backbone, out_channels
        self.fpn = FeaturePyramidNetwork(channels, out_channels, LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn({str(i): features for i, features in enumerate(self.backbone(images))})


def detector(name: str, convert: bool = False, size: tuple[int, int] = SIZE, **kwargs) -> MaskRCNN:
    """Mask R-CNN of two classes on a timm model, for images of ``size``, (h, w) with h smaller."""
    backbone = timm.create_model(name, features_only=True, **kwargs)
    channels = backbone.feature_info.channels()
    if convert:
        recipe = dcnify.Recipe.load("internimage-exact")
        backbone = dcnify.convert(backbone, recipe, torch.zeros(1, 3, 224, 224)).model
    return MaskRCNN(Pyramid(backbone, channels), 3, min_size=size[0], max_size=size[1])


def photograph(size: tuple[int, int] = SIZE) -> tuple[Tensor, dict[str, Tensor]]:
    """scikit-image's cup of coffee as (3, h, w), and where its saucer and cup are."""
    height, width = size
    image = resize(to_image(data.coffee()[20:380]), list(size), antialias=True).float() / 255
    shares = torch.tensor(((0.128, 0.125, 0.798, 1.0), (0.288, 0.0, 0.683, 0.805)))
    boxes = shares * torch.tensor((width, height, width, height))
    x0, y0, x1, y1 = boxes.T[..., None, None]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    ellipses = ((2 * columns - x0 - x1) / (x1 - x0)) ** 2 + ((2 * rows - y0 - y1) / (y1 - y0)) ** 2
    masks = (ellipses <= 1).to(torch.uint8)
    return image, {"boxes": boxes, "labels": torch.tensor((1, 2)), "masks": masks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--converted", action="store_true", help="convert an intern_image_t")
    convert = parser.parse_args().converted

    torch.manual_seed(0)
    name = "intern_image_t" if convert else "flash_intern_image_t"
    model, (image, target) = detector(name, convert), photograph()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"Mask R-CNN on {name}: {parameters / 1e6:.1f} M parameters, random; {tuple(image.shape)}"
    )

    start = time.perf_counter()
    losses = model.train()([image], [target])
    sum(losses.values()).backward()
    optimizer.step()
    parts = ", ".join(f"{part} {loss.item():.3f}" for part, loss in losses.items())
    print(f"A step of training: {time.perf_counter() - start:.1f} s. {parts}")

    start = time.perf_counter()
    with torch.inference_mode():
        found = model.eval()([image])[0]
    seconds = time.perf_counter() - start
    print(f"Inference: {seconds:.1f} s, {len(found['masks'])} detections: one step is no training")
    print(f"Peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
