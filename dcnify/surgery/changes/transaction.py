"""Transaction: new layers put into a live model, and the way back."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dcnify.graph.channels import Neighbours
from dcnify.nn import connect_grids
from dcnify.surgery.build import get, put
from dcnify.surgery.changes.bias_removal import Removed, remove_biases, restore_biases
from dcnify.surgery.changes.neighbours import give_back, tensors_of
from dcnify.surgery.changes.snapshot import Snapshot
from dcnify.surgery.handover import begin
from dcnify.surgery.plan import Plan

LayerStates = Mapping[str, Mapping[str, Tensor]]
"""State dicts of new layers by path."""


class Transaction:
    """The new layers of a plan, to be put into a live model and taken out again.

    Args:
        model: in eval mode, with its old layers.
        plan: which layers are replaced.
        replacements: the new layers by path.
    """

    def __init__(self, model: nn.Module, plan: Plan, replacements: dict[str, nn.Module]) -> None:
        self.model, self.plan, self.replacements = model, plan, replacements
        self.refitted_weights: dict[str, Tensor] = {}
        """By path, weights of linear layers that make up for the bias that the plan removes."""
        self._old = {swap.site.path: get(model, swap.site.path) for swap in plan.swaps}
        self._copy: nn.Module | None = None
        self._in_place = False
        self._removed: dict[str, Removed] = {}
        self._changed: dict[str, Tensor] = {}
        """Tensors of neighbours as they were fitted, by name."""

    @property
    def new(self) -> dict[str, nn.Module]:
        """The new layers that the plan still has, by path."""
        return {swap.site.path: self.replacements[swap.site.path] for swap in self.plan.swaps}

    @property
    def original(self) -> nn.Module:
        """A model with the original layers and weights: the copy, if there is one."""
        return self._copy if self._copy is not None else self.model

    def put_in(self) -> None:
        """Put the new layers in and remove the biases that the plan trims, if not done yet."""
        if self._in_place:
            return
        self._in_place = True
        for swap in self.plan.swaps:
            put(self.model, swap, self.replacements[swap.site.path])
        self._removed = remove_biases(self.model, self.plan.trims)
        with torch.no_grad():
            for path in self._removed.keys() & self.refitted_weights.keys():
                self.model.get_parameter(f"{path}.weight").copy_(self.refitted_weights[path])
        connect_grids(self.model)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the new layers in the model for a while."""
        stays = self._in_place
        self.put_in()
        yield
        if not stays:
            self._take_out()

    @contextmanager
    def tentatively(self) -> Iterator[None]:
        """Take back afterwards whatever is done to the model and this transaction meanwhile."""
        model, own = Snapshot(self.model), dict(vars(self))
        try:
            yield
        finally:
            model.restore()
            vars(self).update(own)
            connect_grids(self.model)

    def undo(self) -> None:
        """Leave the model as it was in the beginning."""
        self._take_out()
        if self._copy is not None:
            _copy_tensors(self._copy, self.model)

    def keep_original(self) -> nn.Module:
        """Return a copy of the model; from now on any of its parameters may change."""
        if self._copy is None:
            assert not self._in_place
            self._copy = copy.deepcopy(self.model)
        return self._copy

    def neighbours_changed(self) -> None:
        """Keep what neighbours have become; the model only runs with the new layers from now on."""
        self.put_in()
        self._changed = {}
        for near in self._neighbours().values():
            tensors = tensors_of(self.model, near)
            self._changed |= {name: one.detach().clone() for name, one in tensors.items()}

    def _neighbours(self) -> dict[str, Neighbours]:
        return {
            swap.site.path: swap.neighbours
            for swap in self.plan.swaps
            if swap.neighbours is not None
        }

    def restart(self, states: LayerStates) -> None:
        """Set new layers to ``states``, all else to what it was, and put the new layers in."""
        self.undo()
        self.load(states)
        self.put_in()
        own = dict((*self.model.named_parameters(), *self.model.named_buffers()))
        with torch.no_grad():
            for name, value in self._changed.items():
                own[name].copy_(value)

    def states(self) -> dict[str, dict[str, Tensor]]:
        """A copy of the new layers' state dicts."""
        return {path: copy.deepcopy(layer.state_dict()) for path, layer in self.new.items()}

    def load(self, states: LayerStates) -> None:
        """Set new layers to ``states``."""
        for path, state in states.items():
            self.replacements[path].load_state_dict(state)

    def reduce_to(self, plan: Plan) -> None:
        """Go on with fewer swaps and trims; the others' old layers and biases are restored.

        Without any swap left, so is everything else.
        """
        if not plan.swaps:
            self.undo()
        kept = {swap.site.path for swap in plan.swaps}
        for swap in self.plan.swaps:
            path = swap.site.path
            if path in kept:
                continue
            if self._in_place:
                put(self.model, swap, self._old[path])
            if self._copy is not None:
                _copy_tensors(get(self._copy, path), self._old[path])
            if swap.neighbours is not None and self._changed:
                self._give_back(path, swap.neighbours, kept)
        back = {path: one for path, one in self._removed.items() if path not in plan.trims}
        restore_biases(self.model, back)
        self._removed = {path: one for path, one in self._removed.items() if path not in back}
        self.plan = plan
        connect_grids(self.model)

    def _give_back(self, path: str, near: Neighbours, kept: Collection[str]) -> None:
        assert self._copy is not None
        orders = {one: self.replacements[one].get_buffer("order") for one in self._neighbours()}
        others = [(one, orders[p]) for p, one in self._neighbours().items() if p in kept]
        give_back(self.model, self._copy, near, orders[path], others)

    def frozen(self) -> list[nn.Parameter]:
        """Parameters that do not learn while the model is trained: with a handover, all old ones.

        The model then starts from its original function, which is theirs.
        """
        if not any(swap.handover for swap in self.plan.swaps):
            return []
        old = {id(p) for layer in self._old.values() for p in layer.parameters()}
        new = {id(p) for layer in self.new.values() for p in layer.parameters()} - old
        return [p for p in self.model.parameters() if id(p) not in new]

    def begin_handover(self) -> None:
        """Put old layers beside the new ones where the plan says so."""
        begin(self.model, self.plan, self._old, self._removed)
        connect_grids(self.model)

    def restore_modes(self) -> None:
        """Put each new layer into the training mode of the old one."""
        for path, new in self.new.items():
            new.train(self._old[path].training)

    def _take_out(self) -> None:
        if not self._in_place:
            return
        for swap in self.plan.swaps:
            put(self.model, swap, self._old[swap.site.path])
        restore_biases(self.model, self._removed)
        connect_grids(self.model)
        self._in_place, self._removed = False, {}


@torch.no_grad()
def _copy_tensors(source: nn.Module, target: nn.Module) -> None:
    theirs = dict((*source.named_parameters(), *source.named_buffers()))
    for name, tensor in (*target.named_parameters(), *target.named_buffers()):
        if name in theirs:
            tensor.copy_(theirs[name])
