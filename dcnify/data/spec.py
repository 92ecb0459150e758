"""Requests for images: to measure a conversion on, and to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dcnify.data.statistics import IMAGENET, INTERPOLATIONS, Statistics
from dcnify.errors import InputError
from dcnify.progress import Progress, silent
from dcnify.spec import Spec, option

if TYPE_CHECKING:
    from dcnify.data.images import ImageBatch
    from dcnify.data.labelled import Labelled

_FEW = 16
"""Images that are read where nobody says how many."""


@dataclass(frozen=True, kw_only=True)
class InputSpec(Spec):
    """How images become the model's input, where its own statistics are unknown or wrong."""

    mean: str | None = option(
        None,
        help="Mean that the weights expect to be subtracted from pixels between 0 and 1: one "
        "number, or one for each channel, such as 0.485,0.456,0.406. The model's own by default.",
        metavar="NUMBERS",
    )
    std: str | None = option(
        None,
        help="Standard deviation that they expect pixels to be divided by, given likewise.",
        metavar="NUMBERS",
    )
    interpolation: str | None = option(
        None,
        help=f"Resampling of images: {', '.join(INTERPOLATIONS)}. The model's own by default.",
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.statistics is not None  # whatever cannot be parsed is refused

    @property
    def statistics(self) -> Statistics:
        """What is asked for, as numbers.

        Raises:
            InputError: it cannot be parsed.
        """
        return Statistics.parse(self.mean, self.std, self.interpolation)


@dataclass(frozen=True)
class ImageSpec(InputSpec):
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
        interpolation: str | None = None,
        count: int | None = None,
        called: str = "images",
        progress: Progress = silent,
    ) -> ImageBatch | None:
        """Read the images; None if none are asked for, which leaves the choice to the caller.

        Args:
            size: (C, H, W).
            mean: per channel, where this request does not say; ImageNet's by default.
            std: likewise.
            interpolation: likewise; bicubic by default.
            count: how many images, where ``image_count`` does not say.
            called: the option by which the person named the images, for messages.
            progress: called with "reading images", how many were read and how many will be.

        Raises:
            InputError: no image can be read.
        """
        if count is None and replace(self, mean=None, std=None, interpolation=None) == ImageSpec():
            return None
        known = Statistics(
            tuple(mean) if mean else None, tuple(std) if std else None, interpolation
        )
        statistics = self.statistics.over(known).over(IMAGENET)
        from dcnify.data.images import load_images

        return load_images(
            self.images,
            count=self.image_count or count or _FEW,
            size=size,
            **statistics.known(),
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

        if self.data is None:
            return open_unlabelled(
                str(self.images),
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
