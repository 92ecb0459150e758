"""What users are told, in one file: other tests pin places, keys and suggestions only.

`make wordings` writes ``wordings.txt`` anew; read the difference before you commit it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from dcnify.cli import main

sys.path.insert(0, str(Path(__file__).parent))
from calls import commands, write_files

FILE = Path(__file__).with_name("wordings.txt")
RENEW = "DCNIFY_RENEW_WORDINGS"
# Times, places in a file and numbers: other tests pin the places.
CHANGES_EACH_TIME = ((r"\d+:\d\d", "0:00"), (r"[\d.]+e[-+]\d+", "1e-1"), (r"\d+\.\d+%?", "0.0"))


@pytest.fixture
def place(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.syspath_prepend(tmp_path)
    write_files()
    convert = "convert model.pt -r good.yaml -o good --arch test_convnext --input-size 64 --quiet"
    assert main(convert.split()) == 0
    shutil.copytree("good", "changed")
    report = tmp_path / "changed" / "report.json"
    report.write_text(report.read_text().replace('"seed": 0', '"seed": 1'))
    capsys.readouterr()
    return tmp_path


@pytest.mark.slow
def test_users_are_told_what_the_golden_file_says(place, capsys):
    told = []
    for command in commands():
        code = main(command)
        out, err = capsys.readouterr()
        lines = [line for line in (err or out).splitlines() if line.strip()]
        told.append(f"$ dcnify {shlex.join(command)}\n{code}  {_steady(lines[-1:], place)}\n")
        for made in ("x", "t"):
            shutil.rmtree(place / made, ignore_errors=True)
    text = "\n".join(told)
    if os.environ.get(RENEW):
        FILE.write_text(text, "utf-8")
    assert text == FILE.read_text("utf-8"), "if the new wordings are meant: make wordings"


def _steady(lines: list[str], place: Path) -> str:
    """The line without what differs from run to run and from machine to machine."""
    line = "".join(lines).replace(str(place), "PLACE")
    for pattern, instead in CHANGES_EACH_TIME:
        line = re.sub(pattern, instead, line)
    return line.rstrip()
