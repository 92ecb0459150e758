"""A conversion under way: which layers are in the model now, how good they are, the way back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dcnify.errors import InputError
from dcnify.progress import Progress
from dcnify.surgery.bias_removal import Taken, give_back, take_away
from dcnify.surgery.build import get, put
from dcnify.surgery.fidelity.images import Images
from dcnify.surgery.fidelity.measure import Agreement, measure_output, measure_sites
from dcnify.surgery.handover import begin
from dcnify.surgery.plan import Plan
from dcnify.surgery.requirements import judge
from dcnify.surgery.result import OutputFidelity, SiteFidelity, StepFidelity

_SAME = 1e-2
Fallback = Mapping[str, tuple[dict[str, Any], SiteFidelity]]
"""By path, the state of a new layer, and how close it was then."""


class Operation:
    """New layers of a plan, to be put into a live model and to be taken out again.

    Args:
        model: in eval mode, with its old layers.
        plan: which layers go.
        fresh: what takes their place, by path.
        images: to measure on.
        progress: hears of it.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        fresh: dict[str, nn.Module],
        images: Images,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.plan, self.fresh = model, plan, fresh
        self.images, self.progress = images, progress
        self.weights: dict[str, torch.Tensor] = {}
        """Of linear layers, to make up for the bias that the plan takes away, by path."""
        self.steps: tuple[StepFidelity, ...] = ()
        """What was measured so far."""
        self.warnings: tuple[str, ...] = ()
        self._old = {swap.site.path: get(model, swap.site.path) for swap in plan.swaps}
        self._copy: nn.Module | None = None
        self._placed = False
        self._taken: dict[str, Taken] = {}
        self._outputs: list[torch.Tensor] = []
        self._sites: dict[str, SiteFidelity] = {}
        self._output: OutputFidelity | None = None

    @property
    def sites(self) -> tuple[SiteFidelity, ...]:
        """How close each layer comes by the last measurement; those reverted are marked."""
        return tuple(self._sites[path] for path in self._old)

    @property
    def output(self) -> OutputFidelity:
        """Of the model as it is."""
        assert self._output is not None
        return self._output

    def place(self) -> None:
        """Put the new layers in, and take away the biases that the plan has not."""
        self._placed = True
        for swap in self.plan.swaps:
            put(self.model, swap, self.fresh[swap.site.path])
        self._taken = take_away(self.model, self.plan.trims)
        with torch.no_grad():
            for path in self._taken:
                if path in self.weights:
                    get(self.model, path).weight.copy_(self.weights[path])

    def undo(self) -> None:
        """Leave the model as it was in the beginning."""
        self._take_out()
        if self._copy is not None:
            _copy_parameters(self._copy, self.model)

    def keep_original(self) -> nn.Module:
        """From now on any parameter of the model may change; returns a copy of it before that."""
        assert not self._placed
        self._copy = copy.deepcopy(self.model)
        return self._copy

    def fallback(self) -> Fallback:
        """What the new layers are, and were when they were last measured."""
        return {
            path: (copy.deepcopy(layer.state_dict()), self._sites[path])
            for path, layer in self._new.items()
        }

    def measure(
        self, step: str, fallback: Fallback | None = None, floor: Fallback | None = None
    ) -> None:
        """How close the new layers come as they are now, and the model with them in place.

        Args:
            step: what was done.
            fallback: what layers become again that are too far from the old ones.
            floor: how far that is: farther than they were then; by default, than in ``fallback``.
        """
        reference = self._copy if self._copy is not None else self.model
        sites, outputs = measure_sites(reference, self._new, self.images.batches, self.progress)
        self._keep(outputs)
        least = floor if floor is not None else fallback or {}
        for index, site in enumerate(sites):
            if site.path in least and site.sqnr_db < least[site.path][1].sqnr_db:
                state, sites[index] = fallback[site.path]
                self.fresh[site.path].load_state_dict(state)
        self._sites = self._sites | {site.path: site for site in sites}
        stays = self._placed
        if not stays:
            self.place()
        self._measure_output()
        if not stays:
            self._take_out()
        self.steps = (*self.steps, StepFidelity(step, tuple(sites), self.output))

    def came_closer(self) -> bool:
        """Whether the last step brought the output closer, or to agree more often."""
        before, now = (step.output for step in self.steps[-2:])
        if now.sqnr_db >= before.sqnr_db:
            return True
        return (now.top1_agreement or 0) > (before.top1_agreement or 0)

    def take_back(self, layers: Fallback) -> None:
        """Undo the last step: new layers as given, all else as it was in the beginning."""
        assert self._copy is not None
        assert self._placed
        self._take_out()
        _copy_parameters(self._copy, self.model)
        for path, (state, _) in layers.items():
            self.fresh[path].load_state_dict(state)
        self.place()
        before, last = self.steps[-2:]
        self.steps = (*self.steps[:-1], dataclasses.replace(before, step=last.step))
        self._sites = self._sites | {path: fidelity for path, (_, fidelity) in layers.items()}
        self._output = before.output

    def _keep(self, outputs: list[torch.Tensor]) -> None:
        """Compare with the original's outputs from before anything changed, whatever runs now."""
        if not self._outputs:
            self._outputs = outputs
            return
        sums = Agreement()
        for before, now in zip(self._outputs, outputs, strict=True):
            sums.add(before, now)
        if sums.relative_error > _SAME:
            words = (
                "a copy of the original computes something else than it did: the model has random "
                "numbers, or refers to itself where a copy does not see it"
            )
            self.warnings = (*self.warnings, words)

    def finish(self, step: str) -> None:
        """Measure, if nothing was yet; judge the layers; leave the new ones in place.

        Raises:
            CheckError: a layer misses what it must reach, and the recipe says ``fail``.
        """
        if not self.steps:
            self.measure(step)
        self._judge()
        if not self._placed:
            self.place()
        if len(self.plan.swaps) < len(self.steps[-1].sites):  # reverted since
            self._measure_output()
        if not all(bool(torch.isfinite(output).all()) for output in self._outputs):
            words = "the original model's output is not finite on these images"
            self.warnings = (*self.warnings, words)

    def fixed(self) -> list[nn.Parameter]:
        """Parameters that stay as they are, whatever else learns: where old layers hand over, all
        but the new ones'. The model then starts from its original function, which is theirs.
        """
        if not any(swap.handover for swap in self.plan.swaps):
            return []
        old = {id(p) for layer in self._old.values() for p in layer.parameters()}
        new = {id(p) for layer in self._new.values() for p in layer.parameters()} - old
        return [p for p in self.model.parameters() if id(p) not in new]

    def hand_over(self) -> None:
        """Put old layers beside the new ones where the plan says so, once all is measured."""
        begin(self.model, self.plan, self._old, self._taken)

    def replaced(self) -> list[tuple[nn.Module, nn.Module]]:
        """The old layers, each with the one in its place."""
        return [(self._old[path], new) for path, new in self._new.items()]

    @property
    def _new(self) -> dict[str, nn.Module]:
        return {swap.site.path: self.fresh[swap.site.path] for swap in self.plan.swaps}

    def _take_out(self) -> None:
        if not self._placed:
            return
        for swap in self.plan.swaps:
            put(self.model, swap, self._old[swap.site.path])
        give_back(self.model, self._taken)
        self._placed, self._taken = False, {}

    def _judge(self) -> None:
        verdict = judge(self.plan, [self._sites[path] for path in self._new])
        left = {swap.site.path for swap in verdict.plan.swaps}
        for swap in self.plan.swaps:
            path = swap.site.path
            if path in left:
                continue
            if self._placed:
                put(self.model, swap, self._old[path])
            if self._copy is not None:
                _copy_parameters(get(self._copy, path), self._old[path])
            self._sites[path] = dataclasses.replace(self._sites[path], reverted=True)
        back = {path: one for path, one in self._taken.items() if path not in verdict.plan.trims}
        give_back(self.model, back)
        self._taken = {path: one for path, one in self._taken.items() if path not in back}
        self.plan = verdict.plan
        self.warnings = (*self.warnings, *verdict.warnings)

    def _measure_output(self) -> None:
        try:
            self._output = measure_output(
                self.model,
                self._outputs,
                self.images.batches,
                self._new,
                self.progress,
                self.images.labels,
            )
        except AttributeError as error:
            raise InputError(
                f"the model reads something of a swapped layer that its replacement does not "
                f"have: {error}; exclude that layer"
            ) from error


@torch.no_grad()
def _copy_parameters(source: nn.Module, target: nn.Module) -> None:
    theirs = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if name in theirs:
            parameter.copy_(theirs[name])
