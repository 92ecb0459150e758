"""The kernels on a GPU: values and gradients, and what only a GPU has (streams, graphs, size)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from support.kernel_calls import numbers, relative_error, separate, with_gradients

from dcnify.nn import DCNv4
from dcnify.ops import dcnv3, dcnv4, reference
from dcnify.ops.sampling import Sampling

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
VARIANTS = [
    {},
    {"softmax": True},
    {"remove_center": True, "softmax": True},
    {"kernel_size": 5, "padding": 2, "offset_scale": 2.0},
    {"kernel_size": 7, "padding": 3},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    {"stride": 2},
    {"stride": 4, "kernel_size": 1, "padding": 0},
]


def _check(call, op=dcnv4, **how):
    device = [t.cuda() for t in call]
    found = with_gradients(op, *device, **how)
    exact = with_gradients(reference.dcnv4, *(t.double() for t in device), **how)
    for name, one, other in zip(("output", "value", "offset_mask"), found, exact, strict=True):
        assert one.isfinite().all(), name
        assert relative_error(one, other) < TOLERANCE[call[0].dtype], name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", VARIANTS)
def test_every_variant_agrees_with_the_reference(how, dtype):
    how = {"groups": 2, **how}
    _check(numbers(batch=3, size=(29, 35), group_channels=16, dtype=dtype, tail=3, **how), **how)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 3, 7, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 200])
def test_every_group_width_agrees(width, dtype):
    call = numbers(batch=2, size=(17, 23), group_channels=width, groups=3, wild=True, dtype=dtype)
    _check(call, groups=3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "channels", "groups"), [(56, 128, 4), (14, 768, 24), (7, 1024, 32)]
)
def test_the_papers_shapes_agree_at_batches_that_no_block_divides(size, channels, groups, dtype):
    call = numbers(
        batch=5, size=(size, size), group_channels=channels // groups, groups=groups, dtype=dtype
    )
    _check(call, groups=groups)


@pytest.mark.parametrize("spread", [0.0, 0.5, 4.0, 50.0])
def test_offsets_near_and_far_agree(spread):
    _check(numbers(batch=2, size=(40, 33), group_channels=32, spread=spread, groups=2), groups=2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_offsets_and_mask_in_two_tensors_agree(dtype):
    value, offset_mask, grad = numbers(batch=2, size=(20, 24), group_channels=16, groups=2)
    offset, mask = separate(offset_mask, Sampling(groups=2))
    two = [t.cuda().to(dtype).requires_grad_() for t in (value, offset, mask)]
    out = dcnv3(*two, groups=2)
    found = out, *torch.autograd.grad(out, two, grad.cuda().to(dtype))
    packed = [value.cuda().to(dtype).double(), offset_mask.cuda().to(dtype).double()]
    exact = with_gradients(
        reference.dcnv4, *packed, grad.cuda().to(dtype).double(), groups=2, softmax=True
    )
    expected = exact[0], exact[1], *separate(exact[2], Sampling(groups=2))
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_agrees_with_float32_parameters(dtype):
    torch.manual_seed(0)
    layer = DCNv4(64, groups=4, dw_kernel_size=3).cuda()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 14, 14, 64, device="cuda")
    with torch.autocast("cuda", dtype=dtype):
        found = layer(x)
    found.float().sum().backward()
    assert found.dtype == dtype
    assert relative_error(found, layer(x)) < 0.03
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_memory_around_may_hold_anything_and_stays_as_it_was():
    value, offset_mask, grad = numbers(batch=2, size=(9, 11), group_channels=16, wild=True)
    around = torch.full((value.numel() + 8192,), float("nan"))
    around[4096:-4096] = value.flatten()
    around = around.cuda()
    inside = around[4096:-4096].view(value.shape)
    out, grad_value, _ = with_gradients(dcnv4, inside, offset_mask.cuda(), grad.cuda())
    assert out.isfinite().all()
    assert grad_value.isfinite().all()
    assert around[:4096].isnan().all()
    assert around[-4096:].isnan().all()


def test_an_address_that_is_not_aligned_is_read_as_it_is():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        value, offset_mask, grad = numbers(batch=1, size=(9, 11), group_channels=16, dtype=dtype)
        shifted = torch.empty(value.numel() + 1, dtype=dtype, device="cuda")[1:].view(value.shape)
        shifted.copy_(value)
        found = with_gradients(dcnv4, shifted, offset_mask.cuda(), grad.cuda())
        exact = with_gradients(
            reference.dcnv4, *(t.cuda().double() for t in (value, offset_mask, grad))
        )
        for one, other in zip(found, exact, strict=True):
            assert relative_error(one, other) < TOLERANCE[dtype]


def test_another_stream_and_another_device():
    call = [t.cuda() for t in numbers(size=(20, 24), group_channels=16)]
    expected = with_gradients(dcnv4, *call)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = with_gradients(dcnv4, *call)
    stream.synchronize()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    if torch.cuda.device_count() > 1:
        there = with_gradients(dcnv4, *(t.to("cuda:1") for t in call))
        for one, other in zip(there, expected, strict=True):
            assert one.device.index == 1
            torch.testing.assert_close(one.cpu(), other.cpu(), rtol=1e-5, atol=1e-5)


def test_a_cuda_graph_replays_forward_and_backward():
    value, offset_mask, grad = (t.cuda() for t in numbers(size=(20, 24), group_channels=16))
    value.requires_grad_()
    offset_mask.requires_grad_()

    def step():
        out = dcnv4(value, offset_mask)
        return out, *torch.autograd.grad(out, (value, offset_mask), grad)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        value.copy_(torch.randn_like(value))
        offset_mask.copy_(torch.randn_like(offset_mask))
    graph.replay()
    for one, other in zip(captured, step(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_forward_and_backward_are_the_eager_ones(dynamic):
    def loss(value, offset_mask):
        return dcnv4(value * 2, offset_mask, groups=2).square()

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic)
    for size in ((20, 24), (16, 16)):
        call = [t.cuda() for t in numbers(size=size, group_channels=16, groups=2, tail=2)]
        expected = with_gradients(loss, *call)
        found = with_gradients(compiled, *call)
        for one, other in zip(found, expected, strict=True):
            assert relative_error(one, other) < 1e-5


def test_aot_inductor_compiles_it(tmp_path):
    class Layer(torch.nn.Module):
        def forward(self, value, offset_mask):
            return dcnv4(value, offset_mask, groups=2)

    value, offset_mask, _ = (t.cuda() for t in numbers(size=(20, 24), group_channels=16, groups=2))
    program = torch.export.export(Layer(), (value, offset_mask))
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "layer.pt2")
    )
    run = torch._inductor.aoti_load_package(package)
    torch.testing.assert_close(run(value, offset_mask), dcnv4(value, offset_mask, groups=2))


def test_opcheck_accepts_it():
    value, offset_mask, _ = (t.cuda() for t in numbers(size=(5, 6), tail=2))
    inputs = value.requires_grad_(), offset_mask.requires_grad_()
    torch.library.opcheck(torch.ops.dcnify.dcnv4.default, inputs)


def test_asked_for_determinism_gradients_are_the_same_every_time():
    call = [t.cuda() for t in numbers(batch=4, size=(28, 28), group_channels=32, spread=3.0)]
    torch.use_deterministic_algorithms(True)
    try:
        runs = [with_gradients(dcnv4, *call) for _ in range(4)]
    finally:
        torch.use_deterministic_algorithms(False)
    exact = with_gradients(reference.dcnv4, *(t.double() for t in call))
    for one, other in zip(runs[0], exact, strict=True):
        assert relative_error(one, other) < 5e-6
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_float64_runs_too():
    call = [t.cuda().double() for t in numbers(size=(9, 11), group_channels=8)]
    found = with_gradients(dcnv4, *call)
    exact = with_gradients(reference.dcnv4, *call)
    for one, other in zip(found, exact, strict=True):
        assert relative_error(one, other) < 1e-12


def test_tensors_past_two_to_the_31_elements_are_indexed_in_full():
    needed = 30 * 2**30
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free GPU memory")
    batch, side, groups, width = 68, 496, 4, 32  # value: 2.14e9 elements
    random = torch.Generator("cuda").manual_seed(0)
    make = {"device": "cuda", "dtype": torch.float16, "generator": random}
    value = torch.randn(batch, side, side, groups * width, **make)
    offset_mask = torch.randn(batch, side, side, 12 * groups, **make)
    assert value.numel() > 2**31
    how = {"kernel_size": (2, 2), "padding": 0, "groups": groups}
    offset_mask = offset_mask[:, 1:, 1:]
    out = dcnv4(value, offset_mask, **how)
    for image in (0, batch - 1):
        only = slice(image, image + 1)
        exact = reference.dcnv4(value[only].float(), offset_mask[only].float(), **how)
        assert relative_error(out[only], exact) < 2**-10


def test_compute_sanitizer_finds_nothing():
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).exists():
        pytest.skip("compute-sanitizer is not installed")
    program = Path(__file__).parents[1] / "support" / "sanitized_case.py"
    for tool in ("memcheck", "racecheck"):
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=540)
        if "Device not supported" in done.stdout:
            pytest.skip("compute-sanitizer does not support this device")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
