"""timm's own parts on a converted model: a new head, optimizer, schedule, EMA, checkpoints.

    python examples/timm_loop.py ARTIFACT -o OUT [--data DATA] [--image-count N] [--epochs N]

Nothing here knows that the model was converted, but for the first line and the last. Without an
artifact it makes a small one, to see it run.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from small_artifact import small_artifact
from timm.data import create_loader, resolve_model_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.models import load_checkpoint
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, ModelEmaV3, accuracy
from torch import nn
from torch.utils.data import DataLoader

import dcnify
from dcnify.artifact import read_artifact, save_again
from dcnify.data import open_labelled


def train(
    artifact: Path, out: Path, data: str, count: int | None, epochs: int
) -> tuple[nn.Module, float]:
    """Train a new head and, more slowly, what is below it; write checkpoints and an artifact.

    Returns:
        The averaged model of the best epoch, as it was read from its checkpoint, and its accuracy.
    """
    record = read_artifact(artifact)
    model = dcnify.load(artifact)
    labelled = open_labelled(data, count=count)
    model.reset_classifier(labelled.classes)
    model.set_grad_checkpointing()

    config = resolve_model_data_config(model)
    shown = {
        "input_size": record.input_shape[1:],
        "batch_size": 64,
        "mean": config["mean"],
        "std": config["std"],
        "use_prefetcher": False,
        "num_workers": 0,
    }
    loader = create_loader(labelled.train, is_training=True, scale=(0.8, 1), hflip=0, **shown)
    validation = create_loader(labelled.validation, is_training=False, crop_pct=1.0, **shown)

    # The model's group_matcher says what is early and what is late; early layers learn more slowly.
    optimizer = create_optimizer_v2(model, "adamw", lr=2e-3, weight_decay=0.05, layer_decay=0.8)
    scheduler, epochs = create_scheduler_v2(
        optimizer, "cosine", num_epochs=epochs, warmup_epochs=1, warmup_lr=1e-5
    )
    ema = ModelEmaV3(model, decay=0.99, use_warmup=True)
    out.mkdir(parents=True, exist_ok=True)
    saver = CheckpointSaver(model, optimizer, model_ema=ema, checkpoint_dir=str(out))

    loss_of, updates = LabelSmoothingCrossEntropy(0.1), 0
    for epoch in range(epochs):
        model.train()
        if hasattr(labelled.train, "set_epoch"):
            labelled.train.set_epoch(epoch)
        for images, labels in loader:
            loss = loss_of(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates += 1
            ema.update(model, updates)
        top1 = accuracy_of(ema.module, validation)
        scheduler.step(epoch + 1, top1)
        saver.save_checkpoint(epoch, metric=top1)
        print(f"epoch {epoch}: loss {loss.item():.2f}, averaged weights {top1:.1f}%")

    # The structure comes from the artifact, the weights from timm's checkpoint.
    best = dcnify.load(artifact)
    best.reset_classifier(labelled.classes)
    load_checkpoint(best, str(out / "model_best.pth.tar"))  # the averaged weights, strictly
    top1 = accuracy_of(best, validation)

    base = replace(record.base, args={**record.base.args, "num_classes": labelled.classes})
    report = {"conversion": record.report, "trained": {"data": data, "epochs": epochs}}
    save_again(
        record, best, record.plan, out / "artifact", report=report, base=base, overwrite=True
    )
    return best, top1


@torch.inference_mode()
def accuracy_of(model: nn.Module, loader: DataLoader) -> float:
    """Per cent of the images whose most likely class is right."""
    model.eval()
    meter = AverageMeter()
    for images, labels in loader:
        meter.update(accuracy(model(images), labels)[0].item(), len(images))
    return meter.avg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path, nargs="?", help="a small one is made by default")
    parser.add_argument("--data", default="builtin:cluttered-digits")
    parser.add_argument("--image-count", type=int, help="how many to train on; all by default")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, default=Path("example-out/timm-loop"))
    options = parser.parse_args()

    artifact = options.artifact
    if artifact is None:
        artifact, _ = small_artifact(options.out.parent, classes=100)
    _, top1 = train(artifact, options.out, options.data, options.image_count, options.epochs)
    print(f"model_best.pth.tar, loaded again: {top1:.1f}%")
    print(f"wrote {options.out / 'artifact'}")


if __name__ == "__main__":
    main()
