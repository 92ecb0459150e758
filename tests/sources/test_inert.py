"""Objects beside the weights are not read, and nothing of theirs runs."""

import argparse
import collections
import contextlib
import datetime
import os
import pathlib
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from support.artifact_standin import assert_same, tiny

from dcnify.artifact import open_source
from dcnify.errors import InputError

NAMED = {
    "arch": "convnext_atto",
    "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "num_classes": 10},
}


@pytest.fixture(scope="module")
def model():
    return tiny()


def of_a_package(monkeypatch, name, base=object):
    """A class of a package that is gone again when the file is read."""
    module, _, short = name.rpartition(".")
    for k in range(1, module.count(".") + 2):
        part = ".".join(module.split(".")[:k])
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    kind = type(short, (base,), {"__module__": module})
    setattr(sys.modules[module], short, kind)
    return kind


PLAIN = {
    "numpy scalar": np.float64(0.5),
    "numpy array": np.zeros(3),
    "numpy of objects": np.array([None, "a"], dtype=object),
    "path": pathlib.Path("/x"),
    "windows path": pathlib.PureWindowsPath("c:/x"),
    "namespace": argparse.Namespace(lr=1, path=pathlib.Path("/x")),
    "datetime": datetime.datetime(2026, 1, 2),
    "zone": datetime.timezone(datetime.timedelta(hours=1)),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "deque": collections.deque([1, 2], maxlen=3),
    "simple namespace": types.SimpleNamespace(a=1),
    "class": pathlib.PurePath,
    "function": os.path.join,
    "set of paths": {pathlib.Path("/x")},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_objects_beside_the_weights_are_let_in(tmp_path, model, kind, zipped):
    held = {"state_dict": model.state_dict(), "meta": {"it": PLAIN[kind]}}
    torch.save(held, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    assert_same(model, open_source(tmp_path / "m.pt", **NAMED).model)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("omegaconf.dictconfig.DictConfig", object),
        ("mmengine.config.config.ConfigDict", dict),
        ("mmengine.logging.history_buffer.HistoryBuffer", object),
        ("yacs.config.CfgNode", dict),
        ("lightning.fabric.utilities.data.AttributeDict", dict),
        ("somewhere.Meters", list),
        ("somewhere.Names", set),
    ],
)
def test_objects_of_packages_that_are_not_installed_are_let_in(
    tmp_path, model, monkeypatch, name, base
):
    with monkeypatch.context() as patched:
        one = of_a_package(patched, name, base)()
        if base is dict:
            one.update(a=1)
        elif base is list:
            one.extend([1, 2])
        elif base is set:
            one |= {1, 2}
        one.kept = {"b": [1]}
        torch.save({"state_dict": model.state_dict(), "cfg": one}, tmp_path / "m.pt")
    assert_same(model, open_source(tmp_path / "m.pt", **NAMED).model)


def test_trusting_a_file_whose_package_is_missing_changes_nothing(tmp_path, model, monkeypatch):
    with monkeypatch.context() as patched:
        one = of_a_package(patched, "mmengine.logging.history_buffer.HistoryBuffer")()
        torch.save({"state_dict": model.state_dict(), "x": one}, tmp_path / "m.pt")
    assert_same(model, open_source(tmp_path / "m.pt", **NAMED, trust_pickle=True).model)


def test_any_protocol_is_read(tmp_path, model):
    held = {"state_dict": model.state_dict(), "meta": pathlib.Path("/x")}
    for protocol in (3, 4, 5):
        torch.save(held, tmp_path / "m.pt", pickle_protocol=protocol)
        assert_same(model, open_source(tmp_path / "m.pt", **NAMED).model)


def test_weights_as_numpy_arrays_in_a_plain_pickle_open(tmp_path, model):
    """As Detectron2's are."""
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}, protocol=2))
    assert_same(model, open_source(tmp_path / "m.pkl", **NAMED).model)


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


def hostile(ran):
    folder = str(ran)
    return {
        "a call": Call(os.mkdir, folder),
        "a call in a key": {Call(os.mkdir, folder): 1},
        "code": Call(eval, f"__import__('os').mkdir({folder!r})"),
        "torch's reader": Call(torch.load, folder),
        "torch's writer": Call(torch.save, {}, folder),
        "a rebuilt subclass": Call(
            torch._tensor._rebuild_from_type_v2, os.mkdir, os.mkdir, (folder,), {}
        ),
        "state for a class": Call(torch.Size, (1,), state={"__len__": os.mkdir}),
    }


@pytest.mark.parametrize("kind", list(hostile("")))
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_of_a_file_runs(tmp_path, model, kind, protocol):
    data = {"state_dict": model.state_dict(), "x": hostile(tmp_path / "ran")[kind]}
    torch.save(data, tmp_path / "m.pt", pickle_protocol=protocol)
    before = {name: vars(torch.Size).get(name) for name in dir(torch.Size)}
    with contextlib.suppress(InputError):
        assert_same(model, open_source(tmp_path / "m.pt", **NAMED).model)
    assert not (tmp_path / "ran").exists()
    assert before == {name: vars(torch.Size).get(name) for name in dir(torch.Size)}


def opcodes(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.parametrize(
    "stream",
    [
        opcodes(b"ctorch._utils\n_rebuild_tensor_v2\n", b"}X\x01\x00\x00\x00aK\x01sb"),
        opcodes(b"ctorch\nTensor\n", b"}X\x01\x00\x00\x00aK\x01sb"),
        opcodes(b"ctorch\nTensor\n", b"N}X\x07\x00\x00\x00__add__K\x01s\x86b"),
        opcodes(b"cbuiltins\nbytearray\n", b"\x8a\x06\x00\x00\x00\x00\x00\x10\x85R"),
        opcodes(b"ctorch\nSize\n", b"K\x01a"),
        opcodes(b"ccollections\nOrderedDict\n", b"K\x01K\x02s"),
    ],
)
def test_torch_s_own_names_are_not_written_to(tmp_path, stream):
    from dcnify.sources.reading import inert

    (tmp_path / "m.pkl").write_bytes(stream)
    with (tmp_path / "m.pkl").open("rb") as file, pytest.raises(pickle.UnpicklingError):
        inert.load(file)
    assert not hasattr(torch._utils._rebuild_tensor_v2, "a")
    assert not hasattr(torch.Tensor, "a")


def test_a_dict_that_holds_itself_ends(tmp_path, model):
    held = {"state_dict": model.state_dict(), "where": pathlib.Path("/x")}
    held |= {f"again{i}": held for i in range(30)}
    torch.save(held, tmp_path / "m.pt")
    assert_same(model, open_source(tmp_path / "m.pt", **NAMED).model)


def test_a_whole_module_beside_nothing_still_needs_trust(tmp_path, model):
    held = {"model": model, "optimizer": {"state": {"a": {"exp_avg": torch.ones(1)}}}}
    torch.save(held, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"holds Python objects .*--trust-pickle"):
        open_source(tmp_path / "m.pt", **NAMED)
