"""Time an artifact against the model that it was made from."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from dcnify.artifact import Artifact, Source
from dcnify.artifact.load import load_record
from dcnify.artifact.original_source import recorded_source, swaps_between
from dcnify.bench import ModelBench, ModelReport, bench_models
from dcnify.bench.timing import using
from dcnify.errors import InputError
from dcnify.graph.calls import like_of
from dcnify.graph.example import example_with
from dcnify.pipeline.exported import exported_model
from dcnify.progress import Progress, silent
from dcnify.surgery.handover import finish, handovers
from dcnify.surgery.prepare import runnable


def time_artifact(
    record: Artifact,
    bench: ModelBench,
    *,
    against: Source | None = None,
    size: Sequence[int] | None = None,
    trust_code: bool = False,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
    exported: Sequence[Path] = (),
) -> tuple[ModelReport, str]:
    """Time the model of an artifact and the original in one interleaved run.

    Layers that hand over are timed in their final state.

    Args:
        record: what `dcnify.artifact.read_artifact` returned.
        bench: how to time.
        against: the original; what the artifact names by default, where ``timm:`` has random
            weights, since times do not depend on them. Its model is moved and cast.
        size: (C, H, W) of an image; as it was converted at by default.
        trust_code: import the code that the artifact names, if its base is ``python:``.
        progress: progress callback.
        say: called with remarks, one line each.
        exported: ONNX files that it was exported to, timed in the same run by onnxruntime.

    Returns:
        What was measured, and the name of the original.

    Raises:
        InputError: the artifact does not load, the original is not there or is another model, or
            one of the two does not run on such images.
    """
    progress("loading", 0, 1)
    model, _ = load_record(record, trust_code=trust_code)
    opened = against or recorded_source(record, "name it with --against", weights=False)
    swaps_between(record, model, opened)
    if layers := handovers(model):
        say(f"{len(layers)} layers hand over: timed in their final state")
        finish(model, record.plan, force=True)
    shape, example = tuple(size or record.input_shape[1:]), record.example()
    before = opened.model
    with ExitStack() as stack:
        stack.enter_context(using(bench.device, bench.threads))
        try:
            for one in (before, model):
                one.to(bench.device)
                call = example_with(like_of(one).new_zeros(1, *shape), example)
                reason = stack.enter_context(runnable(one, call))
                if reason and one is before:
                    say(f"the original's DCNv3 does not run here ({reason}): timed on our operator")
        except torch.OutOfMemoryError:
            raise InputError(f"{bench.device} has no room for both models") from None
        others = [exported_model(path, model, bench) for path in exported]
        report = bench_models(before, model, shape, bench, progress, example, others)
        return report, opened.spec
