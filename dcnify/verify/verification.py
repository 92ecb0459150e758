"""Verify an artifact: recompute what it states, and compare."""

import dataclasses
from typing import Any

from dcnify.artifact.original_source import swaps_between
from dcnify.artifact.record import Artifact
from dcnify.data import ImageBatch, load_images
from dcnify.data.statistics import IMAGENET, Statistics
from dcnify.errors import InputError
from dcnify.graph.calls import like_of
from dcnify.progress import Progress, silent
from dcnify.sources.open import OpenedModel
from dcnify.verify.fidelity import check_recipe, check_reported, measure
from dcnify.verify.files import check_golden, check_hashes, check_loading
from dcnify.verify.operator import check_operator
from dcnify.verify.result import Check, Fidelity, Verification

_USUAL_IMAGES = 8
_MOST_IMAGES = 1 << 14
"""Images that a report may ask for."""


def verify(
    record: Artifact,
    *,
    against: OpenedModel | None = None,
    images: ImageBatch | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Recompute an artifact's hashes, model, golden output and operator; and its fidelity.

    Args:
        record: what `read_artifact` returned.
        against: the model that the artifact was converted from. Its layers are measured against
            the new ones again, and the recipe's ``require`` and ``certify`` are checked.
        images: to measure on; by default the photographs that a conversion takes. For a calibrated
            artifact a quarter of them is measured, as when it was made.
        trust_code: import the code that the artifact names, if its base is ``python:``.
        progress: called as the work goes on.

    Returns:
        Every check; a failed one does not raise.

    Raises:
        InputError: ``against`` is of another architecture, there are no images, or the artifact
            needs ``trust_code``.
    """
    step = progress or silent
    step("hashing", 0, 1)
    checks = [check_hashes(record)]
    step("loading", 0, 1)
    loading, model = check_loading(record, trust_code=trust_code)
    checks.append(loading)
    swaps = swaps_between(record, model, against) if against and model else ()
    step("running the model", 0, 1)
    checks.append(check_golden(record, model))
    fidelity: Fidelity | None = None
    warnings: list[str] = []
    if model is None:
        skipped = ("operator", "fidelity") if against else ("operator",)
        checks += [Check(name, None, detail="the model does not load") for name in skipped]
    else:
        step("checking the operator", 0, 1)
        checks += check_operator(model)
    if model is not None and against is not None:
        measured, origin = _images(record, against, images)
        fidelity = measure(model, against, swaps, measured, origin, progress, record.example())
        doubt, warnings = _doubt(record, against, origin)
        checks += check_reported(record, model, fidelity, doubt)
        if record.report.get("finetune"):
            words = "require and certify are of the conversion; the weights were trained since"
            checks.append(Check("recipe", None, detail=words))
        else:
            more, said = check_recipe(record, model, fidelity, swaps)
            checks, warnings = checks + more, warnings + said
    return Verification(str(record.path), tuple(checks), record.report, fidelity, tuple(warnings))


def images_reported(record: Artifact) -> int | None:
    """How many images the conversion measured and calibrated on; None if it does not say."""
    said = _images_said(record)
    measured, others = said.get("count"), said.get("calibrated_on") or 0
    if type(measured) is not int or type(others) is not int or min(measured - 1, others) < 0:
        return None
    total = 1 if measured == 1 else measured + others  # a single image did for both
    return total if total <= _MOST_IMAGES else None


def _images(
    record: Artifact, source: OpenedModel, given: ImageBatch | None
) -> tuple[ImageBatch, dict[str, Any]]:
    """Images to measure on, chosen as the conversion chose them, and their origin."""
    images = given if given is not None else _photographs(record, source)
    count = len(images.tensor)
    if not count:
        raise InputError("no images to measure on")
    if _images_said(record).get("calibrated_on"):
        count = -(-count // 4)  # the others were calibrated on
    pixels, labels = images.tensor[:count].to(like_of(source.model).dtype), images.labels
    size = "x".join(map(str, pixels.shape[1:]))
    origin = {"origin": images.origin, "count": count, "size": size}
    labels = labels if labels is None else labels[:count]
    return dataclasses.replace(images, tensor=pixels, labels=labels), origin


def _photographs(record: Artifact, source: OpenedModel) -> ImageBatch:
    return load_images(
        None,
        count=images_reported(record) or _USUAL_IMAGES,
        size=record.input_shape[1:],
        **statistics_reported(record, source).known(),
    )


def statistics_reported(record: Artifact, source: OpenedModel) -> Statistics:
    """How the conversion normalised images; where it does not say, as it then did by default."""
    reported = Statistics.of(_images_said(record))
    earlier = Statistics(source.mean, source.std, "bicubic")
    return reported.over(earlier).over(IMAGENET)


def _doubt(record: Artifact, source: OpenedModel, images: dict[str, Any]) -> tuple[str, list[str]]:
    """Why the fidelity may differ from the reported one, and warnings."""
    recorded = record.config["dcnify"].get("source")
    recorded = recorded if isinstance(recorded, dict) else {}
    known = recorded.get("sha256")
    if known is not None and known != source.sha256:
        words = (
            f"{source.spec} is not the source that was converted ({recorded.get('spec')}): SHA-256 "
            f"{str(source.sha256)[:12]}..., recorded {str(known)[:12]}..."
        )
        return "these are not the weights that were converted", [words]
    said = _images_said(record)
    if any(images[key] != said.get(key) for key in ("origin", "count", "size")):
        was = f"{said.get('count')} ({said.get('origin')})"
        return f"measured on other images: {images['count']} ({images['origin']}), then {was}", []
    return "", []


def _images_said(record: Artifact) -> dict[str, Any]:
    said = record.report.get("images")
    return said if isinstance(said, dict) else {}
