"""Mask R-CNN on FlashInternImage: a training step and an inference at 800x1333, on a CPU.

With ``--converted`` the backbone is an InternImage that `dcnify.convert` has put on DCNv4's kernel.
"""

import argparse
import time

import timm
import torch
from skimage import data
from torchvision.models.detection import MaskRCNN
from torchvision.ops import FeaturePyramidNetwork, masks_to_boxes
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms.v2.functional import resize, to_image

import dcnify


class Pyramid(torch.nn.Module):
    def __init__(self, backbone: torch.nn.Module, channels: list[int]) -> None:
        super().__init__()
        self.backbone, self.out_channels = backbone, 256
        self.fpn = FeaturePyramidNetwork(channels, 256, LastLevelMaxPool())

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.fpn({str(i): one for i, one in enumerate(self.backbone(images))})


def detector(convert: bool, size: tuple[int, int] = (800, 1333), **options) -> MaskRCNN:
    name = "intern_image_t" if convert else "flash_intern_image_t"
    backbone = timm.create_model(name, features_only=True, **options)
    pyramid = Pyramid(backbone, backbone.feature_info.channels())
    if convert:
        recipe = dcnify.Recipe.load("internimage-exact")
        dcnify.convert(backbone, recipe, torch.zeros(1, 3, 224, 224))
    return MaskRCNN(pyramid, num_classes=2, min_size=size[0], max_size=size[1])


def photograph(height: int = 800, width: int = 1333) -> tuple[torch.Tensor, dict]:
    """scikit-image's cup of coffee, and where its saucer is."""
    image = resize(to_image(data.coffee()[20:380]), [height, width], antialias=True) / 255
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    masks = (((x - 0.463) / 0.335) ** 2 + ((y - 0.5625) / 0.4375) ** 2 <= 1)[None]
    return image, {"boxes": masks_to_boxes(masks), "labels": torch.tensor([1]), "masks": masks}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--converted", action="store_true")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    options = parser.parse_args()
    size = tuple(options.size)
    model, (image, target) = detector(options.converted, size), photograph(*size)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    start = time.perf_counter()
    losses = model.train()([image], [target])
    sum(losses.values()).backward()
    optimizer.step()
    print(f"A step of training on {tuple(image.shape)}: {time.perf_counter() - start:.1f} s")
    print(", ".join(f"{part} {loss:.3f}" for part, loss in losses.items()))
    start = time.perf_counter()
    with torch.inference_mode():
        found = model.eval()([image])[0]
    print(f"Inference: {time.perf_counter() - start:.1f} s, {len(found['masks'])} detections")
