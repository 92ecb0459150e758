"""Measurements: the fidelity after each step of a conversion, and whether a step helped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from dcnify.errors import InputError
from dcnify.progress import Progress, silent
from dcnify.surgery.changes.transaction import Transaction
from dcnify.surgery.fidelity.images import Images
from dcnify.surgery.fidelity.informative import why_unmoved, why_untrained
from dcnify.surgery.fidelity.measure import Agreement, measure_output, measure_sites
from dcnify.surgery.result import OutputFidelity, SiteFidelity, StepFidelity

_SAME = 1e-2


@dataclass(frozen=True)
class Checkpoint:
    """The new layers at one step, and how close each of them was."""

    states: Mapping[str, Mapping[str, Tensor]]
    sites: Mapping[str, SiteFidelity]


class Measurements:
    """The fidelity of a transaction's new layers and of its model, step by step.

    Args:
        transaction: what is measured.
        images: what it is measured on.
        progress: Progress callback.
        random_weights: the weights of the original are known to be random.
    """

    def __init__(
        self,
        transaction: Transaction,
        images: Images,
        progress: Progress = silent,
        random_weights: bool = False,
    ) -> None:
        self.transaction, self.images, self.progress = transaction, images, progress
        self._random_weights = random_weights
        self.fit_again: Callable[[], None] | None = None
        """Fits layers again that had made up for others, once those are reverted."""
        self.untrained: str | None = None
        """Why the original is taken for untrained, if it is; known after the first measurement."""
        self.steps: tuple[StepFidelity, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self._outputs: list[Tensor] = []
        self._sites: dict[str, SiteFidelity] = {}
        self._output: OutputFidelity | None = None
        self._uninformative: str | None = None

    @property
    def seems_untrained(self) -> bool:
        """Whether the original is taken for untrained by its outputs alone."""
        return self.untrained is not None and not self._random_weights

    @property
    def sites(self) -> tuple[SiteFidelity, ...]:
        """Each layer by its last measurement; those reverted are marked."""
        return tuple(self._sites.values())

    @property
    def output(self) -> OutputFidelity:
        """The model as it is."""
        assert self._output is not None
        return self._output

    def checkpoint(self) -> Checkpoint:
        """The new layers as they are, with their last measurement."""
        return Checkpoint(self.transaction.states(), dict(self._sites))

    def measure(
        self, step: str, fallback: Checkpoint | None = None, floor: Checkpoint | None = None
    ) -> None:
        """Measure the new layers as they are now, and the model with them in place.

        Args:
            step: name of what was done.
            fallback: the state to which a layer returns if it is farther from the old one than
                it was in ``floor``.
            floor: by default ``fallback``.
        """
        transaction = self.transaction
        sites, outputs = measure_sites(
            transaction.original, transaction.new, self.images.calls, self.progress
        )
        self._compare_originals(outputs)
        least = floor or fallback
        for index, site in enumerate(sites):
            if not fallback or not least or site.path not in fallback.states:
                continue
            if site.sqnr_db < least.sites[site.path].sqnr_db:
                transaction.load({site.path: fallback.states[site.path]})
                sites[index] = fallback.sites[site.path]
        self._sites |= {site.path: site for site in sites}
        self.measure_output()
        self.steps = (*self.steps, StepFidelity(step, tuple(sites), self.output))

    @contextmanager
    def tentatively(self) -> Iterator[None]:
        """Take back afterwards whatever is done to the model and measured meanwhile."""
        own = {**vars(self), "_sites": dict(self._sites)}
        with self.transaction.tentatively():
            yield
        vars(self).update(own)

    def measure_output(self) -> None:
        """Measure the model with the new layers in place, and keep that as its `output`."""
        self._output = self.output_now()

    def output_now(self) -> OutputFidelity:
        """Measure the model with the new layers in place.

        Raises:
            InputError: the model needs an attribute of an old layer that the new one lacks.
        """
        with self.transaction.in_place():
            try:
                output = measure_output(
                    self.transaction.model,
                    self._outputs,
                    self.images.calls,
                    self.transaction.new,
                    self.progress,
                    self.images.labels,
                )
            except AttributeError as error:
                raise InputError(
                    "the model reads an attribute of a swapped layer that its replacement does "
                    f"not have: {error}; exclude that layer"
                ) from error
        return dataclasses.replace(output, uninformative=self._uninformative)

    def came_closer(self) -> bool:
        """Whether the last step brought the output closer: its predictions, where it has any."""
        before, now = (step.output for step in self.steps[-2:])
        if now.kl is not None and before.kl is not None:
            return now.kl < before.kl
        return now.sqnr_db > before.sqnr_db

    def undo_step(self, checkpoint: Checkpoint) -> None:
        """Return to ``checkpoint``, taken before the last step, which then changed nothing."""
        self.transaction.restart(checkpoint.states)
        before, last = self.steps[-2:]
        self.steps = (*self.steps[:-1], dataclasses.replace(before, step=last.step))
        self._sites |= checkpoint.sites
        self._output = before.output

    def forget_step(self) -> None:
        """Take the last step out of the record, to do it in another way."""
        self.steps = self.steps[:-1]

    def mark_reverted(self, paths: Sequence[str]) -> None:
        """Mark layers whose original was put back, and measure the model again without them."""
        for path in paths:
            self._sites[path] = dataclasses.replace(self._sites[path], reverted=True)
        if paths:
            self.measure_output()

    def _compare_originals(self, outputs: list[Tensor]) -> None:
        """Keep the original's first outputs, and warn if it computes something else later."""
        if not self._outputs:
            self._outputs = outputs
            self._judge_originals(outputs)
            if not all(bool(torch.isfinite(output).all()) for output in outputs):
                words = "the original model's output is not finite on these images"
                self.warnings = (*self.warnings, words)
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

    def _judge_originals(self, outputs: list[Tensor]) -> None:
        """Find out whether the original's outputs say anything about the layers that change."""
        transaction, calls = self.transaction, self.images.calls
        self.untrained = why_untrained(outputs, transaction.original, self._random_weights)
        unmoved = why_unmoved(
            transaction.original, tuple(transaction.new), outputs, calls, self.progress
        )
        self._uninformative = "; ".join(filter(None, (self.untrained, unmoved))) or None
