"""The CPU kernels are compiled once and kept; where they cannot be, calls do without them."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from dcnify.ops.numba import launch as numba_path

pytest.importorskip("numba")


def python(program: str, cwd: pathlib.Path | None = None, **environment: str) -> str:
    """What a fresh Python prints."""
    run = subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", program],
        env=os.environ | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


ONE_CALL = """
import torch
from dcnify.ops.numba import launch as numba_path
from dcnify.ops.sampling import Sampling
one = torch.ones(1, 1, 1, 1)
def call():
    offset = torch.zeros(1, 1, 1, 1, 2)
    return numba_path.forward(one, offset, one[..., None], Sampling(1, padding=0, groups=1)).item()
"""


@pytest.mark.slow
def test_importing_the_operators_does_not_import_numba():
    program = "import sys, dcnify.ops.numba.launch; print('numba' in sys.modules)"
    assert python(program).strip() == "False"


@pytest.mark.slow
def test_without_numba_the_kernels_are_not_available():
    program = "import sys; sys.modules['numba'] = None\n" + ONE_CALL
    assert python(program + "print(numba_path.available())").strip() == "False"


@pytest.mark.slow
def test_a_numba_that_is_broken_is_done_without_and_one_warning_says_so():
    program = """
import sys
class Broken:
    def find_spec(self, name, path, target=None):
        if name == "numba.core":
            raise OSError("libllvmlite.so: cannot open shared object file")
sys.meta_path.insert(0, Broken())
import torch
from dcnify.ops import dcnv4
for _ in range(2):
    print(tuple(dcnv4(torch.randn(1, 4, 4, 32), torch.randn(1, 4, 4, 112)).shape))
"""
    printed = python(program)
    assert printed.count("(1, 4, 4, 32)") == 2
    assert printed.count("RuntimeWarning") == 1
    assert "libllvmlite.so" in printed


@pytest.mark.slow
def test_if_the_kernels_do_not_compile_they_are_not_available_and_one_warning_says_so():
    program = ONE_CALL + "print(numba_path.available(), numba_path.available())"
    printed = python(program, NUMBA_DISABLE_JIT="1")
    assert "False False" in printed
    assert printed.count("RuntimeWarning") == 1


ONE_KERNEL = """
import sys, types, dcnify, numpy
# The kernels alone: what else is in this room imports torch, which takes seconds.
sys.modules["dcnify.ops"] = ops = types.ModuleType("dcnify.ops")
ops.__path__ = [dcnify.__path__[0] + "/ops"]
from dcnify.ops.numba.forward import pack
from dcnify.ops.numba.points import CallLayout
def plane():
    assert "torch" not in sys.modules
    image, planes = numpy.full(1, 5, "f"), numpy.full(4 * 3, 7, "f")
    pack(0, 4, image, planes, CallLayout(**dict.fromkeys(CallLayout._fields, 1)))
    return [*planes.astype(int)].index(5), planes.sum()
def hits():
    return sum(pack.stats.cache_hits.values())
"""


@pytest.mark.slow
def test_a_second_process_reads_what_the_first_compiled(tmp_path):
    program = ONE_KERNEL + "print(*plane(), hits())"
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert [python(program, **cache).split() for _ in range(2)] == [
        ["7", "5.0", "0"],
        ["7", "5.0", "1"],
    ]


@pytest.mark.slow
def test_without_a_folder_to_write_to_kernels_are_compiled_each_time(tmp_path):
    (tmp_path / "file").touch()
    nowhere = {
        "NUMBA_CACHE_DIR": str(tmp_path / "file" / "folder"),
        "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
    }
    assert python(ONE_KERNEL + "print(*plane(), hits())", **nowhere).split() == ["7", "5.0", "0"]


def test_a_cache_folder_that_fails_later_does_not_stop_a_call(tmp_path):
    program = ONE_KERNEL + (
        "import pathlib, shutil\n"
        f"folder = pathlib.Path({str(tmp_path / 'cache')!r})\n"
        "shutil.rmtree(folder); folder.touch()\n"
        "print(*plane(), hits())"
    )
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert python(program, **cache).split() == ["7", "5.0", "0"]


@pytest.mark.slow
def test_kernels_are_compiled_again_when_a_file_they_inline_has_changed(tmp_path):
    ops = pathlib.Path(numba_path.__file__).parents[2]
    shutil.copytree(ops, tmp_path / "dcnify")
    program = "import sys; sys.path.insert(0, '.')\n" + ONE_KERNEL + "print(*plane(), hits())"
    here = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    before = [python(program, cwd=tmp_path, **here).split()[2] for _ in range(2)]
    with (tmp_path / "dcnify" / "ops" / "numba" / "vectors.py").open("a") as file:
        file.write("# changed\n")
    assert [*before, python(program, cwd=tmp_path, **here).split()[2]] == ["0", "1", "0"]


@pytest.mark.slow
def test_kernels_are_compiled_again_when_the_cache_refers_to_a_class_that_is_gone(tmp_path):
    shutil.copytree(pathlib.Path(numba_path.__file__).parents[2], tmp_path / "dcnify")
    program = "import sys; sys.path.insert(0, '.')\n" + ONE_KERNEL + "print(*plane(), hits())"
    here = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    python(program, cwd=tmp_path, **here)
    points = tmp_path / "dcnify" / "ops" / "numba" / "points.py"
    points.write_text(points.read_text().replace("CallLayout", "Renamed"))
    program = program.replace("CallLayout", "Renamed")
    after = [python(program, cwd=tmp_path, **here).split() for _ in range(2)]
    assert after == [["7", "5.0", "0"], ["7", "5.0", "1"]]
