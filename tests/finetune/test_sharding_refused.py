"""What cannot be shared out between processes is told before it is tried."""

from __future__ import annotations

import json
import re

import pytest
import torch
from support.fsdp_on_cpu import BY_SIZE, LAUNCHED
from torch import nn

from dcnify.errors import InputError

BY_CLASS = {
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "Blok",
}
pytestmark = pytest.mark.slow


class Tied(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4)))
        self[1][0].weight = self[0][0].weight


class Scaled(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.scale = nn.Parameter(torch.ones(()))


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, images):
        return self.layers[0](images)


SMALL = {**BY_SIZE, "FSDP_MIN_NUM_PARAMS": "5"}


@pytest.mark.parametrize(
    ("model", "settings", "optimizer", "words"),
    [
        (Tied, SMALL, {}, "0.0.weight is used in parts of the model that"),
        (Scaled, {}, {}, "FSDP cannot divide scale, which is a single number"),
        (Listed, SMALL, {}, "layers is a ModuleList, which is never called"),
        (Tied, BY_CLASS, {}, "layer class Blok"),
        (Tied, {}, {"name": "muon"}, "optimizer.name: muon is not known to work with FSDP"),
        (Tied, {}, {"options": {"caution": True}}, "a cautious adamw is not known"),
    ],
    ids=["tied", "single number", "list", "no such class", "muon", "caution"],
)
def test_what_cannot_be_shared_out_is_told_before_it_is_tried(
    model, settings, optimizer, words, monkeypatch
):
    from dcnify.finetune.parallel.fsdp import create_plugin
    from dcnify.finetune.parallel.shard_checks import check_sharding
    from dcnify.recipe.finetune.section import Optimizer

    for name, value in {**LAUNCHED, **settings}.items():
        monkeypatch.setenv(name, value)
    how = Optimizer(**{"lr": 0.1, **optimizer})
    with pytest.raises(InputError, match=re.escape(words)):
        check_sharding(model(), how, create_plugin())


def test_what_was_begun_whole_does_not_go_on_in_shares(tmp_path):
    from dcnify.finetune.checkpoints import Checkpoints
    from dcnify.finetune.run_folder import RUN, find_checkpoint

    keys = ("artifact", "weights", "data", "normalisation", "processes", "stages", "finetune")
    about = dict.fromkeys(keys, 2)
    (tmp_path / RUN).write_text(json.dumps(about))  # as before there was FSDP
    checkpoints = Checkpoints(tmp_path / "checkpoints", print)
    assert find_checkpoint(tmp_path, checkpoints, {**about, "fsdp": False}, print)[0] is None
    with pytest.raises(InputError, match="begun with other fsdp"):
        find_checkpoint(tmp_path, checkpoints, {**about, "fsdp": True}, print)
