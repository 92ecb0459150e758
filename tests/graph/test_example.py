"""What one call of a model is given, in whatever form a person writes it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import dcnify
from dcnify import Example, InputError
from dcnify.graph.calls import first_tensor, output_tensor

IMAGE = torch.randn(1, 3, 16, 16)


@pytest.mark.parametrize(
    ("given", "image"),
    [
        (IMAGE, 0),
        ((IMAGE, torch.tensor([7])), 0),
        ([torch.tensor([7]), IMAGE], 1),
        ({"timestep": torch.tensor([7]), "sample": IMAGE}, "sample"),
        ((torch.randn(1, 64, 4, 4), IMAGE), 1),
        (Example((IMAGE, IMAGE), image=1), 1),
    ],
)
def test_the_image_is_found_in_a_tensor_a_tuple_a_dict_and_an_example(given, image):
    example = Example.of(given)
    assert example.image == image
    assert example.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("photo.jpg", "of type str; expected a tensor"),
        (None, "of type NoneType; expected a tensor"),
        ({1: IMAGE}, "of type dict; expected a tensor"),
        ((), "there is no tensor among the arguments"),
        ((1, None), "there is no tensor among the arguments"),
        ((IMAGE, IMAGE), r"0 \(1, 3, 16, 16\), 1 \(1, 3, 16, 16\)\); name it: .*image=0"),
        ((IMAGE[0], torch.ones(2)), r"no argument is an image .* name it: .*image=0"),
        ((IMAGE.byte(), torch.ones(2)), r"no argument is an image .* name it: .*image=0"),
    ],
)
@pytest.mark.parametrize("entry", [Example.of, lambda x: dcnify.find_sites(nn.Identity(), x)])
def test_what_is_no_example_is_refused_in_one_line(entry, given, words):
    with pytest.raises(InputError, match=words) as caught:
        entry(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "image"),
    [
        (({"pixels": IMAGE, "more": {"vector": torch.ones(1, 5)}},), "0.pixels"),
        ({"batch": [torch.ones(1, 5), IMAGE]}, "batch.1"),
    ],
)
def test_an_image_inside_an_argument_is_found_and_replaced_there(given, image):
    example = Example.of(given)
    assert example.image == image
    assert not example.is_image_alone
    twice = torch.randn(2, 3, 8, 8)
    replaced = example.with_image(twice)
    assert replaced.images is twice
    others = {key: shape for key, shape in replaced.shapes().items() if key != image}
    assert list(others.values()) == [[2, 5]]


def test_a_name_that_no_argument_has_is_refused_with_the_arguments():
    with pytest.raises(InputError, match=r"image='pixels' .*1x3x16x16, step=4"):
        Example((IMAGE,), {"step": 4}, image="pixels")


def test_other_inputs_follow_the_batch_of_new_images():
    step, text, size = torch.tensor([3, 9]), torch.randn(5, 2, 4), torch.tensor(16)
    example = Example((torch.randn(2, 3, 8, 8), step), {"text": text, "more": [size, "x"]})
    five = example.with_image(torch.randn(5, 3, 16, 16))
    assert five.shape == (5, 3, 16, 16)
    assert five.args[1].tolist() == [3, 9, 3, 9, 3]
    assert five.kwargs["text"] is text  # its first axis is not the batch
    assert five.kwargs["more"] == [size, "x"]
    one = example.with_image(torch.randn(1, 3, 8, 8))
    assert one.args[1].tolist() == [3]
    along = Example(example.args, {"text": text}, batch_axis=1).with_image(torch.randn(5, 3, 8, 8))
    assert along.kwargs["text"].shape == (5, 5, 4)


def test_floating_point_inputs_take_the_dtype_and_others_keep_theirs():
    example = Example((IMAGE, torch.tensor([7]))).to("cpu", torch.float64)
    assert example.images.dtype == torch.float64
    assert example.args[1].dtype == torch.int64
    assert Example.of(IMAGE).to("cpu").images.dtype == torch.float32


def test_an_example_is_described_by_its_shapes():
    example = Example(
        (IMAGE,), {"timestep": torch.tensor([7]), "mode": "fast", "return_dict": True}
    )
    assert example.shapes() == {
        "0": [1, 3, 16, 16],
        "timestep": [1],
        "mode": "fast",
        "return_dict": True,
    }
    assert example.describe() == "1x3x16x16, timestep=1, mode=fast, return_dict=True"


@dataclass
class Output:
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    states: tuple = ()


class ModelOutput(OrderedDict):
    """As those of transformers and diffusers: torch does not know that it holds tensors."""


A, B = torch.randn(2, 4), torch.randn(2, 3, 5)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (A, A),
        ((A, None), A),
        ([torch.ones(2, dtype=torch.long), A], A),
        ({"aux": B, "logits": A}, A),
        (ModelOutput(aux=B, logits=A), A),
        (Output(loss=torch.tensor(1.0), logits=A, states=(B, B)), A),
        (Output(states=(B,)), B),
        ((A, B), torch.cat([A, B.flatten(1)], 1)[:, None]),
    ],
)
def test_outputs_of_any_type_are_compared_by_one_tensor(output, expected):
    assert torch.equal(output_tensor(output), expected)


def test_a_layers_first_tensor_is_the_first_with_floating_point_numbers():
    assert first_tensor(ModelOutput(mask=torch.ones(2, dtype=torch.bool), states=(None, B))) is B
    with pytest.raises(dcnify.DcnifyError, match="type dict"):
        first_tensor({"mask": torch.ones(2, dtype=torch.bool)})
