"""The request of ``dcnify run`` as plain data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dcnify.bench.spec import TIME
from dcnify.data.spec import DataSpec, ImageSpec
from dcnify.finetune.spec import OVERRIDES, Options
from dcnify.sources.spec import SourceSpec
from dcnify.spec import Spec, option

if TYPE_CHECKING:
    from dcnify.recipe import Finetune, Recipe


@dataclass(frozen=True, kw_only=True)
class RunSpec(Spec):
    """A recipe from end to end: what to convert, train on, time, and where to write it."""

    recipe: str = option(
        help="A built-in recipe (see 'dcnify recipe ls') or the path of a YAML file.",
        metavar="RECIPE",
    )
    source: SourceSpec = option(
        help="What to convert: timm:NAME, torchvision:NAME, a checkpoint, an artifact folder, or "
        "python:package.module:factory.",
        flags=("--source",),
        metavar="SOURCE",
    )
    data: DataSpec = option(
        DataSpec(), help="Images to train on; ``images``, without labels, by default."
    )
    output: str = option(
        help="Folder of everything: converted/, finetuned/, bench.json, report.json, report.md.",
        flags=("--output", "-o"),
        metavar="OUT",
    )
    overrides: tuple[str, ...] = option(**OVERRIDES)
    images: ImageSpec = option(
        ImageSpec(), help="Images to measure fidelity on; those of ``data`` by default."
    )
    seed: int = option(0, help="Seed of everything random.", least=0, most=2**31 - 1)
    options: Options = option(Options(), help="How the fine-tuning runs.")
    batch: int = option(8, help="Images at once that are timed.", least=1)
    seconds: float | None = option(**TIME)

    @property
    def folder(self) -> Path:
        """The output, without symbolic links."""
        return Path(self.output).resolve()

    @property
    def training_data(self) -> DataSpec:
        """``data``, or the ``images`` without labels."""
        if self.data.data is not None:
            return self.data
        return replace(self.data, images=self.data.images or self.images.images)

    def load(self) -> tuple[Recipe, Finetune]:
        """Load the recipe and its stages, or else the usual ones.

        Raises:
            InputError: one of them, or a change to it, is not valid.
        """
        from dcnify.recipe import Recipe, load_finetune
        from dcnify.recipe.finetune.presets import usual_stages

        staged = [one for one in self.overrides if one.startswith("finetune.stages.")]
        others = [one for one in self.overrides if one not in staged]
        recipe = Recipe.load(self.recipe, others)
        if recipe.finetune is not None:
            recipe = Recipe.load(self.recipe, self.overrides)
        usual = usual_stages(labelled=self.training_data.images is None)
        return recipe, recipe.finetune or load_finetune(usual, staged)

    @property
    def training(self) -> Options:
        """``options`` with this request's seed, and whole images where the dataset draws them."""
        seed = self.seed if self.options.seed is None else self.options.seed
        crop = self.options.crop_pct or (1.0 if self.training_data.builtin else None)
        return replace(self.options, seed=seed, crop_pct=crop)
