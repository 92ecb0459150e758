"""Requests for images: to measure a conversion on, and to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dcnify.errors import InputError
from dcnify.progress import Progress, silent
from dcnify.spec import Spec, option

if TYPE_CHECKING:
    from dcnify.data.images import ImageBatch
    from dcnify.data.labelled import Labelled

_FEW = 16
"""Images that are read where nobody says how many."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of a model that does not state its own."""


@dataclass(frozen=True)
class ImageSpec(Spec):
    """Images to measure and calibrate on; see `dcnify.data.load_images`."""

    images: str | None = option(
        None,
        help="Images to measure fidelity on: a folder, a file, builtin:cluttered-digits, or a "
        "dataset as timm names it (hfds/OWNER/NAME, hfids/, tfds/, wds/, torch/, ImageFolder). "
        "Photographs that ship with packages by default.",
        metavar="WHERE",
    )
    split: str | None = option(
        None,
        help="The part of --images to use; the training images by default, else what there is.",
    )
    data_dir: str | None = option(
        None, help="The folder in which a dataset of --images is.", metavar="PATH"
    )
    image_count: int | None = option(
        None,
        help="How many images to measure on, and to calibrate on where the recipe does; 2 to 8 "
        "photographs by default, or 16 of --images, and what the recipe asks for.",
        least=1,
        most=4096,
    )

    def load(
        self,
        size: Sequence[int],
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        count: int | None = None,
        called: str = "images",
        progress: Progress = silent,
    ) -> ImageBatch | None:
        """Read the images; None if nothing is asked for, which leaves the choice to the caller.

        Args:
            size: (C, H, W).
            mean: per channel; ImageNet's by default.
            std: per channel; ImageNet's by default.
            count: how many images, where ``image_count`` does not say.
            called: the option by which the person named the images, for messages.
            progress: called with "reading images", how many were read and how many will be.

        Raises:
            InputError: no image can be read.
        """
        if self == ImageSpec() and count is None:
            return None
        from dcnify.data.images import load_images

        return load_images(
            self.images,
            count=self.image_count or count or _FEW,
            size=size,
            mean=mean or IMAGENET_MEAN,
            std=std or IMAGENET_STD,
            split=self.split,
            data_dir=self.data_dir,
            called=called,
            on_progress=lambda done, total: progress("reading images", done, total),
        )


@dataclass(frozen=True)
class DataSpec(Spec):
    """Images to train and to validate on: ``data`` with labels, or ``images`` without.

    See `dcnify.data.open_labelled` and `dcnify.data.open_unlabelled`.
    """

    data: str | None = option(
        None,
        help="Labelled images: a folder with train/ and val/, or with one folder per class; "
        "builtin:cluttered-digits; or a dataset as timm names it (hfds/OWNER/NAME, hfids/, tfds/, "
        "wds/, torch/, ImageFolder).",
        metavar="D",
    )
    split: str | None = option(None, help="The part of --data to train on.")
    val_split: str | None = option(None, help="The part of --data to validate on.")
    data_dir: str | None = option(
        None, help="The folder in which a dataset of --data is.", metavar="PATH"
    )
    image_count: int | None = option(
        None, help="How many training images builtin:cluttered-digits has.", least=1
    )
    images: str | None = option(
        None,
        help="In place of --data: images without labels, for stages that learn from the original "
        "alone, such as distil; a folder, or a dataset as for --data.",
        metavar="WHERE",
    )

    @property
    def builtin(self) -> bool:
        """Whether the images are drawn at their size, so that no margin is to be cropped."""
        return (self.data or self.images or "").startswith("builtin:")

    def check(self) -> None:
        """
        Raises:
            InputError: there are no images, or both kinds.
        """
        if self.data is None and self.images is None:
            raise InputError("missing option '--data', or '--images' for images without labels")
        if self.data is not None and self.images is not None:
            raise InputError("--data and --images: train with labels or without, not both")
        if self.images is not None and self.val_split is not None:
            raise InputError("--val-split is for --data; of --images some are left out anyway")

    def open(self, classes: int | None = None, mode: str = "RGB") -> Labelled:
        """Open and check the dataset.

        Args:
            classes: outputs of the model; by default as many as the dataset has classes.
            mode: of the images: ``RGB``, or ``L`` for a model of one channel.

        Raises:
            InputError: there are no such images, they have no labels, or the labels are not the
                model's.
        """
        self.check()
        from dcnify.data.labelled import open_labelled, open_unlabelled

        if self.images is not None:
            return open_unlabelled(
                self.images,
                split=self.split,
                data_dir=self.data_dir,
                count=self.image_count,
                mode=mode,
            )
        return open_labelled(
            self.data,
            split=self.split,
            val_split=self.val_split,
            data_dir=self.data_dir,
            classes=classes,
            mode=mode,
            count=self.image_count,
        )

    def image_spec(self, image_count: int | None = None) -> ImageSpec:
        """The same training images, as images to measure and calibrate on."""
        return ImageSpec(self.data, self.split, self.data_dir, image_count)
