"""Measures what the loop of ``dcnify finetune`` costs beside a bare PyTorch loop.

    OMP_NUM_THREADS=1 python studies/finetune_overhead.py
    python studies/finetune_overhead.py --model convnext_tiny --size 224 --batch 64 --amp bf16

Both train the same converted model on the same images, loaded, augmented and optimised alike: by
labels alone, and as the preset ``recover`` does, with the original's answers and an average of the
weights. They take turns, an epoch each, in one process; the ratio is that of neighbouring turns.
Without a GPU the time is that which the process has had of the CPU, so other work does not count.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# Threads that wait should sleep: spinning is several times slower on a machine that is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import timm
import torch
from timm.data import resolve_model_data_config
from timm.utils import ModelEmaV3
from torch import nn

import dcnify
from dcnify.cli.output import console, table
from dcnify.data import open_labelled
from dcnify.finetune.checkpoints import Checkpoints, TrainingState
from dcnify.finetune.interrupt import Interrupt
from dcnify.finetune.metrics import Reporter
from dcnify.finetune.run import TrainingRun
from dcnify.finetune.spec import Options
from dcnify.finetune.training.loaders import training_loader
from dcnify.finetune.training.loop import train_stage
from dcnify.finetune.training.optimizer import create_optimizer
from dcnify.finetune.training.stage import StageTrainer
from dcnify.inherit.distance import kl_divergence
from dcnify.recipe.finetune.section import Finetune

CASES = {
    "labels": {"losses": {"labels": 1}},
    "labels, logits, EMA": {"losses": {"labels": 1, "logits": 1}, "ema": 0.999},
}


clock = time.perf_counter if torch.cuda.is_available() else time.process_time


def main() -> None:
    """Print images per second of both loops, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="convnext_atto", help="as timm names it")
    parser.add_argument("--size", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--amp", choices=["no", "fp16", "bf16"], default="no")
    asked = parser.parse_args()
    rows = []
    for name, case in CASES.items():
        ours, bare = _taking_turns(asked, case)
        ratios = np.percentile(np.array(bare) / np.array(ours), (20, 50, 80))
        images = asked.batch * asked.steps
        rates = [f"{images / np.median(times):.1f}" for times in (ours, bare)]
        rows.append([name, *rates, *(f"{ratio:.3f}" for ratio in ratios)])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(
        f"{asked.model}, {asked.size}x{asked.size}, batch {asked.batch}, amp {asked.amp}, "
        f"{asked.workers} workers, {asked.turns} turns of {asked.steps} steps; {device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, timm {timm.__version__}"
    )
    columns = ["loss", ">images/s", ">bare loop", ">ratio p20", ">p50", ">p80"]
    console().print(table(columns, rows))


def _taking_turns(asked: argparse.Namespace, case: dict[str, Any]) -> tuple[list, list]:
    """Seconds of each turn of ours, and of the bare loop's."""
    torch.manual_seed(0)
    original = timm.create_model(asked.model, num_classes=10)
    example = torch.randn(1, 3, asked.size, asked.size)
    recipe = dcnify.Recipe.load("convnext", overrides=["swaps.dw7.init=transfer"])
    result = dcnify.convert(copy.deepcopy(original), recipe, example)
    written = {
        "name": "timed",
        "steps": asked.steps * (asked.turns + 1),
        "batch_size": asked.batch,
        "optimizer": {"lr": 1e-4},
        "amp": asked.amp,
        **case,
    }
    plan = Finetune.model_validate({"stages": [written]})
    canvas = f"builtin:cluttered-digits?canvas={asked.size}"
    data = open_labelled(canvas, classes=10, count=asked.batch * asked.steps)
    config = {**resolve_model_data_config(original), "input_size": (3, asked.size, asked.size)}
    with tempfile.TemporaryDirectory() as folder:
        turns = (
            _ours(result, original, plan, data, config, Path(folder), asked),
            _bare(copy.deepcopy(result.model), original, plan.stages[0], data, config, asked),
        )
        seconds: tuple[list, list] = ([], [])
        for number in range(asked.turns + 1):
            for which in (0, 1) if number % 2 else (1, 0):
                started = clock()
                turns[which]()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if number:  # the first is to warm up
                    seconds[which].append(clock() - started)
    return seconds


def _ours(
    result: Any,
    original: nn.Module,
    plan: Finetune,
    data: Any,
    config: dict[str, Any],
    folder: Path,
    asked: argparse.Namespace,
) -> Callable[[], None]:
    """One epoch of our loop with each call."""
    run = TrainingRun(
        model=copy.deepcopy(result.model),
        swaps=result.plan,
        original=copy.deepcopy(original),
        swapped=[swap.site.path for swap in result.plan.swaps],
        plan=plan,
        data=replace(data, validation=None),
        config=config,
        folder=folder,
        options=Options(seed=0, workers=asked.workers, keep_every=10**9),
        reporter=Reporter(folder / "metrics.jsonl"),
        checkpoints=Checkpoints(folder / "checkpoints", print),
        interrupt=Interrupt(),
    )
    stage, at = StageTrainer(run, 0, None), TrainingState()

    def turn() -> None:
        nonlocal at
        whole, stage.steps = stage.steps, at.step + asked.steps
        at = train_stage(stage, run, at)
        stage.steps = whole

    return turn


def _bare(
    model: nn.Module,
    original: nn.Module,
    stage: Any,
    data: Any,
    config: dict[str, Any],
    asked: argparse.Namespace,
) -> Callable[[], None]:
    """One epoch of what one would write by hand with each call."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device, memory_format=torch.channels_last).train()
    original = copy.deepcopy(original).to(device, memory_format=torch.channels_last).eval()
    optimizer = create_optimizer(model, stage.optimizer, stage.batch_size)
    loader = training_loader(data.train, stage, config, asked.workers)
    average = ModelEmaV3(model, stage.ema, use_warmup=True) if stage.ema else None
    dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[asked.amp]
    scaler = torch.amp.GradScaler(device.type, enabled=asked.amp == "fp16")

    def turn() -> None:
        for images, labels in loader:
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            with torch.autocast(device.type, dtype, enabled=asked.amp != "no"):
                output = model(images)
                loss = nn.functional.cross_entropy(output, labels)
                if stage.losses.logits:
                    with torch.no_grad():
                        wanted = original(images)
                    loss = loss + kl_divergence(
                        output.float(), wanted.float(), stage.losses.temperature
                    )
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), stage.optimizer.clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if average is not None:
                average.update(model)

    return turn


if __name__ == "__main__":
    main()
