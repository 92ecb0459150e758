"""A blend of an old layer and the new one that takes over from it, which goes from 1 to 0."""

from __future__ import annotations

from itertools import chain
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dcnify.errors import InputError
from dcnify.nn.leaf import Leaf

OLD, BOTH, NEW = "old", "both", "new"
"""Which layers run: at blend 1, between, at blend 0."""
Pairs = list[tuple[Any, Any]]


class Handover(Leaf):
    """``blend · old(x) + (1 - blend) · new(x)``; at 1 and at 0 one of the two runs, alone.

    The old layer is frozen, except for parameters that it shares with the new one. Its training
    mode is the model's, so that its dropout and batch norms work as before. If both return a tuple,
    tensors are blended and the rest is the old layer's. The output has the old layer's memory
    format.

    At blend 1 the new layer gets no gradient through the output: lower the blend from the first
    step on, or add a loss on `pairs`.

    The blend is a persistent buffer, in float32 whatever dtype the model is cast to. Its value
    decides in Python which layers run, so a model compiles three times: for blend 1, for all
    values in between, and for 0. An exported model keeps its blend.

    Args:
        old: the layer that stood here.
        new: the layer that takes over, with the same inputs and output shape.
        blend: to begin with.

    Shapes:
        those of ``old`` and ``new``.

    Raises:
        InputError: the blend is not between 0 and 1; when called: the layers' shapes differ.
    """

    blend: Tensor

    def __init__(self, old: nn.Module, new: nn.Module, *, blend: float = 1.0) -> None:
        super().__init__()
        self.old, self.new = old, new
        tensors = chain(old.parameters(), old.buffers(), new.parameters())
        device = next((one.device for one in tensors), None)
        self.register_buffer("blend", torch.ones((), dtype=torch.float32, device=device))
        self.pairs: Pairs | None = None
        """Set it to a list to collect (old, new) outputs of every call, whatever the blend; see
        `dcnify.surgery.handover.both_outputs`. The old output is detached."""
        self.runs = OLD
        self._read_from: tuple[Tensor, int] | None = None
        self.frozen = self._freeze()
        self.training = old.training
        self.set_blend(blend)

    def _freeze(self) -> tuple[str, ...]:
        """Freeze the parameters that only the old layer has; return those that were trainable."""
        shared = {id(parameter) for parameter in self.new.parameters()}
        names = []
        for name, parameter in self.old.named_parameters():
            if parameter.requires_grad and id(parameter) not in shared:
                parameter.requires_grad_(False)
                names.append(name)
        return tuple(names)

    def thaw(self) -> None:
        """Undo the freezing, to keep the old layer."""
        for name in self.frozen:
            self.old.get_parameter(name).requires_grad_(True)
        self.frozen = ()

    @torch.no_grad()
    def set_blend(self, value: float) -> None:
        """Set the blend, in place.

        Raises:
            InputError: ``value`` is not a number from 0 to 1.
        """
        stored = _checked(value)
        if self.blend.is_inference() and not torch.is_inference_mode_enabled():
            self.blend = torch.full_like(self.blend, stored)
        else:
            self.blend.fill_(stored)
        self.runs = _who_runs(stored)
        self._read_from = self._present()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # Weight averaging changes the buffer, too. Reading it at each call would make the CPU wait
        # for the GPU.
        if not torch.compiler.is_compiling() and not self._is_read():
            self._read()
        if self.pairs is None and self.runs != BOTH:
            return (self.old if self.runs == OLD else self.new)(*args, **kwargs)
        old, new = self.old(*args, **kwargs), self.new(*args, **kwargs)
        if self.pairs is not None:
            self.pairs.append((tree_map(_detached, old), new))
        if self.runs == BOTH:
            try:
                return tree_map(self._blended, old, new)
            except ValueError as error:  # other types, or other numbers of items
                raise InputError(f"old and new layer return different things: {error}") from error
        return old if self.runs == OLD else new

    def __getattr__(self, name: str) -> Any:
        """Look up attributes that a model reads of its layer in the new layer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            new = self.__dict__.get("_modules", {}).get("new")
            if new is None or name.startswith("__"):
                raise
            return getattr(new, name)

    def _blended(self, old: Any, new: Any) -> Any:
        both = isinstance(old, Tensor) and isinstance(new, Tensor)
        if not both or not old.is_floating_point():
            return old
        if old.shape != new.shape:
            raise InputError(
                f"the old layer returns {tuple(old.shape)} and the new {tuple(new.shape)}: "
                "they cannot hand over at this input size"
            )
        return self.blend * old + (1 - self.blend) * new

    def _present(self) -> tuple[Tensor, int] | None:
        """Return a value that changes whenever the blend does; None if there is none."""
        return None if self.blend.is_inference() else (self.blend, self.blend._version)

    def _is_read(self) -> bool:
        seen, present = self._read_from, self._present()
        if seen is None or present is None:
            return False
        return seen[0] is present[0] and seen[1] == present[1]

    def _read(self) -> None:
        if not self.blend.is_meta:
            self.runs = _who_runs(self.blend.item())
            self._read_from = self._present()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._read()

    def _apply(self, fn: Any, recurse: bool = True) -> Handover:
        blend = self.blend
        super()._apply(fn, recurse)
        if self.blend.dtype != blend.dtype:  # half precision is too coarse for a schedule
            self.blend = blend.to(self.blend.device)
        self._read_from = None
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._read_from, self.pairs = None, None

    def extra_repr(self) -> str:
        return "" if self.blend.is_meta else f"blend={self.blend.item():.3g}"


def _checked(value: float) -> float:
    """Return ``value`` in float32, where a value between 0 and 1 is rounded to neither."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise InputError(f"a blend is a number from 0 to 1, not {value!r}")
    value, least = float(value), torch.finfo(torch.float32)
    return value if value in (0, 1) else min(max(value, least.tiny), 1 - least.eps / 2)


def _who_runs(blend: float) -> str:
    return OLD if blend == 1 else NEW if blend == 0 else BOTH


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
