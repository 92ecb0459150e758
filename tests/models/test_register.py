"""PyTorch and timm learn ours from `import dcnify`, in any order, and nobody waits for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dcnify.nn import DCNv4

KNOWN = (
    "names = timm.list_models('*intern_image*', module='intern_image')",
    "assert len(names) == 11, names",
    "assert timm.is_model('flash_intern_image_t')",
)


def run(*lines: str) -> None:
    """Run a program of its own, which imports for the first time; a warning of timm's fails it."""
    program = [sys.executable, "-W", "error::UserWarning", "-c", "\n".join(lines)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_dcnify_alone_imports_neither_torch_nor_timm():
    run("import sys, dcnify", "assert not {'torch', 'timm'} & set(sys.modules)")


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["import dcnify, torch", "import torch, dcnify"])
def test_an_exported_program_loads_where_only_dcnify_is_imported(imports, tmp_path):
    program = torch.export.export(DCNv4(16), (torch.randn(1, 4, 4, 16),))
    torch.export.save(program, tmp_path / "layer.pt2")
    run(
        imports,
        f"layer = torch.export.load({str(tmp_path / 'layer.pt2')!r}).module()",
        "assert layer(torch.randn(1, 4, 4, 16)).shape == (1, 4, 4, 16)",
    )


@pytest.mark.slow
def test_timm_imported_afterwards_knows_the_models_and_is_left_as_it_was():
    run(
        "import sys, dcnify",
        "before = list(sys.meta_path)",
        "from timm.layers import DropPath",
        "import timm",
        *KNOWN,
        "assert set(sys.meta_path) < set(before), 'the finder has gone'",
        "assert type(timm.__loader__).__name__ == 'SourceFileLoader'",
        "assert timm.__spec__.loader is timm.__loader__",
    )


@pytest.mark.slow
def test_timm_imported_before_knows_the_models_and_reloading_registers_nothing_twice():
    run(
        "import importlib, timm",
        "assert not timm.is_model('intern_image_t')",
        "import dcnify",
        *KNOWN,
        "import dcnify",
        "importlib.reload(dcnify)",
        "importlib.reload(timm)",
        *KNOWN,
    )


@pytest.mark.slow
def test_looking_for_timm_and_reloading_before_it_is_imported_cost_it_nothing():
    run(
        "import sys, importlib, dcnify",
        "from importlib.util import find_spec",
        "assert find_spec('timm') and find_spec('timm')",
        "importlib.reload(dcnify)",
        "importlib.reload(importlib.import_module('dcnify._register'))",
        "importlib.reload(dcnify)",
        "assert find_spec('timm') and 'timm' not in sys.modules",
        "import dcnify.models, timm",
        *KNOWN,
    )


def test_where_there_is_no_timm_importing_it_fails_as_ever():
    run(
        "import sys, dcnify",
        "sys.path.clear()",
        "sys.path_importer_cache.clear()",
        "sys.meta_path[:] = [one for one in sys.meta_path if 'Editable' not in repr(one)]",
        "try:",
        "    import timm",
        "except ModuleNotFoundError as error:",
        "    assert error.name == 'timm'",
        "else:",
        "    raise AssertionError('imported')",
    )
