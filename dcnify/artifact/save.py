"""Save a conversion as an artifact, after proving that it can be loaded again."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dcnify.artifact.atomic import check_output, is_file_output, writing
from dcnify.artifact.config import Data, config_of, data_of, dcnify_block
from dcnify.artifact.golden import Golden, golden_of
from dcnify.artifact.layout import CONFIG, FILE_FORMAT, GOLDEN, PLAN, RECIPE, REPORT, WEIGHTS
from dcnify.artifact.published_base import rebased
from dcnify.artifact.record import Artifact, sha256_text
from dcnify.artifact.structure import structure
from dcnify.artifact.tensors import compact, without_aliases, write_safetensors
from dcnify.digest import sha256_file, sha256_tensors
from dcnify.errors import InputError
from dcnify.graph.example import Example
from dcnify.nn import Handover
from dcnify.sources.base import Base
from dcnify.sources.compare import Mismatch, shapes_of
from dcnify.sources.derive import HINT, derive_base
from dcnify.sources.materialise import mismatch_of, tied
from dcnify.sources.skeleton import on_meta, with_buffers
from dcnify.surgery.handover import settled
from dcnify.surgery.plan import Plan

if TYPE_CHECKING:
    from dcnify.sources.open import Source
    from dcnify.surgery.result import ConvertResult


def save(
    result: ConvertResult,
    path: str | os.PathLike[str],
    *,
    source: Source | None = None,
    base: Base | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a conversion so that `load` gives back the same model, bit for bit.

    The model runs once, in evaluation mode: an input and its output are kept for `verify`.

    Args:
        result: what `dcnify.convert` returned.
        path: a folder, or a file ending in ``.pt`` or ``.pth``.
        source: what `open_source` returned, for the record and the base.
        base: how to build the unconverted architecture; found out from the model otherwise.
        overwrite: replace the artifact that is there.

    Returns:
        Where it was written.

    Raises:
        InputError: the output exists or cannot be written, or the model is not what its base and
            plan rebuild, so that it could not be loaded.
        DcnifyError: writing failed; nothing is left behind.
    """
    target = check_output(path, overwrite)
    plan = _as_it_stands(_whole_plan(result.plan, source), result.model)
    base = _verified_base(result.model, plan, base or (source.base if source else None))
    base = rebased(base, result.model)
    source_record = {"spec": source.spec, "sha256": source.sha256} if source else {}
    data = (
        (source.input_size, source.mean, source.std)
        if source and source.input_size
        else data_of(result.model, base.args)
    )
    report = {
        **result.report.to_dict(),
        "source": {**source_record, "notes": list(source.notes)} if source else None,
        "recipe_sha256": result.recipe.sha256,
    }
    whole = _Whole(
        result.model,
        plan,
        result.recipe.to_yaml(),
        report,
        base,
        source_record,
        data,
        result.example,
    )
    return _write(whole, target, overwrite)


def save_again(
    record: Artifact,
    model: nn.Module,
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    report: dict[str, Any] | None = None,
    recipe: str | None = None,
    base: Base | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an artifact that was loaded and trained since, with all that was known of it.

    Args:
        record: of the artifact that was loaded.
        model: the model, as `load` gave it but for its weights.
        plan: of the model as it is now.
        path: a folder, or a file ending in ``.pt`` or ``.pth``.
        report: in place of the record's.
        recipe: in place of the record's, as YAML.
        base: how to build the unconverted architecture, where that is another by now: with another
            number of classes, say.
        overwrite: replace the artifact that is there.

    Raises:
        InputError, DcnifyError: as `save`.
    """
    target = check_output(path, overwrite)
    plan = _as_it_stands(plan, model)
    base = _verified_base(model, plan, base or record.base)
    source = record.config["dcnify"].get("source") or {}
    report, recipe = report or record.report, recipe or record.recipe
    data = data_of(model, base.args)
    whole = _Whole(model, plan, recipe, report, base, source, data, record.example())
    return _write(whole, target, overwrite)


@dataclass(frozen=True)
class _Whole:
    """All that an artifact is made of."""

    model: nn.Module
    plan: Plan
    recipe: str
    report: dict[str, Any]
    base: Base
    source: dict[str, Any]
    data: Data
    example: Example | None = None
    """How the model was called; by default with one image."""


def _write(whole: _Whole, target: Path, overwrite: bool) -> Path:
    model, plan, base = whole.model, whole.plan, whole.base
    state = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    extra = _unreproducible_buffers(model, base, plan, state)
    kept, aliases = without_aliases({**state, **extra})
    block = dcnify_block(base, len(plan.swaps), whole.source)
    golden = golden_of(model, whole.example or plan.input_shape)
    pair = golden.tensors() if isinstance(golden, Golden) else {}
    block |= {"aliases": aliases, "buffers": list(extra)}
    block["golden"] = golden.about() if isinstance(golden, Golden) else {"missing": golden}
    config = {**config_of(model, base, whole.data), "dcnify": block}
    texts = {PLAN: plan.to_json() + "\n", RECIPE: whole.recipe, REPORT: _json(whole.report)}
    block["files"] = {name: sha256_text(text) for name, text in texts.items()}
    with writing(target, overwrite) as place:
        if is_file_output(target):
            kept = compact(kept)
            block["files"]["state_dict"] = sha256_tensors(kept)
            if pair:
                block["files"]["golden"] = sha256_tensors(pair)
            _write_file(place, config, texts, kept, pair)
        else:
            write_safetensors(kept, place / WEIGHTS)
            block["files"][WEIGHTS] = sha256_file(place / WEIGHTS)
            if pair:
                write_safetensors(pair, place / GOLDEN)
                block["files"][GOLDEN] = sha256_file(place / GOLDEN)
            for name, text in {**texts, CONFIG: _json(config)}.items():
                (place / name).write_bytes(text.encode())
    return target


def _write_file(
    place: Path,
    config: dict[str, Any],
    texts: dict[str, str],
    kept: dict[str, Tensor],
    pair: dict[str, Tensor],
) -> None:
    held = {
        "format": FILE_FORMAT,
        "config": config,
        "plan": texts[PLAN],
        "recipe": texts[RECIPE],
        "report": texts[REPORT],
        "state_dict": kept,
        "golden": pair,
    }
    try:
        torch.save(held, place)
    except RuntimeError as error:  # torch's writer says this of a full disk
        raise OSError(str(error)) from error


def _whole_plan(plan: Plan, source: Source | None) -> Plan:
    """The swaps of an artifact that was converted again come before the new ones."""
    earlier = source.plan if source else None
    if earlier is None or settled(plan.swaps)[: len(earlier.swaps)] == settled(earlier.swaps):
        return plan
    return dataclasses.replace(
        plan,
        swaps=(*earlier.swaps, *plan.swaps),
        trims=(*earlier.trims, *plan.trims),
        isolations=(*earlier.isolations, *plan.isolations),
    )


def _as_it_stands(plan: Plan, model: nn.Module) -> Plan:
    """The plan without the handovers that are over in ``model``, an earlier conversion's too."""
    modules = dict(model.named_modules(remove_duplicate=False))
    swaps = (
        dataclasses.replace(
            swap, handover=swap.handover and isinstance(modules.get(swap.site.path), Handover)
        )
        for swap in plan.swaps
    )
    return dataclasses.replace(plan, swaps=tuple(swaps))


def _verified_base(model: nn.Module, plan: Plan, base: Base | None) -> Base:
    shapes = shapes_of(model)

    def mismatch(candidate: Base) -> Mismatch:
        own = candidate.kind == "python"
        return mismatch_of(structure(candidate, plan), shapes, own_code=own)

    def fits(candidate: Base) -> bool:
        try:
            return not mismatch(candidate)
        except InputError:
            return False

    if base is None:
        return derive_base(model, fits)
    base = Base.from_dict(base.to_dict())  # as `load` will read it
    problem = mismatch(base)
    if problem:
        raise InputError(f"{base} and the plan rebuild another model: {problem}; {HINT}")
    return base


def _unreproducible_buffers(
    model: nn.Module, base: Base, plan: Plan, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Buffers outside the state dict whose value or type a rebuilt model would not have.

    A model cast to bfloat16 has its rope tables cast, a model resized for larger images has others.
    """
    mine = {k: v for k, v in model.named_buffers() if k not in state}
    build = structure(base, plan)
    own = base.kind == "python"
    rebuilt = with_buffers(build, skip_init=not own) if mine or own else on_meta(build)
    for names in tied(rebuilt):
        if len({state[name].data_ptr() for name in names if name in state}) > 1:
            raise InputError(f"{base} shares one weight as {' and '.join(names[:2])}: {HINT}")
    fresh = dict(rebuilt.named_buffers())
    return {
        name: value
        for name, value in mine.items()
        if _has_buffer(rebuilt, name)
        and (
            name not in fresh
            or value.dtype != fresh[name].dtype
            or not torch.equal(value.cpu(), fresh[name])
        )
    }


def _has_buffer(model: nn.Module, name: str) -> bool:
    """False for what a forward pass registers to remember; that is made anew when needed."""
    owner, _, leaf = name.rpartition(".")
    try:
        return leaf in model.get_submodule(owner)._buffers
    except AttributeError:
        return False


def _json(data: Any) -> str:
    return json.dumps(data, indent=2) + "\n"
