# ruff: noqa: E501  a call is one line
"""The calls whose messages the golden file holds, and the files that they are about."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import timm
import torch

SWAP = """\
version: 1
name: x
swaps:
  - name: a
    select: {%s}
    replace: {%s}
    init: %s
%s"""
DEPTHWISE = "role: depthwise_conv"
PLAIN = "with: dcnv4, group_channels: 8"
RECIPES = {
    "good": (DEPTHWISE, PLAIN, "transfer", "finetune: [recover]\n"),
    "key": (f"{DEPTHWISE}, stagess: [2]", PLAIN, "fit", ""),
    "role": ("role: depthwise", PLAIN, "fit", ""),
    "replace": ("role: attention", "with: dcnv4, like: flash_intern_image", "fit", ""),
    "where": ("role: attention, where: {kernel: 7}", PLAIN, "transfer", ""),
    "value": (f"{DEPTHWISE}, where: {{kernel: big}}", PLAIN, "transfer", ""),
    "init": (DEPTHWISE, PLAIN, "transfr", ""),
    "method": (DEPTHWISE, PLAIN, "[fit, {method: calibrat}]", ""),
    "nothing": (f"{DEPTHWISE}, modules: ['stages.9.*']", PLAIN, "transfer", ""),
    "group": (DEPTHWISE, "with: dcnv4, group_channels: 7", "transfer", ""),
    "expect": (DEPTHWISE, PLAIN, "transfer", "    expect: {min: 99}\n"),
    "require": (
        DEPTHWISE, PLAIN, "paper", "    require: {sqnr_db: 90, on_violation: fail}\n"
    ),
    "revert": (
        DEPTHWISE, PLAIN, "paper", "    require: {sqnr_db: 90, on_violation: revert}\n"
    ),
    "certify": (DEPTHWISE, PLAIN, "transfer", "certify: {relative_error: 1.0e-9}\n"),
    "stage": (DEPTHWISE, PLAIN, "transfer", "finetune: [align, recove]\n"),
}  # fmt: skip
CODE = """
import torch
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 7, padding=3, groups=16))
def number():
    return 3
"""
CALLS = """
convert timm:convnext_tinny -r convnext -o x
convert timm: -r convnext -o x
convert nothing:foo -r convnext -o x
convert nowhere.pt -r convnext -o x
convert html.pt -r convnext -o x
convert evil.pt -r convnext -o x
convert empty.pt -r convnext -o x
convert short.pt -r convnext -o x
convert text.safetensors -r convnext -o x
convert several.pt -r convnext -o x
convert model.pt -r convnex -o x ARCH
convert model.pt -r broken.yaml -o x ARCH
convert model.pt -r later.yaml -o x ARCH
convert model.pt -r key.yaml -o x ARCH
convert model.pt -r role.yaml -o x ARCH
convert model.pt -r replace.yaml -o x ARCH
convert model.pt -r where.yaml -o x ARCH
convert model.pt -r value.yaml -o x ARCH
convert model.pt -r init.yaml -o x ARCH
convert model.pt -r method.yaml -o x ARCH
convert model.pt -r stage.yaml -o x ARCH
convert model.pt -r nothing.yaml -o x ARCH
convert model.pt -r group.yaml -o x ARCH
convert model.pt -r expect.yaml -o x ARCH
convert model.pt -r require.yaml -o x ARCH
convert model.pt -r revert.yaml -o x ARCH
convert model.pt -r certify.yaml -o x ARCH
convert model.pt -r vit -o x ARCH
convert model.pt -r good.yaml -o x --arch test_vit
convert model.pt -r good.yaml -o x --arch test_convnet
convert model.pt -r good.yaml -o x ARCH --model-arg depth=3
convert model.pt -r good.yaml -o x ARCH --model-arg depths
convert model.pt -r good.yaml -o x ARCH --set swaps.b.replace.kernel_size=5
convert model.pt -r good.yaml -o x ARCH --set swaps.a.replace.kernel_size=big
convert model.pt -r good.yaml -o x ARCH --set swaps.a.replace.kernel_siz=5
convert model.pt -r good.yaml -o x ARCH --set nonsense
convert model.pt -r good.yaml -o x ARCH --images nofolder
convert model.pt -r good.yaml -o x ARCH --images bare
convert model.pt -r good.yaml -o x ARCH --images builtin:digits
convert model.pt -r good.yaml -o x ARCH --plot picture.xyz
convert model.pt -r good.yaml -o x ARCH --image-count 0
convert model.pt -r good.yaml -o x ARCH --input-size big
convert model.pt -r good.yaml -o x.onnx ARCH
convert model.pt -r good.yaml -o good ARCH
convert model.pt -r good.yaml
convert
nonsense
inspect bare
inspect python:golden_code:number
inspect python:golden_code:nothere
inspect python:no_such_code:make
inspect python:golden_code
inspect timm:convnext_atto --input-size 5x
plan timm:resnet18 -r convnext --input-size 64
verify good
verify changed
verify nowhere
verify model.pt
verify bare
verify good --images builtin:cluttered-digits
export good
export nowhere -o m.onnx
export bare -o m.onnx
export good -o m
export good -o m.onnx --format onx
export good -o m.onnx --opset 18
export good -o m.onnx --form deformconv
export good -o m.onnx --dynamic batch,hight
export good -o m.onnx --dtype int8
export good -o m.onnx --max-error 0
export good -o m.onnx --max-error 1e-12
export good -o m.pt2 --form grid_sample
export good -o nofolder/m.onnx
export good -o model.pt --format pt2
bench model good --onnx nowhere.onnx
finetune model.pt --data builtin:cluttered-digits
finetune nowhere --data builtin:cluttered-digits
finetune good
finetune good --data nowhere --cpu
finetune good --data bare --cpu
finetune good --data builtin:digits --cpu
finetune good --data builtin:cluttered-digits --cpu -o good --overwrite
finetune good --data builtin:cluttered-digits --cpu -r recove
finetune good --data builtin:cluttered-digits --cpu -o t --resume
finetune good --data builtin:cluttered-digits --cpu --set finetune.stages.recover.optimizer.name=adamww
finetune good --data builtin:cluttered-digits --cpu --set finetune.stages.recover.step=3
finetune good --data builtin:cluttered-digits --cpu -o t
recipe show nonsense
recipe show alin
recipe validate key.yaml
recipe validate good.yaml
recipe copy convnext key.yaml
recipe nonsense
bench model nowhere
bench model model.pt
report bare
report good -o page.pdf
offsets good --image nowhere.png -o x.png
offsets good --image html.pt -o x.png
offsets good --image html.pt -o x.gif
offsets bare --image html.pt -o x.png
diff good convnext
diff bare good
diff model.pt good
diff convnex convnext
bench op --ablation --rivals sdpa
run convnex --source model.pt --data builtin:cluttered-digits -o x
run convnext --source nowhere.pt --data builtin:cluttered-digits -o x
run convnext
search model.pt --budget "latency<0.8" -o x
search model.pt --budget latncy<=0.8 -o x
search model.pt --budget "agreement<=0.9" -o x
search model.pt --budget flops<=2000000000 -o x
search model.pt --budget sites>=2.5 -o x
search model.pt --budget kl<=0.1 -o x --score fishr
search model.pt --budget kl<=0.1 -o x --init paper
"""


def commands() -> list[list[str]]:
    arch = "--arch test_convnext --input-size 64"
    return [shlex.split(line.replace("ARCH", arch)) for line in CALLS.strip().splitlines()]


class _RunsCode:
    def __reduce__(self):
        return os.system, ("true",)


def write_files() -> None:
    """Write what the calls are about into the current folder; `good` and `changed` are missing."""
    torch.manual_seed(0)
    torch.save(timm.create_model("test_convnext").state_dict(), "model.pt")
    torch.save({name: {"w": torch.zeros(2)} for name in ("a", "b")}, "several.pt")
    torch.save(_RunsCode(), "evil.pt")
    Path("html.pt").write_text("<!DOCTYPE html><html></html>")
    Path("empty.pt").touch()
    Path("short.pt").write_bytes(Path("model.pt").read_bytes()[:1000])
    Path("text.safetensors").write_text("hello there")
    Path("bare").mkdir()
    Path("golden_code.py").write_text(CODE)
    Path("broken.yaml").write_text("version: 1\nname: [\n")
    Path("later.yaml").write_text("version: 2\nname: x\nswaps: []\n")
    for name, parts in RECIPES.items():
        Path(f"{name}.yaml").write_text(SWAP % parts)
