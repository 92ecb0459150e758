"""A score from gradients: what each swap would do to the output, without converting any of them.

ModelOpt's ``auto_quantize`` scores a layer by its output's error times the gradient of the loss
there, as the Fisher information is the curvature of the loss. Here the error of each new layer's
output is multiplied with the gradient of each of the likeliest logits, image by image. That is the
first order of the change of these logits, and the damage of any set follows from it as from
measured changes, signs included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dcnify.errors import InputError
from dcnify.graph.calls import Call, first_tensor, output_tensor
from dcnify.graph.example import Example
from dcnify.inherit.distance import are_logits
from dcnify.nn.depthwise import as_original
from dcnify.progress import Progress, silent
from dcnify.search.choose.prediction import Effects
from dcnify.surgery.fidelity.measure import Agreement
from dcnify.words import first_line

_CLASSES = 8
"""Logits of an image that are followed: a backward pass for each."""


def score_by_gradients(
    model: nn.Module,
    replacements: dict[str, nn.Module],
    examples: list[Example],
    progress: Progress = silent,
) -> tuple[Effects, dict[str, float]]:
    """Estimate what each new layer alone would change at the output.

    Args:
        model: the original, in eval mode.
        replacements: new layers by path.
        examples: calls of the model.
        progress: Progress callback.

    Returns:
        The effects on the likeliest logits, and each new layer's SQNR in dB on the way.

    Raises:
        InputError: the model is not a classifier, or does not give gradients.
    """
    originals, changes = [], []
    fidelity = {path: Agreement() for path in replacements}
    for done, example in enumerate(examples):
        try:
            logits, changed = _one_call(model, replacements, example, fidelity)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            words = f"--score fisher: the model gives no gradients: {first_line(error)}"
            raise InputError(words) from error
        originals.append(logits)
        changes.append(changed)
        progress("scoring by gradients", done + 1, len(examples))
    effects = Effects(torch.cat(originals), torch.cat(changes, 1), True)
    return effects, {path: one.sqnr_db for path, one in fidelity.items()}


def _one_call(
    model: nn.Module,
    replacements: dict[str, nn.Module],
    example: Example,
    fidelity: dict[str, Agreement],
) -> tuple[Tensor, Tensor]:
    """The likeliest logits (B, k), and what each new layer changes of them (n, B, k)."""
    batch = len(example.images)
    shares = {path: torch.zeros(batch, requires_grad=True) for path in replacements}
    handles = [
        model.get_submodule(path).register_forward_hook(
            _mixing(new.eval(), shares[path], fidelity[path]), with_kwargs=True
        )
        for path, new in replacements.items()
    ]
    try:
        with torch.enable_grad():
            output = output_tensor(example.call(model))
            if not are_logits(output, model):
                raise InputError("--score fisher needs a model whose output is (B, classes)")
            top = output.detach().topk(min(_CLASSES, output.shape[1]), -1).indices
            picked = output.gather(1, top)
            columns = [
                torch.autograd.grad(
                    picked[:, k].sum(),
                    list(shares.values()),
                    retain_graph=k + 1 < picked.shape[1],
                    materialize_grads=True,
                    allow_unused=True,
                )
                for k in range(picked.shape[1])
            ]
    finally:
        for handle in handles:
            handle.remove()
    changes = torch.stack([torch.stack(column) for column in columns], -1)
    return picked.detach().cpu(), changes.cpu()


def _mixing(new: nn.Module, share: Tensor, fidelity: Agreement) -> Any:
    """A hook that adds ``share`` of the new layer's error to the old layer's output."""
    busy = False

    def hook(_old: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        nonlocal busy
        if busy:  # a replacement that keeps the old layer runs it again
            return output
        busy = True
        try:
            with torch.no_grad():
                before = first_tensor(output)
                now = Call(args, kwargs).on(as_original(new))
                fidelity.add(before, now)
                error = (now - before).nan_to_num(0.0, 0.0, 0.0)  # it is refused by its fidelity
        finally:
            busy = False
        rows = share.to(error).repeat_interleave(len(error) // len(share))
        mixed = before + rows.reshape(-1, *(1,) * (error.dim() - 1)) * error
        return tree_map_only(torch.Tensor, lambda one: mixed if one is before else one, output)

    return hook
