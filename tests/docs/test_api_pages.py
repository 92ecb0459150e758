"""The pages of the Python API are made from docstrings without a warning."""

from __future__ import annotations

import importlib
import runpy
import warnings
from pathlib import Path

import pytest

pytest.importorskip("pdoc")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_public_module_has_a_page_and_nothing_is_unresolved(tmp_path):
    write_pages = runpy.run_path(str(ROOT / "docs" / "api.py"))["write_pages"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, module="pdoc")
        write_pages(tmp_path)
    assert (tmp_path / "index.html").is_file()
    for name in ("dcnify", "dcnify.surgery", "dcnify.nn"):
        page = (tmp_path / f"{name.replace('.', '/')}.html").read_text("utf-8")
        assert all(f'id="{one}"' in page for one in importlib.import_module(name).__all__[:3])
