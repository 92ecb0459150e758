"""Two processes that fine-tune together, as ``torchrun --nproc-per-node 2`` would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from support.processes import processes


def pair(target: Callable[..., None], *args: Any) -> list[int]:
    """Run ``target(*args)`` in both; their exit codes."""
    port = free_port()
    started = [
        processes().Process(target=_as_rank, args=(rank, port, target, *args)) for rank in (0, 1)
    ]
    for one in started:
        one.start()
    for one in started:
        one.join(600)
        one.kill()
    return [one.exitcode for one in started]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _as_rank(rank: int, port: int, target: Callable[..., None], *args: Any) -> None:
    number = str(rank)
    os.environ |= {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    target(*args)
