"""What the test suite and the Makefile promise to whoever adds to them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_a_test_that_reaches_for_the_network_fails():
    with socket.socket() as reaching, pytest.raises(OSError, match="do not use the network"):
        reaching.connect(("192.0.2.1", 80))


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    "target",
    [
        "help",
        "demo",
        "test",
        "lint",
        "types",
        "test-slow",
        "docs",
        "wordings",
        "study",
        "real-study",
        "finetune-study",
    ],
)
def test_make_knows_its_targets_from_any_folder(target, tmp_path):
    dry = ["make", "-C", str(ROOT), "-n", target]
    done = subprocess.run(dry, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_continuous_integration_runs_the_whole_suite():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert {"make test", "make test-slow"} <= set(script.read_text().splitlines())
