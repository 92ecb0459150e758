"""Who runs a trial: a process, named so that others on the same machine see when it is gone."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from typing import Any


@cache
def machine() -> str:
    """This machine since it was started, and the part of it whose processes have numbers here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{socket.gethostname()} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux: the heartbeat tells
        return ""


def this_process() -> dict[str, Any]:
    """This process as JSON-ready data."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": pid,
        "started": _started(pid),
    }


def is_gone(owner: dict[str, Any]) -> bool:
    """Whether a process of this machine has ended; False for others, of which nobody here knows."""
    if not machine() or owner.get("machine") != machine():
        return False
    return _started(owner["pid"]) != owner["started"]


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None if there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
