"""Measures what docs/internimage.md says: exactness and speed on a CPU, and what flash keeps.

    python studies/internimage_numbers.py                # all three, about a quarter of an hour
    python studies/internimage_numbers.py exact speed    # some

Each part prints a table and writes ``docs/results/internimage-PART.csv``.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

# Threads that wait should sleep: spinning is several times slower on a machine that is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import timm
import torch
import torch.nn.functional as F
from plain_dcnv3 import in_plain_pytorch, layers_of, randomised
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import dcnify
from dcnify.bench.machine import describe
from dcnify.bench.timing import CpuClock, interleave
from dcnify.data import ClutteredDigits
from dcnify.models import INTERN_IMAGE
from dcnify.surgery.fidelity.measure import Agreement

RESULTS = Path(__file__).parents[1] / "docs" / "results"
HUGE = ("h", "g")

SEEDS = (0, 1, 2)
STUDIED = {"channels": 16, "depths": (1, 1, 3, 1), "groups": (1, 2, 4, 8), "num_classes": 10}
DIGITS = {"canvas": 64, "digit": 32, "piece": 10}
TRAINED_ON, BATCH, LEARNING_RATE = 40_000, 64, 3e-3
TUNED_FOR, TUNING_RATE = 100, 1e-3
"""Steps of the training that follows a conversion, and their learning rate."""
_LAYERS = "[transfer, {method: calibrate, model_steps: 0, "
STARTS = {
    "paper": ("paper", 32),
    "transfer": ("transfer", 32),
    "as the recipe has it": (_LAYERS + "batches: 8, steps: 0}]", 32),
    "the same, on 256 images": (_LAYERS + "batches: 64, steps: 0}]", 256),
    "256 images, steps: 100": (_LAYERS + "batches: 64, steps: 100}]", 256),
}
"""By name, ``init`` and how many images there are to calibrate on."""


def converted(model: nn.Module, images: Tensor, name: str, *overrides: str) -> nn.Module:
    """A converted copy."""
    recipe = dcnify.Recipe.load(name, overrides).model_copy(update={"require": None})
    return dcnify.convert(copy.deepcopy(model), recipe, images[:1], calibration=images).model


@torch.inference_mode()
def apart(model: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Norm of the outputs' difference over norm of the output of ``other``."""
    sums = Agreement()
    wide = next(other.parameters()).dtype
    sums.add(other(images.to(wide)), model(images))
    return sums.relative_error


def reduced(size: str) -> dict:
    """A published size with as many groups, of 8 channels each, and five blocks."""
    groups = INTERN_IMAGE[size]["groups"]
    options = {"channels": 8 * groups[0], "groups": groups, "depths": (1, 1, 2, 1)}
    return options | ({"post_norm_block_ids": (0, 1)} if size in HUGE else {})


def exact() -> list[dict]:
    """Relative errors of `internimage-exact` against DCNv3 in plain PyTorch."""
    generator = torch.Generator().manual_seed(1)
    small = torch.randn(2, 3, 96, 128, generator=generator)
    large = torch.randn(1, 3, 224, 224, generator=generator)
    rows = []
    for size in (*INTERN_IMAGE, "t in full"):
        full = size.endswith("full")
        images = large if full else small
        name, options = f"intern_image_{size}", {} if full else reduced(size)
        model = randomised(name.partition(" ")[0], **options)
        plain = in_plain_pytorch(model)
        wide, still = copy.deepcopy(plain).double(), copy.deepcopy(plain)
        for layer in layers_of(still):
            nn.init.zeros_(layer.offset.weight)
            nn.init.zeros_(layer.offset.bias)
        fused = converted(model, images, "internimage-exact")
        rows.append(
            {
                "model": name,
                "images": "x".join(map(str, images.shape)),
                "layers": len(layers_of(model)),
                "converted against plain": apart(fused, plain, images),
                "converted against plain in float64": apart(fused, wide, images),
                "plain against plain in float64": apart(plain, wide, images),
                "plain without its offsets against plain": apart(still, plain, images),
            }
        )
    return rows


def speed() -> list[dict]:
    """InternImage-T at 224x224 on three implementations, in one interleaved run."""
    model, clock = randomised("intern_image_t"), CpuClock()
    fused = converted(model, torch.randn(1, 3, 224, 224), "internimage-exact")
    models = {"DCNv3 in plain PyTorch": in_plain_pytorch(model)}
    models |= {"DCNv3 on our operator": model, "after internimage-exact": fused}
    rows = []
    for batch in (1, 4):
        images = torch.randn(batch, 3, 224, 224)
        calls = {name: (lambda one=one: one(images)) for name, one in models.items()}  # noqa: B023
        with torch.inference_mode():
            for call in calls.values():
                clock.warm_up(call)
            times = interleave(calls, clock, seconds=60)
        ours = times["after internimage-exact"].p50_us
        for name, seen in times.items():
            quantiles = (seen.p20_us, seen.p50_us, seen.p80_us)
            row = {
                "batch": batch,
                "model": name,
                "rounds": seen.rounds,
                "ratio": seen.p50_us / ours,
            }
            keys = ("p20 ms", "p50 ms", "p80 ms")
            rows.append(row | dict(zip(keys, (t / 1e3 for t in quantiles), strict=True)))
    return rows


def flash() -> list[dict]:
    """What `internimage-flash` keeps of small InternImages trained on the built-in digits."""
    train_set = ClutteredDigits("train", TRAINED_ON, **DIGITS)
    validation = ClutteredDigits("validation", **DIGITS)
    rows = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = timm.create_model("intern_image_t", **STUDIED)
        order = torch.randperm(TRAINED_ON)
        train(model, train_set, order, LEARNING_RATE)
        expected = logits(model, validation)
        without = copy.deepcopy(model)
        for layer in layers_of(without):
            nn.init.zeros_(layer.output_proj.weight)
            nn.init.zeros_(layer.output_proj.bias)
        models = {"original": model, "original, its DCNv3 layers set to zero": without}
        for name, (init, count) in STARTS.items():
            images = pixels(train_set, order[: count + -(-count // 3)])
            models[name] = converted(model, images, "internimage-flash", f"swaps.dcn.init={init}")
        for name, one in models.items():
            seen, sums = logits(one, validation), Agreement()
            sums.add(expected, seen)
            row = {"seed": seed, "model": name, "accuracy": right(seen, validation.labels)}
            row |= {"agreement": right(seen, expected.argmax(1)), "SQNR dB": sums.sqnr_db}
            if name in STARTS:
                torch.manual_seed(seed)
                train(one, train_set, order[: TUNED_FOR * BATCH], TUNING_RATE)
                row["accuracy trained on"] = right(logits(one, validation), validation.labels)
            rows.append(row)
            log(row)
    return rows


def pixels(data: ClutteredDigits, which: Tensor) -> Tensor:
    """Images (N, 3, H, W), normalised."""
    grey = (data.images[which].float() / 255 - 0.45) / 0.225
    return grey[:, None].expand(-1, 3, -1, -1)


def train(model: nn.Module, data: ClutteredDigits, order: Tensor, rate: float) -> None:
    """One pass over the images in ``order``."""
    batches = [batch for batch in order.split(BATCH) if len(batch) == BATCH]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=len(batches), pct_start=0.1
    )
    model.train()
    for batch in batches:
        loss = F.cross_entropy(model(pixels(data, batch)), data.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


@torch.inference_mode()
def logits(model: nn.Module, data: ClutteredDigits) -> Tensor:
    model.eval()
    return torch.cat([model(pixels(data, some)) for some in torch.arange(len(data)).split(250)])


def right(seen: Tensor, labels: Tensor) -> float:
    return (seen.argmax(1) == labels).double().mean().item()


PARTS: dict[str, Callable[[], list[dict]]] = {"exact": exact, "speed": speed, "flash": flash}


def shown(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.4g}"


def log(row: dict) -> None:
    Console(stderr=True, highlight=False).print(", ".join(map(shown, row.values())))


def write(rows: list[dict], path: Path) -> None:
    """One line a row, each with the machine and the versions."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    machine = {"date": date, **asdict(describe(torch.device("cpu"))), "timm": timm.__version__}
    columns = dict.fromkeys(key for row in rows for key in row)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*machine, *columns], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            short = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(machine | short)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for part in options.parts or PARTS:
        rows = PARTS[part]()
        write(rows, options.out / f"internimage-{part}.csv")
        columns = dict.fromkeys(key for row in rows for key in row)
        table = Table(*columns, title=PARTS[part].__doc__.splitlines()[0])
        for row in rows:
            table.add_row(*(shown(row.get(key, "")) for key in columns))
        Console(width=160, highlight=False).print(table)


if __name__ == "__main__":
    main()
