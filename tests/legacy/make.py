"""Make the folders beside this file, with the version of dcnify that README.md names.

Run it in a checkout of that version, with the interpreter of its virtual environment:

    git worktree add /tmp/then 417073a
    cd /tmp/then && OMP_NUM_THREADS=1 python cli.py --version
    OMP_NUM_THREADS=1 python .../tests/legacy/make.py .../tests/legacy

The tests do not run it: what it makes is what people have on disk, and is never made again.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16], "num_classes": 10, "patch_size": 2}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
INTERN = {
    "channels": 4,
    "groups": [1, 1, 2, 4],
    "depths": [1, 1, 1, 1],
    "mlp_ratio": 1,
    "num_classes": 5,
}

DEPTHWISE = """\
version: 1
name: depthwise
swaps:
  - name: dw
    select: {role: depthwise_conv}
    replace: {with: dcnv4, group_channels: 8, dw_kernel_size: 3}
    init: fit
"""
HANDOVER = """\
version: 1
name: handover
swaps:
  - name: early
    select: {role: depthwise_conv, stages: [0, 1]}
    replace: {with: dcnv4, group_channels: 8}
    init: transfer
  - name: late
    select: {role: depthwise_conv, stages: [2, 3]}
    replace: {with: dcnv4, group_channels: 4, kernel_size: 5, pointwise: false}
    init: transfer
    handover: true
"""
ATTENTION = """\
version: 1
name: attention
swaps:
  - name: attention
    select: {role: attention}
    replace: {with: dcnv4, group_channels: 8, prefix: attend}
    init: transfer
"""
STAGES = """\
seed: 3
stages:
  - name: align
    steps: 6
    train: "@swapped"
    batch_size: 16
    losses: {layers: 1, features: 0.5}
    optimizer: {lr: 2.0e-3}
    augment: {crop_scale: [0.5, 1], hflip: 0.5}
  - name: recover
    steps: 60
    batch_size: 16
    losses: {labels: 1, logits: 0.5, features: 0.5}
    optimizer: {lr: 2.0e-3}
    augment: {crop_scale: [0.5, 1], hflip: 0.5, mixup: 0.2, erase: 0.2}
    ema: 0.9
    handover: {until: 0.6}
"""
FINETUNE = (
    "finetune handover -o trained -r stages.yaml --data builtin:cluttered-digits --cpu --quiet "
    "--image-count 96 --workers 0 --validate-every 1000 --checkpoint-every 1"
)
INTERRUPT_AFTER = "01-00000012"


def main() -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    checkout, target = Path.cwd(), Path(sys.argv[1]).resolve()
    os.chdir(target)  # so that what is written names its source by a relative path

    def dcnify(line: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, checkout / "cli.py", *line.split()])

    def convert(line: str) -> None:
        assert dcnify(f"convert {line} --quiet --image-count 2").wait() == 0

    def source(name: str, arch: str, arguments: dict) -> str:
        torch.manual_seed(0)
        model = timm.create_model(arch, **arguments)
        with torch.no_grad():
            for parameter in model.parameters():  # fresh offsets, weights and scales are zero
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        save_file(model.state_dict(), f"{name}.safetensors")
        given = " ".join(
            f"--model-arg {key}={json.dumps(value, separators=(',', ':'))}"
            for key, value in arguments.items()
        )
        return f"{name}.safetensors --arch {arch} {given}"

    sys.path.insert(0, str(checkout))
    import dcnify as package

    package.__path__.append(str(checkout))
    print(package.__file__, package.__version__)
    for name in ("DEPTHWISE", "HANDOVER", "ATTENTION"):
        Path(f"{name.lower()}.yaml").write_text(globals()[name])
    Path("stages.yaml").write_text(STAGES)

    convnext = source("convnext", "convnext_atto", {**CONVNEXT, "drop_path_rate": 0.2})
    convert(f"{convnext} -r depthwise.yaml -o depthwise --input-size 32")
    convert(f"{convnext} -r depthwise.yaml -o depthwise.pt --input-size 32")
    convert(f"{convnext} -r handover.yaml -o handover --input-size 32")
    vit = source("vit", "vit_tiny_patch16_224", {**VIT, "num_classes": 5})
    convert(f"{vit} -r attention.yaml -o attention --input-size 32")
    intern = source("intern_image", "intern_image_t", INTERN)
    convert(f"{intern} -r internimage-exact -o exact --input-size 64")
    convert(
        f"{intern} -r internimage-flash -o flash --input-size 64 --set swaps.dcn.init.1.batches=1"
    )

    whole = dcnify(FINETUNE)
    assert whole.wait() == 0
    shutil.rmtree("whole", ignore_errors=True)
    Path("trained").rename("whole")
    halted = dcnify(FINETUNE)
    while not (target / "trained/finetune/checkpoints" / INTERRUPT_AFTER).exists():
        time.sleep(0.002)
    halted.send_signal(signal.SIGINT)
    assert halted.wait() == 130
    checkpoints = sorted((target / "trained/finetune/checkpoints").iterdir())
    shutil.rmtree(checkpoints[0])
    made = {"dcnify": package.__version__, "torch": torch.__version__, "timm": timm.__version__}
    machine = {"processor": _processor(), "python": platform.python_version(), **made}
    Path("made.json").write_text(json.dumps(machine, indent=1) + "\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(one.split(":")[1].strip() for one in lines if one.startswith("model name"))


if __name__ == "__main__":
    main()
