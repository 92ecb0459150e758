"""dcnify finetune: train a converted model, stage by stage, as its recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dcnify.cli.flatten import Offer, verb
from dcnify.cli.options import must_exist
from dcnify.cli.progress import is_main_process
from dcnify.cli.terminal import Terminal
from dcnify.errors import CheckError
from dcnify.finetune.spec import TrainSpec
from dcnify.report import accuracies, accuracy_table, percent

if TYPE_CHECKING:
    from dcnify.finetune import Summary

Request = Annotated[
    TrainSpec, Offer(argument="artifact", without=("teacher.input_size", "teacher.part"))
]


@verb
def finetune(spec: Request, terminal: Terminal) -> None:
    """Train a converted model, stage by stage, and write it as an artifact.

    \b
    $ dcnify finetune out/ --data /data/imagenet
    $ dcnify finetune out/ --data photos/ -o trained/ -r align,recover --set stages.recover.epochs=5
    $ dcnify finetune out/ --images photos/  # without labels: the original is the teacher
    $ torchrun --nproc-per-node 8 -m dcnify finetune out/ --data /data/imagenet
    """
    must_exist(Path(spec.artifact))
    spec.data.check()
    if spec.teacher is not None:
        spec.teacher.check()
    from dcnify.finetune import StoppedError, train

    with terminal.progress(lines=True) as shown:
        try:
            done = train(spec, watch=shown.step, looked=shown.validation, say=terminal.say)
        except StoppedError as error:  # every process raises it, and one reports it
            if is_main_process():
                raise
            raise SystemExit(error.exit_code) from error
    if not is_main_process():
        return
    for name, reason in done.skipped[:5]:
        terminal.warn(f"skipped {name}: {reason}")
    if len(done.skipped) > 5:
        terminal.warn(f"skipped {len(done.skipped) - 5} more images; --json names them")
    curve = draw_curve(spec.folder, terminal)
    if done.worse:
        terminal.warn(f"the training ended below where it began: {_before_and_after(done)}")
    data = {**done.to_dict(), "curve": str(curve) if curve else None}
    terminal.emit(data, lambda: _render(done, spec.folder, curve))
    if spec.require_improvement and not done.gained:
        raise CheckError(f"{spec.folder}: no improvement by training: {_before_and_after(done)}")


def _before_and_after(done: Summary) -> str:
    before, after = (
        accuracies.shown(done.measure, one) for one in (done.converted, done.finetuned)
    )
    return f"{done.measure} {before} before, {after} after"


def draw_curve(folder: Path, terminal: Terminal) -> Path | None:
    """Draw a training's metrics beside them; warn where that fails, as without matplotlib."""
    from dcnify.errors import DcnifyError
    from dcnify.finetune import CURVE, METRICS, TRAINING
    from dcnify.report import write_training_curve

    path = folder / TRAINING / CURVE
    try:
        write_training_curve(folder / TRAINING / METRICS, path)
    except (DcnifyError, OSError) as error:
        terminal.warn(f"no curve was drawn: {error}")
        return None
    return path


def _render(done: Summary, folder: Path, curve: Path | None) -> list[Any]:
    from dcnify.finetune import TRAINING

    parts: list[Any] = [accuracy_table(done.to_dict())]
    if done.best_artifact is not None:
        at = f"{done.best_at}: {percent(done.best)}"
        parts.append(f"best at {at}, kept in {folder / TRAINING / 'best'}")
    if curve is not None:
        parts.append(f"drawn in {curve}")
    minutes, seconds = divmod(round(done.seconds), 60)
    parts.append(f"wrote {folder} after {minutes}:{seconds:02d} of training")
    return parts
