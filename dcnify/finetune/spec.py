"""The request of ``dcnify finetune`` as plain data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnify.data.spec import DataSpec, InputSpec
from dcnify.sources.spec import SourceSpec
from dcnify.spec import option

OVERRIDES: dict[str, Any] = {
    "default": (),
    "help": "Change one value of the recipe, such as finetune.stages.recover.epochs=5. May be "
    "given more than once.",
    "flags": ("--set",),
    "metavar": "PATH=VALUE",
}
"""The option that changes values of a recipe."""


@dataclass(frozen=True, kw_only=True)
class Options(InputSpec):
    """How a fine-tuning runs: device, workers, how often it validates and saves."""

    seed: int | None = option(None, help="In place of the recipe's.", least=0, most=2**31 - 1)
    workers: int | None = option(
        None,
        help="Processes that read images; up to 8 with a GPU, none without, by default.",
        least=0,
    )
    cpu: bool = option(False, help="Train on the CPU, even where there is a GPU.")
    look_every: int | None = option(
        None,
        help="Steps between two validations; an epoch by default.",
        flags=("--validate-every",),
        metavar="STEPS",
        least=1,
    )
    keep_every: int | None = option(
        None,
        help="Steps between two checkpoints; an epoch by default.",
        flags=("--checkpoint-every",),
        metavar="STEPS",
        least=1,
    )
    crop_pct: float | None = option(
        None,
        help="Share of a validation image's side that the model sees; its own by default, and 1 "
        "for builtin data.",
        least=0.01,
        most=1.0,
    )
    tensorboard: bool = option(False, help="Write events for TensorBoard too.")
    resume: bool = option(False, help="Go on where an earlier call stopped.")
    overwrite: bool = option(False, help="Replace the artifact or the fine-tuning that is there.")
    trust_code: bool = option(False, help="Import the Python code that an artifact names.")


@dataclass(frozen=True, kw_only=True)
class TrainSpec(Options):
    """A fine-tuning: the artifact, the images, the stages, and the `Options`."""

    artifact: str = option(
        help="What 'dcnify convert' wrote: a folder, or a .pt file.", metavar="ARTIFACT"
    )
    data: DataSpec = option(DataSpec(), help="Images, with labels or without.")
    output: str | None = option(
        None,
        help="Folder of the trained artifact; ARTIFACT-finetuned by default.",
        flags=("--output", "-o"),
        metavar="OUT",
    )
    recipe: str | None = option(
        None,
        help="Where the stages are: a recipe with a finetune section, by name or path, or stages "
        "that ship, such as align,recover. The artifact's own recipe by default.",
        flags=("--recipe", "-r"),
        metavar="RECIPE",
    )
    overrides: tuple[str, ...] = option(**OVERRIDES)
    require_improvement: bool = option(
        False, help="Exit code 3 if the trained model is not better than the converted one."
    )
    teacher: SourceSpec | None = option(
        None,
        help="The model from before the conversion, which stages learn from; what the artifact "
        "names by default. The options of a source are about this one.",
        flags=("--teacher",),
        metavar="SOURCE",
    )

    @property
    def folder(self) -> Path:
        """The output; by default ``ARTIFACT-finetuned`` beside the artifact."""
        if self.output is not None:
            return Path(self.output)
        artifact = Path(self.artifact)
        whole = artifact if artifact.name else artifact.resolve()
        name = whole.stem if whole.suffix in (".pt", ".pth") else whole.name
        return whole.with_name(f"{name}-finetuned")
