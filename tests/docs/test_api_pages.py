"""The pages of the Python API are made from docstrings without a warning."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pdoc")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_public_module_has_a_page_and_nothing_is_unresolved(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:pdoc", ROOT / "docs" / "api.py", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "index.html").is_file()
    for name in ("dcnify", "dcnify.surgery", "dcnify.nn"):
        page = (tmp_path / f"{name.replace('.', '/')}.html").read_text("utf-8")
        assert all(f'id="{one}"' in page for one in importlib.import_module(name).__all__[:3])
