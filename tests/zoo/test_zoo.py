"""Every layer of many models is a site or says why not; converted, they save, train and export."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from zoo.counting import counted
from zoo.known import KNOWN
from zoo.models import EXAMPLES, FACTORIES

import dcnify
from dcnify.artifact import Base
from dcnify.graph.calls import output_tensor, tensors_in
from dcnify.graph.example import Example
from dcnify.graph.part import example_for
from dcnify.words import first_line

RESULTS = Path(os.environ.get("DCNIFY_ZOO", "build/zoo"))
KINDS = {
    "conv": ("conv",),
    "depthwise_conv": ("depthwise_conv",),
    "attention": ("attention", "window_attention"),
}


@dataclass
class Row:
    """What became of a model; a step that fails has its reason."""

    name: str
    sites: dict[str, int] = field(default_factory=dict)
    near: dict[str, int] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any library; it is a result
            said = first_line(error)
            self.why[name] = said if isinstance(error, dcnify.DcnifyError) else repr(error)[:300]


@pytest.mark.parametrize("name", FACTORIES)
def test_a_model_of_the_zoo(name, tmp_path):
    row = Row(name)
    try:
        model = FACTORIES[name]()
    except ImportError as error:
        pytest.skip(f"not installed: {error.name}")
    except Exception as error:
        pytest.fail(f"the library does not build it: {error!r}"[:300])
    with row.step("sites"):
        example = example_for(model, EXAMPLES[name]())
        found = dcnify.find_sites(model, example)
        row.sites = dict(Counter(site.role for site in found))
        row.near = dict(Counter(miss.role for miss in found.near_misses))
        row.counted = counted(model, example)
        assert not (wrong := _incomplete(row)), wrong
    if row.sites:
        _convert(row, model, example, tmp_path / "out")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(asdict(row), indent=1))
    known = KNOWN.get(name, {})
    assert {k: v for k, v in row.why.items() if known.get(k, "\0") not in v} == {}
    assert row.why.keys() == known.keys(), "listed in known.py, and works"


def _incomplete(row: Row) -> str:
    """Which kind of layer is neither a site nor a near miss, or is listed more often than it is."""
    for kind, roles in KINDS.items():
        ran = row.counted.get(kind, 0)
        sites = sum(row.sites.get(role, 0) for role in roles)
        listed = sites + sum(row.near.get(role, 0) for role in roles)
        if not sites <= ran <= listed:
            return f"{ran} of kind {kind} run; {sites} are sites, {listed - sites} near misses"
    return ""


def _convert(row: Row, model: nn.Module, example: Example, out: Path) -> None:
    swaps = "".join(
        f"  - name: {role}\n    select: {{role: {role}}}\n    replace: {{with: dcnv4}}\n"
        f"    init: transfer\n"
        for role in row.sites
    )
    recipe = dcnify.Recipe.from_yaml(f"version: 1\nname: zoo\nswaps:\n{swaps}")
    with row.step("convert"):
        result = dcnify.convert(model, recipe, example, calibration=example.images)
    if "convert" in row.why:
        return
    before = _run(model, example)
    with row.step("save and load"):
        dcnify.save(result, out, base=Base("python", f"zoo.models:{row.name}"))
        loaded = dcnify.load(out, trust_code=True)
        assert type(loaded) is type(model)
        assert torch.equal(_run(loaded, example), before), "another output"
    with row.step("train"):
        _train(model, example)
    with row.step("export"):
        program = torch.export.export(
            example.called(model).eval(), example.args, dict(example.kwargs), strict=False
        )
        again = _main(program.module()(*example.args, **example.kwargs))
        after = _run(model, example)
        assert torch.allclose(again, after, rtol=1e-3, atol=1e-4 * float(after.abs().max()))


def _run(model: nn.Module, example: Example) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return _main(example.call(model.eval()))


def _main(output: Any) -> torch.Tensor:
    return output_tensor(output).detach()


def _train(model: nn.Module, example: Example) -> None:
    """One step, after which every weight of a new layer has a finite gradient."""
    two = example.with_image(torch.cat([example.images, -example.images]))
    model.train()
    outputs = [x for x in tensors_in(two.call(model)) if x.is_floating_point() and x.requires_grad]
    sum(x.float().square().mean() for x in outputs).backward()
    new = [m for m in model.modules() if type(m).__name__ == "DCNv4"]
    weights = [p for m in new for p in m.parameters() if p.requires_grad]
    assert new, "no new layer"
    assert all(p.grad is not None and p.grad.isfinite().all() for p in weights), "no gradient"
    with torch.no_grad():
        for weight in weights:
            weight -= 1e-3 * weight.grad
    model.eval()
