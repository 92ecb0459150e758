"""Captured nodes are evaluated to what the model computes, in-place writes included."""

import torch
from torch import nn

from dcnify.graph.capture import capture
from dcnify.graph.evaluate import constant_value, evaluate

IMAGE = torch.randn(1, 3, 8, 8)


class Marked(nn.Module):
    """Adds a mask of zeros, of which parts were set; one of them by the image."""

    def __init__(self, from_image=False):
        super().__init__()
        self.conv, self.from_image = nn.Conv2d(3, 4, 3, padding=1), from_image
        self.register_buffer("marks", torch.zeros(8))

    def forward(self, x):
        mask = x.new_zeros(8, 8)
        mask[2:, 1:3] = 5
        mask[0] = x[0, 0, 0] if self.from_image else self.marks
        y = self.conv(x)
        before = y * 2
        return before + y.relu_() + mask.flatten().view(8, 8)


class Counting(nn.Module):
    """Writes into a buffer of its own, and reads it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x):
        self.seen[2:4] = 7
        return x + self.seen


def test_what_is_written_into_a_buffer_is_seen_and_the_buffer_stays():
    model = Counting()
    captured = capture(model, IMAGE)
    model.seen.zero_()
    seen = evaluate(captured, output_of(captured), {captured.image: IMAGE})
    assert not model.seen.any()
    assert torch.equal(seen, model(IMAGE))


def output_of(captured):
    return captured.graph.output_node().args[0][0]


def test_what_is_written_into_a_tensor_is_seen_by_who_reads_it_later():
    for model in (Marked(), Marked(from_image=True)):
        captured = capture(model, IMAGE)
        with torch.no_grad():
            expected = model(IMAGE)
        image = IMAGE.clone()
        assert torch.equal(
            evaluate(captured, output_of(captured), {captured.image: image}), expected
        )
        assert torch.equal(image, IMAGE)
        assert not model.marks.any()


def test_a_node_has_the_value_from_before_it_was_written_into():
    model = Marked()
    captured = capture(model, IMAGE)
    conv = next(node for node in captured.operations() if "conv2d" in str(node.target))
    with torch.no_grad():
        assert torch.equal(evaluate(captured, conv, {captured.image: IMAGE}), model.conv(IMAGE))


def test_a_mask_that_the_image_is_written_into_is_not_constant():
    for from_image, constant in ((False, True), (True, False)):
        captured = capture(Marked(from_image), IMAGE)
        mask = next(node for node in captured.operations() if "new_zeros" in str(node.target))
        view = next(node for node in captured.operations() if "view" in str(node.target))
        assert mask in view.all_input_nodes[0].all_input_nodes or mask in view.all_input_nodes
        assert (constant_value(captured, view) is not None) is constant
