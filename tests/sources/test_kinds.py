"""Every kind of file that people hold: what happens, as docs/artifacts.md has it.

`DCNIFY_RENEW_WORDINGS=1 pytest tests/sources/test_kinds.py -m slow` writes the table anew.
"""

import contextlib
import os
import re
from pathlib import Path

import pytest
import torch
from support.files_of_pytorch import ARCH, Opening
from support.kinds import OPENED, REFUSED

from dcnify.artifact import open_source
from dcnify.errors import InputError
from dcnify.words import first_line

PAGE = Path(__file__).resolve().parents[2] / "docs" / "artifacts.md"
START, END = "<!-- kinds of files -->\n", "<!-- end of kinds -->\n"
LONGEST = 240
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def opened(folder, make):
    """The opened source, and the model that was saved."""
    made = make(folder)
    made = made if isinstance(made, Opening) else Opening(made)
    options = {"arch": ARCH, **made.options}
    return open_source(made.path, **{k: v for k, v in options.items() if v is not None}), made


def in_short(text, folder):
    """A message or a note without the folder, cut to a table's width."""
    text = text.replace(f"{folder}/", "").replace(str(folder), "FOLDER").replace("|", r"\|")
    text = re.sub(r"/tmp/\S*/", "", text).replace("<", "&lt;")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def whose(error):
    """The library whose words the message ends with."""
    cause = error.__context__
    told = cause is not None and not isinstance(cause, InputError) and first_line(cause)
    if not told or told[:40] not in str(error):
        return "dcnify"
    name = type(cause).__module__.partition(".")[0]
    return {"builtins": "PyTorch", "zipfile": "Python's zipfile"}.get(name, name)


def rows(tmp_path):
    torch.manual_seed(0)
    yield "| file | what happens | whose words |", "|---|---|---|"
    for number, (kind, make) in enumerate(OPENED.items()):
        folder = tmp_path / f"o{number}"
        folder.mkdir()
        source, made = opened(folder, make)
        images = torch.randn(1, *(source.input_size or (3, 64, 64)))
        with torch.no_grad():
            given, wanted = source.model(images), made.model.eval()(images)
        same = zip(*((x if isinstance(x, list) else [x]) for x in (given, wanted)), strict=True)
        for mine, theirs in same:
            mine = getattr(mine, "logits", mine)
            torch.testing.assert_close(
                mine, getattr(theirs, "logits", theirs), msg=kind, rtol=1e-4, atol=1e-5
            )
        note = in_short(next(iter(source.notes), ""), folder)
        yield (f"| {kind} | opens{': ' if note else ''}{note} | |",)
    for number, (kind, make) in enumerate(REFUSED.items()):
        folder = tmp_path / f"r{number}"
        folder.mkdir()
        with pytest.raises(InputError) as caught:
            opened(folder, make)
        assert len(str(caught.value).splitlines()) == 1
        yield (f"| {kind} | {in_short(str(caught.value), folder)} | {whose(caught.value)} |",)


def test_every_kind_of_file_does_what_the_table_says(tmp_path):
    table = "".join(f"{line}\n" for lines in rows(tmp_path) for line in lines)
    assert table.count("\n") > 80
    text = PAGE.read_text()
    before, _, rest = text.partition(START)
    written, _, after = rest.partition(END)
    if os.environ.get("DCNIFY_RENEW_WORDINGS"):
        PAGE.write_text(before + START + table + END + after)
        return
    assert table == written


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a Unix thing")
def test_a_named_pipe_and_a_device_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.pt")
    for place in (tmp_path / "m.pt", "/dev/zero", "/dev/null"):
        with contextlib.suppress(FileNotFoundError), pytest.raises(InputError):
            open_source(place, arch=ARCH)
