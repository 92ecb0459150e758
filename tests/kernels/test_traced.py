"""What torch.compile and AOTInductor see: the Triton kernels themselves, not an opaque operator."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

TRACE = """
import json
import torch
from functorch.compile import aot_function, make_boxed_func
from torch._subclasses.fake_tensor import FakeTensorMode
import dcnify.ops

ops = torch.ops.dcnify
VALUE, POINTS, OFFSET, MASK = (2, 8, 8, 32), (2, 8, 8, 56), (2, 8, 8, 36), (2, 8, 8, 18)
CASES = {
    "dcnv4": (lambda v, o: ops.dcnv4(v, o, groups=2), VALUE, POINTS),
    "dcnv4_backward": (lambda g, v, o: ops.dcnv4_backward(g, v, o, groups=2), VALUE, VALUE, POINTS),
    "dcnv3": (lambda v, o, m: ops.dcnv3(v, o, m, groups=2), VALUE, OFFSET, MASK),
    "dcnv3_backward": (
        lambda g, v, o, m: ops.dcnv3_backward(g, v, o, m, groups=2), VALUE, VALUE, OFFSET, MASK
    ),
}
seen = {}
for name, (run, *shapes) in CASES.items():
    for device in ("cuda", "cpu"):
        def keep(graph, inputs):
            seen[f"{name} {device}"] = [str(node.target) for node in graph.graph.nodes]
            return make_boxed_func(graph.forward)

        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            given = [torch.empty(shape, device=device, dtype=torch.float16) for shape in shapes]
            aot_function(run, fw_compiler=keep)(*given)
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, list[str]]:
    """Targets in the traced graphs. Fake CUDA tensors need no GPU; Triton must not interpret."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", TRACE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "kernels"),
    [("dcnv4", 1), ("dcnv3", 1), ("dcnv4_backward", 2), ("dcnv3_backward", 2)],
)
def test_on_cuda_the_kernels_are_in_the_graph(seen, op, kernels):
    targets = seen[f"{op} cuda"]
    assert sum("triton_kernel_wrapper" in target for target in targets) == kernels
    assert not any("dcnify" in target for target in targets)


@pytest.mark.slow
@pytest.mark.parametrize("op", ["dcnv4", "dcnv3", "dcnv4_backward", "dcnv3_backward"])
def test_elsewhere_the_operator_stays_whole(seen, op):
    targets = seen[f"{op} cpu"]
    assert sum(target == f"dcnify.{op}.default" for target in targets) == 1
    assert not any("triton" in target for target in targets)
