"""The images of a run: to train on, and to measure fidelity on."""

from dcnify.artifact import Source
from dcnify.data import Examples, ImageBatch, Labelled
from dcnify.data.images import load_batch
from dcnify.data.statistics import IMAGENET
from dcnify.errors import InputError
from dcnify.finetune.training.augmentation import check_policy
from dcnify.finetune.training.loaders import check_batch
from dcnify.finetune.training.stage_checks import check_labels
from dcnify.pipeline.spec import RunSpec
from dcnify.progress import Progress
from dcnify.recipe import Finetune, Recipe
from dcnify.surgery import images_wanted


def fidelity_images(
    spec: RunSpec,
    recipe: Recipe,
    source: Source,
    shape: tuple[int, int, int],
    data: Labelled | None,
    progress: Progress,
    least: int = 0,
) -> ImageBatch | None:
    """The images to measure fidelity and to calibrate on; by default some of the training data.

    Without labels not those that are left out, on which the training is measured. ``least`` is how
    many there are at least, where the person does not say how many and there are as many.
    """
    wanted = max(images_wanted(recipe) or 0, least) or None
    if data is not None and isinstance(data.train, Examples) and data.classes is None:
        return load_batch(
            data.train.dataset,
            spec.images.image_count or wanted or len(data.train),
            shape,
            **source.statistics.over(IMAGENET).known(),
            on_progress=lambda done, total: progress("reading images", done, total),
        )
    own = spec.images.images is not None
    asked = spec.images if own else spec.data.image_spec(spec.images.image_count)
    usual = asked.images is None
    return asked.load(
        shape,
        **source.statistics.known(),
        count=images_wanted(recipe) if usual else wanted,
        called="images" if own else "data",
        progress=progress,
    )


def training_images(
    spec: RunSpec, source: Source, stages: Finetune, shape: tuple[int, int, int]
) -> Labelled:
    """The training images; whatever would be refused after the conversion is refused before it."""
    data = open_training_images(spec, source, shape)
    check_stages(stages, data)
    return data


def open_training_images(spec: RunSpec, source: Source, shape: tuple[int, int, int]) -> Labelled:
    """The training images, whatever the stages are.

    Raises:
        InputError: they cannot be opened, or have other classes than the model.
    """
    classes = getattr(source.model, "num_classes", None) or None
    return spec.training_data.open(classes, "L" if shape[0] == 1 else "RGB")


def check_stages(stages: Finetune, data: Labelled) -> None:
    """Refuse stages that cannot be trained on these images.

    Raises:
        InputError: one wants labels that are not there, or larger batches than there are images.
    """
    for stage in stages.stages:
        check_batch(data.train, stage)
        try:
            check_labels(stage, data, "--set finetune=distil")
            if stage.augment.auto is not None:
                check_policy(stage.augment.auto)
        except InputError as error:
            raise InputError(f"stage {stage.name}: {error}") from error
