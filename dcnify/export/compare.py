"""Run an exported model beside the one it was exported from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnify.artifact.golden import Golden, sample_of
from dcnify.errors import CheckError, InputError
from dcnify.export.program import Program, inputs_of, outputs_of, with_batch
from dcnify.export.result import Comparison
from dcnify.export.subject import Subject
from dcnify.graph.calls import evaluating, like_of, output_tensor
from dcnify.graph.example import Example
from dcnify.surgery.fidelity.measure import Agreement
from dcnify.surgery.fidelity.predictions import predicted_classes, share_equal
from dcnify.words import first_line

_OTHER_BATCH = 3


@dataclass(frozen=True, eq=False)
class Beside:
    """An exported model, to be compared.

    Args:
        run: its inputs in order to its outputs in order.
        program: how it is called.
        dtype: of its inputs.
        images: (N, C, H, W) photographs, as many as it takes at once at least.
    """

    run: Callable[..., Sequence[Tensor]]
    program: Program
    dtype: torch.dtype
    images: Tensor

    def all_of(self, subject: Subject, every_size: bool) -> tuple[Comparison, ...]:
        """Every comparison with the model: golden output, photographs, other sizes.

        Args:
            subject: the model.
            every_size: try odd and small sizes too, for a format that does not check them.

        Raises:
            InputError: the model itself does not run at another size that was asked for.
            CheckError: the exported model does not run.
        """
        made = []
        if subject.golden is not None and self._takes(subject.golden.example()):
            made.append(self._golden(subject.golden))
        made.append(self.photographs(subject.model))
        sizes = self._other_sizes() if self.program.dynamic else []
        for index, size in enumerate(sizes if every_size else sizes[:1]):
            found = self._other_size(subject.model, size, must_run=index == 0)
            made += [] if found is None else [found]
        return tuple(made)

    def photographs(self, model: nn.Module) -> Comparison:
        """Compare with ``model`` on the photographs."""
        return self._on(self.images, model, "photographs", len(self.program.example.images))

    def _golden(self, golden: Golden) -> Comparison:
        example = golden.example()
        found = self._outputs(example, "golden output")
        main = self.program.main
        sums = Agreement()
        sums.add(golden.sample, sample_of(output_tensor(found) if main is None else found[main]))
        size = (golden.input_shape[2], golden.input_shape[3])
        return Comparison("golden output", len(example.images), size, _worst([sums]))

    def _takes(self, example: Example) -> bool:
        """Whether the sizes of a call are those the program was exported with."""
        if "batch" in self.program.dynamic:
            example = with_batch(example, len(self.program.example.images))
        own = inputs_of(self.program, self.program.example)
        given = inputs_of(self.program, example)
        return [one.shape for one in own] == [one.shape for one in given]

    def _other_sizes(self) -> list[tuple[int, int]]:
        """Sizes to try: larger, odd, and half as large.

        Code that decides by the size, as for padding, was traced for one answer alone.
        """
        free = [axis in self.program.dynamic for axis in ("height", "width")]
        own = tuple(self.images.shape[2:])
        wanted = [(3 * own[0] // 2, 2 * own[1])]
        wanted += [(wanted[0][0] - 3, wanted[0][1] - 5), (own[0] // 2, own[1] // 2)]
        sizes = [
            tuple(n if f else o for n, f, o in zip(one, free, own, strict=True)) for one in wanted
        ]
        return [(rows, columns) for rows, columns in dict.fromkeys(sizes) if min(rows, columns) > 0]

    def _other_size(
        self, model: nn.Module, size: tuple[int, int], must_run: bool
    ) -> Comparison | None:
        """Compare on images of ``size``; None where the model itself does not take it."""
        count = len(self.program.example.images)
        if "batch" in self.program.dynamic:
            count = min(_OTHER_BATCH, len(self.images))
        images = self.images[:count]
        if size != tuple(images.shape[2:]):
            images = F.interpolate(images, size=size, mode="bilinear")
        what = f"{count}x{images.shape[1]}x{size[0]}x{size[1]}"
        try:
            for example in self._batches(images, count):
                _called(model, example)
        except Exception as error:  # whatever a model may raise
            if not must_run:
                return None
            raise InputError(
                f"--dynamic {','.join(self.program.dynamic)}: the model itself does not run on "
                f"{what}: {first_line(error)}"
            ) from error
        return self._on(images, model, f"images of another size, {what}", count)

    def _on(self, images: Tensor, model: nn.Module, what: str, batch: int) -> Comparison:
        sums: dict[int, Agreement] = {}
        pairs: list[tuple[Tensor, Tensor]] = []
        count = 0
        for example in self._batches(images, batch):
            wanted = _called(model, example)
            found = self._outputs(example, what)
            shapes = [[one.shape for one in some] for some in (wanted, found)]
            if shapes[0] != shapes[1]:
                raise CheckError(f"the exported model returns {shapes[1]}, the model {shapes[0]}")
            for index, (a, b) in enumerate(zip(wanted, found, strict=True)):
                sums.setdefault(index, Agreement()).add(a, b)
            if self.program.main is not None:
                pairs.append((wanted[self.program.main], found[self.program.main]))
            count += len(example.images)
        agreement = None
        if pairs:
            before, after = (predicted_classes(some) for some in zip(*pairs, strict=True))
            agreement = share_equal(after, before)
        rows, columns = images.shape[2:]
        return Comparison(what, count, (rows, columns), _worst(sums.values()), agreement)

    def _batches(self, images: Tensor, size: int) -> Iterator[Example]:
        own = self.program.example.images.dtype
        for start in range(0, len(images) - size + 1, size):
            yield self.program.example.with_image(images[start : start + size].to(own))

    def _outputs(self, example: Example, what: str) -> Sequence[Tensor]:
        try:
            return self.run(*inputs_of(self.program, example.to("cpu", self.dtype)))
        except Exception as error:  # whatever a runtime may raise
            reason = first_line(error)
            raise CheckError(f"the exported model does not run on {what}: {reason}") from error


def _called(model: nn.Module, example: Example) -> list[Tensor]:
    """What the model returns for a call, wherever it is, on the CPU."""
    like = like_of(model)
    own = example.to(like.device, like.dtype) if like.numel() else example
    with torch.no_grad(), evaluating(model):
        return [one.cpu() for one in outputs_of(own.call(model))]


def _worst(sums: Iterable[Agreement]) -> float:
    errors = [one.relative_error for one in sums]
    # A NaN is above any limit.
    return max((float("inf") if error != error else error for error in errors), default=0.0)
