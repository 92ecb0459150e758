"""Where trials are carried out: the model and the images, opened once for all of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from dcnify.ablate.trial import Setting
from dcnify.artifact import Source, open_source
from dcnify.data import ImageBatch, Labelled
from dcnify.digest import sha256_tensors
from dcnify.errors import InputError
from dcnify.pipeline.images import check_stages, fidelity_images, open_training_images
from dcnify.progress import Progress, silent
from dcnify.recipe import Finetune, Recipe, load_finetune
from dcnify.recipe.finetune.presets import usual_stages
from dcnify.surgery import images_wanted

ENOUGH_IMAGES = 128
"""To compare trials on, where the person has images and does not say how many: a share of 16 would
tell no two of them apart."""


class UnfitStagesError(InputError):
    """The stages of one point cannot be trained on the images."""


@dataclass
class Workplace:
    """What the trials of one process share."""

    setting: Setting
    folder: Path
    source: Source
    progress: Progress = silent
    _images: dict[tuple[object, ...], ImageBatch | None] = field(default_factory=dict)
    _hashes: dict[tuple[object, ...], str] = field(default_factory=dict)
    _data: dict[int, Labelled] = field(default_factory=dict)
    _stages: set[tuple[str, int]] = field(default_factory=set)

    @property
    def converted(self) -> Path:
        """Folder of the conversions, which trials share."""
        return self.folder / "converted"

    @property
    def trusts_code(self) -> bool:
        """Whether conversions may import code: it is the source that names it, if any does."""
        run = self.setting.run
        return run.source.names_code or run.source.trust_code or run.options.trust_code

    def fresh(self) -> Source:
        """The source with a model of its own, to be changed."""
        return replace(self.source, model=copy.deepcopy(self.source.model))

    def shape(self, recipe: Recipe) -> tuple[int, int, int]:
        """(C, H, W) at which the model is converted."""
        return self.setting.run.source.input_shape(self.source.input_size, recipe.input)

    def stages(self, recipe: Recipe) -> Finetune:
        """The stages to fine-tune in: the recipe's, or the usual ones."""
        labelled = self.setting.run.training_data.images is None
        return recipe.finetune or load_finetune(usual_stages(labelled=labelled))

    def data(self, recipe: Recipe) -> Labelled:
        """The images to fine-tune on, opened once and checked for each kind of training.

        Raises:
            UnfitStagesError: the recipe's stages cannot be trained on them.
            InputError: they cannot be opened.
        """
        stages, shape = self.stages(recipe), self.shape(recipe)
        if shape[0] not in self._data:
            self._data[shape[0]] = open_training_images(self.setting.run, self.source, shape)
        data, key = self._data[shape[0]], (stages.model_dump_json(), shape[0])
        if key not in self._stages:
            try:
                check_stages(stages, data)
            except InputError as error:
                raise UnfitStagesError(str(error)) from error
            self._stages.add(key)
        return data

    def measured_on(self, recipe: Recipe) -> tuple[str | None, str | None]:
        """The hash of the images to measure fidelity and calibrate on, None for the usual
        photographs; and what the training images are called, if there are any.

        Raises:
            InputError: they cannot be opened.
        """
        trained_on = self.data(recipe).origin if "finetune" in self.setting.measure else None
        batch, key = self.images(recipe), self._key(recipe)
        if batch is not None and key not in self._hashes:
            labels = {} if batch.labels is None else {"labels": batch.labels}
            self._hashes[key] = sha256_tensors({"images": batch.tensor, **labels})
        return self._hashes.get(key), trained_on

    def images(self, recipe: Recipe) -> ImageBatch | None:
        """The images to measure fidelity and calibrate on; None for the usual photographs."""
        shape, key = self.shape(recipe), self._key(recipe)
        if key not in self._images:
            data = self.data(recipe) if "finetune" in self.setting.measure else None
            self._images[key] = fidelity_images(
                self.setting.run,
                recipe,
                self.source,
                shape,
                data,
                self.progress,
                least=ENOUGH_IMAGES,
            )
        return self._images[key]

    def _key(self, recipe: Recipe) -> tuple[object, ...]:
        """Equal for recipes that are measured on the same images."""
        return images_wanted(recipe), self.shape(recipe)


def open_workplace(setting: Setting, folder: Path, progress: Progress = silent) -> Workplace:
    """Open the model of a setting.

    Raises:
        InputError: it is not there, or has other weights than those of the setting.
    """
    run = setting.run
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are the same ones in every process and call
        source = open_source(run.source, on_progress=progress)
    source = source.for_images(run.images.statistics)
    if setting.source_sha256 not in (None, source.sha256):
        raise InputError(f"{source.spec} has other weights than those that the ablation is about")
    return Workplace(setting, folder, source, progress)
