"""The program in docs/export.md runs an exported file where there is neither PyTorch nor dcnify."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import dcnify
from dcnify.artifact import load

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "export.md"
ABSENT = "import sys\nsys.modules |= {'torch': None, 'dcnify': None, 'onnx': None, 'PIL': None}\n"


def test_the_program_of_the_docs_names_the_same_classes(artifact, tmp_path):
    dcnify.export(artifact, tmp_path / "model.onnx")
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text("utf-8"), flags=re.M | re.S)
    (program,) = (one for one in blocks if "onnxruntime" in one)
    (tmp_path / "run.py").write_text(ABSENT + program)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "photo.npy", pixels)

    done = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = [line.split() for line in done.stdout.splitlines()]

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        scores = load(artifact)(image)[0].sort(descending=True)
    assert [int(label) for label, _ in printed] == scores.indices.tolist()
    found = torch.tensor([float(score) for _, score in printed])
    torch.testing.assert_close(found, scores.values, rtol=1e-4, atol=1e-5)
