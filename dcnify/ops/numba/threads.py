"""A few threads that share the work of one CPU kernel call, as many as PyTorch would use."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

_CHUNKS_PER_THREAD = 4
"""Chunks are taken by who is free: more even out threads of unequal speed, at a few µs each."""
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def share_out(tasks: int, work: Callable[[int, int], None], *, at_least: int = 1) -> None:
    """Run ``work(first, last)`` over ``range(tasks)``, in chunks, on several threads at once.

    Returns when all is done. ``work`` must release the GIL to gain anything, and may be given any
    chunks in any order; what it raises first is raised, and chunks not yet begun are dropped. The
    calling thread takes part, so a call gets on even if the pool's threads are busy with other
    calls, or Python is shutting down and there are none. ``at_least`` is the fewest tasks that are
    worth a thread.
    """
    threads = min(torch.get_num_threads(), tasks // max(1, at_least))
    if threads <= 1:
        if tasks:
            work(0, tasks)
        return
    chunks = min(tasks, threads * _CHUNKS_PER_THREAD)
    left = iter(range(chunks))  # next() on it is atomic
    failed = threading.Event()

    def take() -> None:
        for chunk in left:
            if failed.is_set():
                return
            try:
                work(tasks * chunk // chunks, tasks * (chunk + 1) // chunks)
            except BaseException:
                failed.set()
                raise

    helpers = _start(take, threads - 1)
    try:
        take()
    finally:
        # Those not begun have nothing left to do, and may wait behind other calls.
        begun = [helper for helper in helpers if not helper.cancel()]
        errors = [helper.exception() for helper in begun]
    for error in filter(None, errors):
        raise error


def _start(take: Callable[[], None], count: int) -> list[Future]:
    """Ask the pool to run ``take`` ``count`` times; fewer, or none, when Python shuts down."""
    global _pool
    helpers: list[Future] = []
    try:
        with _pool_lock:
            if _pool is None:
                _pool = ThreadPoolExecutor(max(32, os.cpu_count() or 1), "dcnify")
            pool = _pool
        for _ in range(count):
            helpers.append(pool.submit(take))
    except RuntimeError:
        pass
    return helpers


def _forget() -> None:
    """A forked child has none of its parent's threads, and maybe a lock nobody will release."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
