"""Rooms that load on first use, so that the command line can read requests without torch."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

ROOMS = ("dcnify.data", "dcnify.finetune")


def test_a_room_is_imported_without_torch():
    script = f"import sys, {', '.join(ROOMS)}; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_there_and_none_is_a_submodules(room):
    module = importlib.import_module(room)
    submodules = {one.name for one in pkgutil.iter_modules(module.__path__)}
    assert not submodules & set(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match=f"{room}.*has no attribute 'no_such_name'"):
        module.no_such_name  # noqa: B018
