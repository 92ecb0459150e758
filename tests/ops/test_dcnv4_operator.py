"""The operator as PyTorch sees it: schema, fake, compile, export, autocast, FLOPs, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.dcnv4_calls import relative_error, tensors, with_gradients
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

from dcnify.errors import InputError
from dcnify.ops import dcnv4, reference

CALLS = [
    {},
    {"softmax": True, "remove_center": True, "groups": 2},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
]


@pytest.mark.parametrize("how", CALLS)
def test_opcheck_accepts_it(how):
    value, offset_mask, _ = tensors(size=(5, 6), tail=2, **how)
    inputs = value.requires_grad_(), offset_mask.requires_grad_()
    torch.library.opcheck(torch.ops.dcnify.dcnv4.default, inputs, how)


def test_opcheck_accepts_it_in_half_precision_with_float32_offsets():
    value, offset_mask, _ = tensors(size=(5, 6))
    inputs = value.bfloat16().requires_grad_(), offset_mask.requires_grad_()
    torch.library.opcheck(torch.ops.dcnify.dcnv4.default, inputs)


def test_torch_ops_takes_ints_and_has_the_same_defaults():
    value, offset_mask, _ = tensors(kernel_size=5, padding=2)
    found = torch.ops.dcnify.dcnv4(value, offset_mask, kernel_size=5, padding=2)
    assert torch.equal(found, dcnv4(value, offset_mask, kernel_size=(5, 5), padding=(2, 2)))
    value, offset_mask, _ = tensors()
    assert torch.equal(torch.ops.dcnify.dcnv4(value, offset_mask), dcnv4(value, offset_mask))


def test_it_compiles_as_one_graph_with_its_backward():
    def run(value, offset_mask):
        return dcnv4(value.relu(), offset_mask * 0.5, softmax=True) + 1

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in ((7, 9), (8, 5)):
        call = tensors(size=size)
        for one, other in zip(
            with_gradients(compiled, *call), with_gradients(run, *call), strict=True
        ):
            torch.testing.assert_close(one, other)


def test_it_exports_with_dynamic_batch_and_image_size():
    class Strided(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.predict = torch.nn.Conv2d(8, 54, 3, stride=2, padding=1)

        def forward(self, value):
            offset_mask = self.predict(value.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return dcnv4(value, offset_mask, stride=2, groups=2)

    module = Strided()
    sizes = {0: Dim("batch"), 1: Dim("height", min=4), 2: Dim("width", min=4)}
    program = torch.export.export(module, (torch.randn(2, 8, 11, 8),), dynamic_shapes=(sizes,))
    assert torch.ops.dcnify.dcnv4.default in {node.target for node in program.graph.nodes}
    for shape in ((1, 7, 6, 8), (4, 12, 9, 8)):
        image = torch.randn(shape)
        torch.testing.assert_close(program.module()(image), module(image))


def test_meta_tensors_give_shapes_without_work():
    value, offset_mask = torch.empty(8, 900, 900, 64, device="meta"), (8, 450, 450, 112)
    out = dcnv4(value, torch.empty(offset_mask, device="meta"), stride=2)
    assert out.shape == (8, 450, 450, 64)
    assert out.device.type == "meta"


def test_autocast_casts_the_value_and_leaves_positions_alone():
    value, offset_mask, grad = tensors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradients(dcnv4, value, offset_mask, grad)
        wide = dcnv4(value.double(), offset_mask.double())
    assert [t.dtype for t in found] == [torch.bfloat16, torch.float32, torch.float32]
    assert wide.dtype == torch.float64
    assert torch.equal(found[0], torch.ops.dcnify.dcnv4(value.bfloat16(), offset_mask))
    exact = with_gradients(reference.dcnv4, value.double(), offset_mask.double(), grad.double())
    for one, other in zip(found, exact, strict=True):
        assert relative_error(one, other) < 2**-7


def test_autocast_survives_compilation():
    value, offset_mask, _ = tensors()
    compiled = torch.compile(dcnv4, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compiled(value, offset_mask)
    assert torch.equal(found, torch.ops.dcnify.dcnv4(value.bfloat16(), offset_mask))


def test_flops_are_ten_a_point_and_channel_and_twice_that_backward():
    value, offset_mask, grad = tensors(size=(8, 8), stride=2)
    forward = 10 * 2 * 4 * 4 * 16 * 9
    with FlopCounterMode(display=False) as counter:
        dcnv4(value, offset_mask, stride=2)
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        with_gradients(dcnv4, value, offset_mask, grad, stride=2)
    assert counter.get_total_flops() == 3 * forward


def test_a_second_derivative_is_refused_in_words():
    value, offset_mask, _ = tensors()
    value.requires_grad_()
    out = dcnv4(value, offset_mask.requires_grad_())
    (first,) = torch.autograd.grad(out.square().sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no second derivative; .*reference\.dcnv4 has"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("value", "offset_mask", "how", "message"),
    [
        ((1, 5, 5, 30), (1, 5, 5, 112), {}, "30 channels do not divide into 4 groups.* is 3$"),
        ((1, 5, 5, 8), (1, 5, 5, 100), {}, r"has 100 channels; expected .*3·4·9 = 108"),
        ((2, 6, 5, 8), (2, 6, 5, 112), {"stride": 2}, r"\(2, 6, 5\).*gives \(2, 3, 3\)"),
        ((2, 5, 5, 8), (3, 5, 5, 112), {}, r"\(3, 5, 5\).*gives \(2, 5, 5\)"),
        ((2, 25, 8), (2, 25, 112), {}, r"value has shape \(2, 25, 8\); expected 4 dimensions"),
        ((1, 3, 3, 8), (1, 1, 1, 600), {"kernel_size": 7}, "empty: .* spans 7x7.* only 5x5"),
        ((1, 0, 3, 8), (1, 0, 3, 112), {}, "image is empty: 0x3"),
        ((1, 4, 4, 8), (1, 4, 4, 112), {"stride": 0}, r"stride must be at least 1, not \(0, 0\)"),
        ((1, 4, 4, 8), (1, 4, 4, 112), {"padding": (1, -1)}, "padding must be at least 0"),
        ((1, 4, 4, 8), (1, 4, 4, 112), {"groups": 0}, "groups must be at least 1"),
        (
            (1, 4, 4, 8),
            (1, 4, 4, 112),
            {"kernel_size": (2, 3), "remove_center": True},
            "remove_center needs an odd kernel of more than one point, not 2x3",
        ),
    ],
)
@pytest.mark.parametrize("op", [dcnv4, reference.dcnv4], ids=["fast", "reference"])
def test_what_does_not_fit_is_said_in_one_line(op, value, offset_mask, how, message):
    with pytest.raises(InputError, match=message) as raised:
        op(torch.zeros(value), torch.zeros(offset_mask), **how)
    assert "\n" not in str(raised.value)


def test_a_triple_for_a_pair_names_the_argument():
    value, offset_mask, _ = tensors()
    with pytest.raises(InputError, match=r"dilation is an int or an \(h, w\) pair of ints"):
        dcnv4(value, offset_mask, dilation=(1, 1, 1))


def test_integer_features_are_refused():
    value, offset_mask, _ = tensors()
    with pytest.raises(InputError, match=r"value is torch\.int64; expected float16"):
        dcnv4(value.long(), offset_mask)


@pytest.mark.parametrize(
    "dtypes", [(torch.float32, torch.float16), (torch.bfloat16, torch.float32)]
)
def test_tensors_of_two_dtypes_are_refused_outside_autocast(dtypes):
    value, offset_mask, _ = tensors()
    with pytest.raises(
        InputError, match=r"value is torch\.\w+ and offset_mask is torch\.\w+; expect"
    ):
        dcnv4(value.to(dtypes[0]), offset_mask.to(dtypes[1]))


def test_tensors_on_two_devices_are_refused():
    value, offset_mask, _ = tensors()
    with pytest.raises(InputError, match=r"value is on meta, offset_mask on cpu; expected one"):
        dcnv4(value.to("meta"), offset_mask)


@pytest.mark.parametrize(
    ("argument", "given", "message"),
    [
        ("groups", "4", r"groups is an int, not '4'"),
        ("groups", 4.0, r"groups is an int, not 4\.0"),
        ("groups", True, r"groups is an int, not True"),
        ("offset_scale", None, r"offset_scale is a finite number, not None"),
        ("offset_scale", float("nan"), r"offset_scale is a finite number, not nan"),
        ("softmax", "no", r"softmax is a bool, not 'no'"),
        ("remove_center", 1, r"remove_center is a bool, not 1"),
        ("kernel_size", True, r"kernel_size is an int or an \(h, w\) pair of ints, not True"),
        ("stride", 1.5, r"stride is an int or an \(h, w\) pair of ints, not 1\.5"),
        ("value", None, r"value is of type NoneType; expected a torch\.Tensor"),
        ("offset_mask", [1.0], r"offset_mask is of type list; expected a torch\.Tensor"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(argument, given, message):
    value, offset_mask, _ = tensors()
    call = {"value": value, "offset_mask": offset_mask, argument: given}
    with pytest.raises(InputError, match=message) as raised:
        dcnv4(**call)
    assert "\n" not in str(raised.value)


def test_lists_and_numpy_integers_are_integers():
    value, offset_mask, _ = tensors()
    given = {"kernel_size": [3, np.int64(3)], "groups": np.int64(4), "offset_scale": 1}
    assert torch.equal(dcnv4(value, offset_mask, **given), dcnv4(value, offset_mask))


@pytest.mark.parametrize(
    ("grad", "how", "message"),
    [
        ((1, 1, 1, 16), {}, r"grad_output is \(1, 1, 1, 16\) on cpu; expected \(2, 7, 9, 16\)"),
        ((2, 7, 9, 16), {"stride": [2, 2]}, r"offset_mask is \(B, Ho, Wo\)"),
        ((2, 7, 9, 16), {"groups": 3}, r"16 channels do not divide into 3 groups"),
    ],
)
def test_the_gradients_operator_checks_what_it_is_given(grad, how, message):
    value, offset_mask, _ = tensors()
    with pytest.raises(InputError, match=message):
        torch.ops.dcnify.dcnv4_backward(torch.ones(grad), value, offset_mask, **how)
