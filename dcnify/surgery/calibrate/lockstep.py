"""Run a model on several batches that all stop at a layer until its replacement is there.

Fitting layers one after another, each to what the converted layers before it produce, would take as
many passes from the start as there are layers. Here every batch goes through the model once: its
pass waits at a layer until the new one has been fitted to the calls of all batches, and goes on
through that. A pass is a thread, of which one runs at a time; nothing depends on their timing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.graph.calls import Call
from dcnify.graph.example import Example
from dcnify.surgery.build import put_at

Replace = Callable[[str, list[Call]], nn.Module]
"""(path of a layer, its call in each pass) to the layer that goes on in its place."""


class _Stopped(Exception):
    """Another pass has failed, or this one is no longer needed."""


class _Pass(threading.Thread):
    """One forward pass, which runs only while the main thread waits for it."""

    def __init__(self, model: nn.Module, example: Example) -> None:
        super().__init__(daemon=True)
        self.waits_at: str | None = None
        self.call: Call | None = None
        self.error: BaseException | None = None
        self._model, self._example = model, example
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._stopped = False

    def run(self) -> None:
        self._go.acquire()
        try:
            if not self._stopped:
                with torch.no_grad():
                    self._example.call(self._model)
        except _Stopped:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.waits_at = None
            self._back.release()

    def advance(self) -> None:
        """Run to the next layer that waits, or to the end."""
        self.waits_at = self.call = None
        self._go.release()
        self._back.acquire()
        if self.error is not None:
            raise self.error

    def pause(self, path: str, call: Call) -> None:
        """Wait for the layer at ``path``; called from within the pass."""
        self.waits_at, self.call = path, call
        self._back.release()
        self._go.acquire()
        if self._stopped:
            raise _Stopped

    def stop(self) -> None:
        self._stopped = True
        if self.is_alive():
            self._go.release()
            self.join()


class _Gate(nn.Module):
    """Stands in for a layer and makes passes wait until there is a new one."""

    def __init__(self, path: str, old: nn.Module) -> None:
        super().__init__()
        self.path = path
        self.module: nn.Module | None = None
        self._old = [old]  # in a list: not a submodule

    def __getattr__(self, name: str) -> Any:
        """Settings that the model reads of the layer are the old layer's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_old"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.module is None:
            current = threading.current_thread()
            assert isinstance(current, _Pass)
            current.pause(self.path, Call(args, kwargs))
        assert self.module is not None
        return self.module(*args, **kwargs)


def run_in_lockstep(
    model: nn.Module,
    examples: Sequence[Example | Tensor],
    layers: Mapping[str, Iterable[str]],
    replace: Replace,
) -> None:
    """Run ``model`` on every example, asking ``replace`` for each layer once all have reached it.

    A layer that runs more than once in a pass is replaced at the first time. The model holds its
    own layers again afterwards, also if something fails.

    Args:
        model: in eval mode.
        examples: calls of the model, or images (B, C, H, W).
        layers: paths of layers; with each, its other paths.
        replace: called in the order in which the layers run.

    Raises:
        Whatever the model or ``replace`` raises.
    """
    gates = {path: _Gate(path, model.get_submodule(path)) for path in layers}
    places = {alias: gate for path, gate in gates.items() for alias in (path, *layers[path])}
    old = {place: model.get_submodule(place) for place in places}
    passes = [_Pass(model, Example.of(example)) for example in examples]
    try:
        for place, gate in places.items():
            put_at(model, place, gate)
        for one in passes:
            one.start()
            one.advance()
        while waiting := [one for one in passes if one.waits_at is not None]:
            path = waiting[0].waits_at
            assert path is not None
            here = [one for one in waiting if one.waits_at == path]
            gates[path].module = replace(path, [one.call for one in here if one.call is not None])
            for one in here:
                one.advance()
    finally:
        for place, module in old.items():
            put_at(model, place, module)
        for one in passes:
            if one.ident is not None:
                one.stop()
