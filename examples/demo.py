"""Train a small ConvNeXt on digits, convert it, fine-tune it, compare. No GPU needed.

Run it with `make demo`. Everything lands in ``demo-out/``: the checkpoint as timm's training
script leaves it, and the artifacts that `dcnify convert` and `dcnify finetune` make of it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

# Threads that wait should sleep: spinning is several times slower on a machine that is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import timm
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from timm.utils import CheckpointSaver
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Normalize

import dcnify.cli
from dcnify.data import open_dataset

DATA = "builtin:cluttered-digits"
CANVAS = 32
BATCH = 64
LEARNING_RATE = 6e-3
IMAGES = 150_000
QUICK_IMAGES = 2_000

LOOKED_AT = 1000
QUICK_LOOKED_AT = 200
CALIBRATED = {"batches": 250, "steps": 200, "model_steps": 500}
QUICK = {"batches": 12, "steps": 5, "model_steps": 5}
EXACT = ("group_channels=1", "kernel_size=7")

FINETUNED = 800
QUICK_FINETUNED = 5

# The names of timm's training script, because they are saved with the weights as it saves them.
ARGS = argparse.Namespace(
    model="convnext_atto",
    num_classes=10,
    in_chans=3,
    img_size=CANVAS,
    model_kwargs={
        "depths": (1, 2, 1, 1),
        "dims": (32, 64, 96, 128),
        "patch_size": 2,
        "ls_init_value": None,
    },
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="train for seconds, to see it run")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the results")
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(min(4, torch.get_num_threads()))
    log = Console(stderr=True, highlight=False)

    model = create_model()
    config = timm.data.resolve_model_data_config(model)
    normalize = Normalize(config["mean"], config["std"])
    images = QUICK_IMAGES if options.quick else IMAGES
    train_set = open_dataset(DATA, "train", size=images, canvas=CANVAS, transform=normalize)
    validation = open_dataset(DATA, "validation", canvas=CANVAS, transform=normalize)

    log.print(f"[bold]1. Train[/] {ARGS.model} on {images:,} images of {DATA}")
    seconds = time.perf_counter()
    optimizer = train(model, train_set, log)
    original = accuracy(model, validation)
    seconds = time.perf_counter() - seconds
    checkpoint = save(model, optimizer, original, options.out)
    log.print(f"   {original:.1%} right after {seconds:.0f} s")

    log.print("[bold]2. Convert[/] it, from its weights alone")
    artifact, learned, exact = (options.out / name for name in ("converted", "learned", "exact"))
    common = f"--overwrite --images {DATA}"
    looked_at = QUICK_LOOKED_AT if options.quick else LOOKED_AT
    few, many = f"{common} --image-count 64", f"{common} --image-count {looked_at}"
    warn = "--set require.on_violation=warn"  # it comes out below the recipe's floor
    run_dcnify(f"convert {checkpoint} -r convnext -o {artifact} {few} {warn}", log)
    log.print(f"   and then let it learn from the original, on {looked_at} images without labels")
    how = QUICK if options.quick else CALIBRATED
    longer = " ".join(f"--set swaps.dw7.init.1.{key}={value}" for key, value in how.items())
    calibrated = f"convert {checkpoint} -r convnext-calibrated -o {learned}"
    run_dcnify(f"{calibrated} {many} {longer} {warn if options.quick else ''}", log)
    log.print("   and with room for every 7x7 kernel, as many points and a group per channel")
    room = " ".join(f"--set swaps.dw7.replace.{value}" for value in EXACT)
    run_dcnify(f"convert {checkpoint} -r convnext -o {exact} {few} {room}", log)

    steps = QUICK_FINETUNED if options.quick else FINETUNED
    log.print(f"[bold]3. Fine-tune[/] the calibrated one: {steps} steps, with labels")
    settings = (f"steps={steps}", "optimizer.lr=2e-3", "augment=none")
    stage = " ".join(f"--set finetune.stages.recover.{setting}" for setting in settings)
    trained = options.out / "finetuned"
    shown = f"--data {DATA} --image-count {steps * BATCH} --validate-every 200"
    run_dcnify(f"finetune {learned} -o {trained} --overwrite {shown} -r recover {stage}", log)

    log.print("[bold]4. Load[/] the artifacts and compare on the validation digits")
    made = (artifact, learned, trained, exact)
    reached = [accuracy(dcnify.load(one), validation) for one in made]
    plan = dcnify.Plan.from_json((artifact / "plan.json").read_text())
    selected = [swap.site.path for swap in plan.swaps]
    zeroed = accuracy(without(model, selected), validation)
    show(original, zeroed, *reached, layers=len(selected), artifact=trained)


def run_dcnify(command: str, log: Console) -> None:
    """Run the command line as a person would, its output in full view."""
    log.print(f"   dcnify {command}", soft_wrap=True)
    if code := dcnify.cli.main(shlex.split(command)):
        sys.exit(code)


def create_model() -> nn.Module:
    return timm.create_model(
        ARGS.model, num_classes=ARGS.num_classes, in_chans=ARGS.in_chans, **ARGS.model_kwargs
    )


def train(model: nn.Module, dataset: Dataset, log: Console) -> torch.optim.Optimizer:
    """One pass over images that are all different."""
    loader = DataLoader(dataset, BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=len(loader), pct_start=0.1
    )
    model.train().to(memory_format=torch.channels_last)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=log, transient=True) as progress:
        task = progress.add_task("", total=len(loader))
        smooth = None
        for step, (images, labels) in enumerate(loader):
            loss = F.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
            progress.update(task, advance=1, description=f"loss {smooth:.2f}")
            if not log.is_terminal and (step + 1) % max(1, len(loader) // 10) == 0:
                log.print(f"   {step + 1} of {len(loader)} steps, loss {smooth:.2f}")
    return optimizer


@torch.inference_mode()
def accuracy(model: nn.Module, dataset: Dataset) -> float:
    """Share of the images whose most likely class is right."""
    model.eval()
    right = sum(
        int((model(images).argmax(1) == labels).sum())
        for images, labels in DataLoader(dataset, 250)
    )
    return right / len(dataset)


def save(model: nn.Module, optimizer: torch.optim.Optimizer, metric: float, out: Path) -> Path:
    """Leave a checkpoint as timm's training script does, and return its path."""
    folder = out / "training"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    saver = CheckpointSaver(model, optimizer, args=ARGS, checkpoint_dir=str(folder))
    saver.save_checkpoint(epoch=0, metric=metric)
    return folder / "model_best.pth.tar"


def without(model: nn.Module, layers: list[str]) -> nn.Module:
    """The model with these layers' weights and biases set to zero, in place."""
    for path in layers:
        for parameter in model.get_submodule(path).parameters():
            nn.init.zeros_(parameter)
    return model


def show(
    original: float,
    zeroed: float,
    converted: float,
    learned: float,
    trained: float,
    exact: float,
    *,
    layers: int,
    artifact: Path,
) -> None:
    table = Table(title="Accuracy on 2,000 validation images")
    table.add_column("model")
    table.add_column("accuracy", justify="right")
    table.add_row("original", f"{original:.1%}")
    table.add_row(f"original, its {layers} swapped layers set to zero", f"{zeroed:.1%}")
    table.add_row("converted: 3x3 points, 16 channels a group", f"{converted:.1%}")
    table.add_row("calibrated: 3x3 points, 8 channels a group", f"{learned:.1%}")
    table.add_row("fine-tuned: the same", f"{trained:.1%}")
    table.add_row("converted: 7x7 points, 1 channel a group", f"{exact:.1%}")
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "Second row: what the swapped layers are worth. Third row: the fast form, from the weights "
        "alone. Fourth row: it has learned from the original, on images without labels. Fifth row: "
        "it has then been trained, with labels. Sixth row: a form with room for the old kernels, "
        f'which are then kept. Load one with dcnify.load("{artifact}").'
    )


if __name__ == "__main__":
    main()
