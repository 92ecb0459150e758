"""The images a conversion looks at, ready for a model, and what became of the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_TOLD = 8
"""Unreadable files that are named one by one; thousands would bury the result."""


@dataclass(frozen=True)
class ImageBatch:
    """Normalised images ready for a model."""

    tensor: torch.Tensor
    """(N, C, H, W), float32."""
    names: tuple[str, ...]
    """One per image: the file, with the crop where one file gives several images."""
    skipped: tuple[tuple[str, str], ...]
    """Files that could not be read, each with the reason."""
    origin: str
    """Where the images came from, for reports."""
    labels: torch.Tensor | None = None
    """(N,), int64: the class of each image; None where the source does not tell them all.

    Whether they are a given model's classes is another question: see `labels_for`.
    """
    classes: tuple[str, ...] | None = None
    """Names of the classes by label, where the source names them."""
    unlabelled: str = ""
    """Why ``labels`` is None."""

    def remarks(self) -> list[str]:
        """What to warn of: the first files that could not be read, and whether most could not."""
        lines = [f"{name}: {reason}" for name, reason in self.skipped[:_TOLD]]
        more = len(self.skipped) - len(lines)
        if more:
            lines.append(f"{self.origin}: {more} more could not be read")
        tried = len(self.names) + len(self.skipped)
        if len(self.skipped) > tried / 2:
            lines.append(
                f"{self.origin}: only {len(self.names)} of the {tried} images tried can be read"
            )
        return lines
