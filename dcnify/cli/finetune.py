"""dcnify finetune: train a converted model, stage by stage, as its recipe says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcnify.cli.options import ArtifactPath, AsJson, Overrides, Overwrite, Quiet
from dcnify.cli.output import emit, say, warn
from dcnify.cli.sources import (
    Arch,
    Given,
    ModelArgs,
    Pretrained,
    TrustCode,
    TrustPickle,
    UseEma,
)
from dcnify.cli.training import Shown, accuracies, percent, training
from dcnify.cli.training_options import (
    Cpu,
    CropPct,
    Data,
    DataDir,
    ImageCount,
    KeepEvery,
    LookEvery,
    TensorBoard,
    TrainSplit,
    ValSplit,
    Workers,
    crop_of,
    opener,
)
from dcnify.errors import InputError

if TYPE_CHECKING:
    from dcnify.finetune import Summary

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="Folder of the trained artifact; ARTIFACT-finetuned by default.",
        show_default=False,
    ),
]
Stages = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        help="Where the stages are: a recipe with a finetune section, by name or path, or stages "
        "that ship, such as align,recover. The artifact's own recipe by default.",
        show_default=False,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="SOURCE",
        help="The model from before the conversion, which stages learn from; what the artifact "
        "names by default. The options of a source are about this one.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, max=2**31 - 1, help="In place of the recipe's.", show_default=False
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an earlier call stopped.")]


def finetune(
    artifact: ArtifactPath,
    data: Data,
    output: Output = None,
    recipe: Stages = None,
    overrides: Overrides = None,
    split: TrainSplit = None,
    val_split: ValSplit = None,
    data_dir: DataDir = None,
    image_count: ImageCount = None,
    teacher: Teacher = None,
    arch: Arch = None,
    model_arg: ModelArgs = None,
    pretrained: Pretrained = False,
    use_ema: UseEma = False,
    trust_pickle: TrustPickle = False,
    trust_code: TrustCode = False,
    seed: Seed = None,
    workers: Workers = None,
    cpu: Cpu = False,
    look_every: LookEvery = None,
    keep_every: KeepEvery = None,
    crop_pct: CropPct = None,
    tensorboard: TensorBoard = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a converted model, stage by stage, and write it as an artifact.

    \b
    $ dcnify finetune out/ --data /data/imagenet
    $ dcnify finetune out/ --data photos/ -o trained/ -r align,recover --set stages.recover.epochs=5
    $ torchrun --nproc-per-node 8 -m dcnify finetune out/ --data /data/imagenet
    """
    from dcnify.finetune import Options
    from dcnify.finetune import finetune as run

    source = Given(teacher or "", arch, model_arg, pretrained, use_ema, trust_pickle, trust_code)
    target = output or _beside(artifact)
    with training(quiet=quiet or as_json) as shown, _said_once(shown):
        summary = run(
            artifact,
            opener(data, split, val_split, data_dir, image_count),
            target,
            stages_asked(artifact, recipe, overrides or []),
            teacher=source.open(lambda what, done, total: None) if teacher else None,
            options=Options(
                seed=seed,
                cpu=cpu,
                workers=workers,
                look_every=look_every,
                keep_every=keep_every,
                resume=resume,
                overwrite=overwrite,
                tensorboard=tensorboard,
                crop_pct=crop_of(crop_pct, data),
                trust_code=trust_code,
            ),
            watch=shown.beat,
            looked=shown.looked,
            say=lambda text: say(text, quiet=quiet),
        )
    if not shown.main:
        return
    for name, reason in summary.skipped[:5]:
        warn(f"skipped {name}: {reason}", quiet=quiet)
    if len(summary.skipped) > 5:
        warn(f"skipped {len(summary.skipped) - 5} more images; --json names them", quiet=quiet)
    curve = draw_curve(target, quiet=quiet)
    data_ = {**summary.to_dict(), "curve": str(curve) if curve else None}
    emit(as_json, data_, lambda: render(summary, target, curve))


def _beside(artifact: Path) -> Path:
    """ARTIFACT-finetuned."""
    whole = artifact if artifact.name else artifact.resolve()
    name = whole.stem if whole.suffix in (".pt", ".pth") else whole.name
    return whole.with_name(f"{name}-finetuned")


@contextmanager
def _said_once(shown: Shown) -> Iterator[None]:
    """That a run was stopped is known to all of its processes; the main one says so."""
    from dcnify.finetune import StoppedError

    try:
        yield
    except StoppedError as error:
        if shown.main:
            raise
        raise SystemExit(error.exit_code) from error


def stages_asked(artifact: Path, recipe: str | None, overrides: list[str]) -> Any:
    """The stages of --recipe, or of the artifact with what --set changes; None for its own."""
    from dcnify.artifact import read_artifact
    from dcnify.recipe import Recipe, load_finetune

    for one in overrides:
        if one.startswith("swaps"):
            raise InputError(f"--set {one}: the layers are swapped already; set finetune.stages...")
    if recipe is not None:
        return load_finetune(recipe, overrides)
    if not overrides:
        return None
    record = read_artifact(artifact)
    text = f"{record.path}/recipe.yaml"
    if Recipe.from_yaml(record.recipe, text).finetune is None:
        return load_finetune("align,recover", overrides)
    return Recipe.from_yaml(record.recipe, text, overrides).finetune


def draw_curve(target: Path, *, quiet: bool) -> Path | None:
    """Draw the metrics beside them; a remark where matplotlib is missing."""
    from dcnify.errors import DcnifyError
    from dcnify.finetune import CURVE, METRICS, TRAINING
    from dcnify.report import write_training_curve

    folder = target / TRAINING
    try:
        write_training_curve(folder / METRICS, folder / CURVE)
    except (DcnifyError, OSError) as error:
        warn(f"no curve was drawn: {error}", quiet=quiet)
        return None
    return folder / CURVE


def render(summary: Summary, target: Path, curve: Path | None) -> list[Any]:
    """The closing table and where things are, in the words of who asked."""
    from dcnify.finetune import TRAINING

    parts: list[Any] = [accuracies(summary.to_dict())]
    if summary.best_artifact is not None:
        at = f"{summary.best_at}: {percent(summary.best)}"
        parts.append(f"best at {at}, kept in {target / TRAINING / 'best'}")
    if curve is not None:
        parts.append(f"drawn in {curve}")
    minutes, seconds = divmod(round(summary.seconds), 60)
    parts.append(f"wrote {target} after {minutes}:{seconds:02d} of training")
    return parts
