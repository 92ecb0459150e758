"""Processes that begin with torch, timm and dcnify imported, which takes a fresh one seconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


@dataclass(frozen=True)
class Finished:
    """What a program has printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def processes() -> Any:
    """A multiprocessing context whose processes begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.preloaded"])
    return context


def run_python(*arguments: object, cwd: Path) -> Finished:
    """Run a script, or a module after ``-m``, in ``cwd``, as ``python`` would.

    For programs that are tested for what they do. One that is tested for what it imports, or that
    is to start others, needs a `subprocess`.
    """
    with TemporaryDirectory() as folder:
        printed = [Path(folder, name) for name in ("out", "err")]
        words = [str(word) for word in arguments]
        process = processes().Process(target=_run, args=(words, cwd, printed))
        process.start()
        process.join()
        return Finished(process.exitcode, *(one.read_text("utf-8") for one in printed))


def _run(arguments: list[str], cwd: Path, printed: list[Path]) -> None:
    for descriptor, path in enumerate(printed, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    if arguments[0] == "-m":
        sys.argv, sys.path[:0] = arguments[1:], [str(cwd)]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:0] = arguments, [str(Path(arguments[0]).parent)]
        runpy.run_path(arguments[0], run_name="__main__")
