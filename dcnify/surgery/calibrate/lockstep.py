"""Run a model on several batches that all stop at a layer until its replacement is there.

Fitting layers one after another, each to what the converted layers before it produce, would take as
many passes from the start as there are layers. Here every batch goes through the model once: its
pass waits at a layer until the new one has been fitted to the calls of all batches, and goes on
through that. The original model can run beside it, and stops at the same layers. A pass is a
thread, of which one runs at a time; nothing depends on their timing.
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

Replace = Callable[[str, list[Call], list[Call]], nn.Module]
"""(path of a layer, its call in each pass, and in each pass of the model beside) to the layer that
goes on in its place."""


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
    beside: nn.Module | None = None,
) -> None:
    """Run ``model`` on every example, asking ``replace`` for each layer once all have reached it.

    A layer that runs more than once in a pass is replaced at the first time. The model holds its
    own layers again afterwards, also if something fails.

    Args:
        model: in eval mode.
        examples: calls of the model, or images (B, C, H, W).
        layers: paths of layers; with each, its other paths.
        replace: called in the order in which the layers run.
        beside: a model of the same structure that runs on the same examples, with its own layers.

    Raises:
        Whatever the models or ``replace`` raise.
    """
    gates = _Gates(model, layers)
    passes = [_Pass(model, Example.of(example)) for example in examples]
    theirs = _Gates(beside, layers) if beside is not None else None
    twins = [_Pass(beside, Example.of(one)) for one in examples] if beside is not None else []
    both = dict(zip(passes, twins, strict=False))
    try:
        for some in (gates, theirs):
            if some is not None:
                some.close()
        for one in (*passes, *twins):
            one.start()
            one.advance()
        while waiting := [one for one in passes if one.waits_at is not None]:
            path = waiting[0].waits_at
            assert path is not None
            here = [one for one in waiting if one.waits_at == path]
            there = [twin for one in here if (twin := both.get(one)) and twin.waits_at == path]
            calls, originals = ([one.call for one in some if one.call] for some in (here, there))
            gates.open(path, replace(path, calls, originals))
            if theirs is not None:
                theirs.open(path, theirs.old[path])
            del calls, originals
            for one in (*here, *there):
                one.advance()
    finally:
        for some in (gates, theirs):
            if some is not None:
                some.remove()
        for one in (*passes, *twins):
            if one.ident is not None:
                one.stop()


class _Gates:
    """The gates of a model, at each layer and at its other paths."""

    def __init__(self, model: nn.Module, layers: Mapping[str, Iterable[str]]) -> None:
        self._model = model
        self.old = {path: model.get_submodule(path) for path in layers}
        self._gates = {path: _Gate(path, old) for path, old in self.old.items()}
        places = {alias: path for path in layers for alias in (path, *layers[path])}
        # Layers inside others first: a gate hides what is inside the layer that it stands for.
        self._places = dict(sorted(places.items(), key=lambda place: -place[0].count(".")))

    def close(self) -> None:
        for place, path in self._places.items():
            put_at(self._model, place, self._gates[path])

    def open(self, path: str, layer: nn.Module) -> None:
        self._gates[path].module = layer

    def remove(self) -> None:
        for place, path in reversed(self._places.items()):
            put_at(self._model, place, self.old[path])
