"""Write the pages of the Python API from its docstrings: ``python docs/api.py FOLDER``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pdoc

import dcnify

ROOMS = ("errors", "sources", "verify", "finetune", "bench", "report", "pipeline")
"""Public, and not among the names that `dcnify` hands on."""
INTERNAL = (r"!dcnify\.(kernels|recipes)", r"!dcnify\.(?!ops\.reference)\w+\.\w+")


def write_pages(folder: Path) -> None:
    """Write one page for each public module, and an index."""
    modules = ["dcnify", *(f"dcnify.{room}" for room in ROOMS)]
    for name in (*modules, *(f"dcnify.{one}" for one in dcnify._ROOMS)):
        module = importlib.import_module(name)
        for one in getattr(module, "__all__", ()):
            setattr(module, one, getattr(module, one))  # pdoc skips what loads on first use
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(*modules, *INTERNAL, output_directory=folder)


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
