"""Text files end with one newline, and no line ends with blanks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {".py", ".md", ".yaml", ".toml", ".txt", ".cff", ".json", ""}
AS_THEY_WERE_WRITTEN = ("tests/legacy/made/", "docs/results/")


def test_every_text_file_ends_with_one_newline_and_no_line_with_blanks():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs git")
    names = [one for one in listed.stdout.splitlines() if not one.startswith(AS_THEY_WERE_WRITTEN)]
    untidy = []
    for name in names:
        path = ROOT / name
        if path.suffix in SUFFIXES and path.is_file() and (text := path.read_text("utf-8")):
            one_newline = text.endswith("\n") and not text.endswith("\n\n")
            if not one_newline or any(line != line.rstrip() for line in text.split("\n")):
                untidy.append(name)
    assert untidy == []
