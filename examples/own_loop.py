"""A converted model in a training loop of one's own: plain PyTorch, and an artifact again.

    python examples/own_loop.py ARTIFACT -o OUT [--original MODEL] [--data DATA] [--steps N]

With the original it also learns the answers that the original gives. Without an artifact it makes a
small one, to see it run.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from small_artifact import small_artifact
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader

import dcnify
from dcnify.artifact import open_source, read_artifact, save_again
from dcnify.data import open_labelled


def train(artifact: Path, original: Path | None, out: Path, data: str, steps: int) -> list[float]:
    """Train for so many steps of 64 images, write the artifact; returns the loss of each step."""
    record = read_artifact(artifact)
    model = dcnify.load(artifact)
    teacher = open_source(original).model.eval() if original else None

    dataset = open_labelled(data, classes=model.num_classes).train
    config = {**resolve_model_data_config(model), "input_size": record.input_shape[1:]}
    dataset.transform = create_transform(**{**config, "crop_pct": 1.0})  # yours, for training
    loader = DataLoader(dataset, batch_size=64, shuffle=True, drop_last=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    # Offsets learn at a tenth of the rate, as published.
    named = list(model.named_parameters())
    offsets = [parameter for name, parameter in named if ".offset_mask." in name]
    others = [parameter for name, parameter in named if ".offset_mask." not in name]
    groups = [{"params": others}, {"params": offsets, "lr": 1e-4}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05)

    model.train()
    losses = []
    for images, labels in itertools.islice(batches, steps):
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        if teacher is not None:
            with torch.no_grad():
                answer = F.softmax(teacher(images), dim=1)
            loss = loss + F.cross_entropy(logits, answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    # The fidelity that the report holds was that of the weights before.
    report = {"conversion": record.report, "trained": {"data": data, "steps": steps}}
    save_again(record, model.eval(), record.plan, out, report=report, overwrite=True)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path, nargs="?", help="a small one is made by default")
    parser.add_argument("--original", type=Path, help="the model from before the conversion")
    parser.add_argument("--data", default="builtin:cluttered-digits")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("-o", "--out", type=Path, default=Path("example-out/own-loop"))
    options = parser.parse_args()

    artifact, original = options.artifact, options.original
    if artifact is None:
        artifact, original = small_artifact(options.out.parent)
    losses = train(artifact, original, options.out, options.data, options.steps)
    print(f"loss {losses[0]:.2f}, and after {len(losses)} steps {losses[-1]:.2f}")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
