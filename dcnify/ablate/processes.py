"""Several workers on this machine: processes, GPUs and threads."""

from __future__ import annotations

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from dcnify.ablate.state.record import LOGS
from dcnify.ablate.state.store import Store
from dcnify.ablate.state.tally import Tally
from dcnify.errors import DcnifyError

_POLL, _PATIENCE = 0.5, 60.0
_MOST_RESTARTS = 10
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def work_in_processes(
    count: int, folder: Path, url: str, store: Store, tally: Tally, *, fail_fast: bool
) -> None:
    """Let ``count`` processes work until no trial is left; a killed one is replaced.

    Raises:
        DcnifyError: a worker cannot work, or, with ``fail_fast``, a trial failed.
    """
    told = json.dumps({"folder": str(folder), "url": url, "study": store.name})
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    workers = [_Process(number, count, folder, told) for number in range(count)]
    restarts = 0
    try:
        while any(one.is_running for one in workers):
            time.sleep(_POLL)
            tally.update()
            if fail_fast and tally.failed:
                error = (tally.failed[0].result or {}).get("error", "")
                raise DcnifyError(f"a trial failed: {error}")
            for one in workers:
                if one.code is not None and one.code < 0:
                    store.take_back()
                    restarts += 1
                    if restarts > _MOST_RESTARTS:
                        raise DcnifyError(f"workers are killed again and again, see {one.log}")
                    one.start()
                elif one.code:
                    raise DcnifyError(f"worker {one.number}: {one.last_words()}")
    finally:
        for one in workers:
            one.stop()
        for one in workers:
            one.wait()
        store.take_back()
        tally.update(now=True)


class _Process:
    """One worker. It ends when its standard input does, so that none outlives this process."""

    def __init__(self, number: int, count: int, folder: Path, told: str) -> None:
        self.number, self.log, self._told = number, folder / LOGS / f"{number}.log", told
        self._environment = {**os.environ, **_share(number, count)}
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dcnify.ablate.processes"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches it once, from here
            )
        assert self._process.stdin is not None
        self._process.stdin.write(self._told.encode() + b"\n")
        self._process.stdin.flush()

    @property
    def code(self) -> int | None:
        return self._process.poll()

    @property
    def is_running(self) -> bool:
        return self.code is None

    def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def wait(self) -> None:
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        lines = self.log.read_text("utf-8", "replace").strip().splitlines() or [""]
        return lines[-1].removeprefix("error: ")


def _share(number: int, count: int) -> dict[str, str]:
    """A worker's share of the machine: one GPU where there are several, and some of the cores."""
    import torch

    threads = (
        max(1, len(os.sched_getaffinity(0)) // count) if hasattr(os, "sched_getaffinity") else 1
    )
    share = {name: str(threads) for name in _THREADS}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    if len(gpus) > 1:
        share["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return share


def _end_with_parent() -> None:
    """Interrupt this process once its standard input ends, even where Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def wait() -> None:
        sys.stdin.read()
        _thread.interrupt_main()

    threading.Thread(target=wait, daemon=True).start()


def _main() -> int:
    """A worker process: what it is to do comes as a line of JSON."""
    told = json.loads(sys.stdin.readline())
    _end_with_parent()
    from dcnify.ablate.state.store import open_store
    from dcnify.ablate.worker import Worker

    try:
        store = open_store(told["url"], told["study"])
        Worker(store, Path(told["folder"])).work()
    except KeyboardInterrupt:
        return 0
    except DcnifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 0 if error.exit_code == 130 else error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main())
