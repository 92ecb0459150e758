"""dcnify finetune: what it refuses before anything is trained, and what it prints."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from support.finetune_cases import converted
from support.pictures import class_folders

from dcnify.cli import main
from dcnify.cli.progress import Display
from dcnify.finetune import train

STAGES = """seed: 1
stages:
  - {name: one, steps: 2, batch_size: 16, train: "@swapped", optimizer: {lr: 1.0e-3}}
  - {name: two, steps: 2, batch_size: 16, optimizer: {lr: 1.0e-3}, losses: {labels: 1, logits: 1}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    converted(folder)
    (folder / "stages.yaml").write_text(STAGES)
    class_folders(folder / "pictures")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten classes of five pictures to train on and one to look at; one of each part is broken."""
    folder = tmp_path_factory.mktemp("photos")
    class_folders(folder, train=5, size=40)
    for part in ("train", "val"):
        (folder / part / "c3" / "0.png").write_bytes(b"no picture")
    return folder


def finetune(made, out, *more, data=None, stages=True):
    images = ["--data", str(data or made / "pictures"), *(() if data else ("--image-count", "48"))]
    args = ["finetune", str(made / "converted"), *images, "-o", str(out), "--cpu"]
    if stages:
        args += ["-r", str(made / "stages.yaml")]
    return main([*args, *map(str, more)])


def refused(capsys, tmp_path, words):
    seen = capsys.readouterr()
    assert seen.out == ""
    (line,) = [line for line in seen.err.splitlines() if line.startswith("error: ")]
    assert words in line
    assert not (tmp_path / "out").exists()


SET = "finetune.stages.two."


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-r", "nothing"], "'nothing'"),
        (["--set", f"{SET}nothing=1"], "unknown key 'nothing'"),
        (["--set", "finetune.stages.three.steps=1"], "no stage named 'three'"),
        (["--set", f"{SET}optimizer.lr=0"], "a learning rate of 0 trains nothing"),
        (["--set", f"{SET}batch_size=64"], "stage two: a batch of 64 is larger than the dataset"),
        (["--set", f"{SET}train=nowhere"], "stage two: train: 'nowhere' covers no parameter"),
        (["--set", f"{SET}amp=fp16"], "stage two: amp fp16 needs a GPU"),
        (["--set", f"{SET}optimizer.options={{nothing: 1}}"], "stage two: optimizer adamw: "),
        (["--set", f"{SET}augment.auto=rand-m9-nonsense1"], "stage two: augment.auto"),
        (["--set", f"{SET}handover={{until: 0.5}}"], "no layer of the artifact hands over"),
        (["--teacher", "timm:resnet18"], "not from timm:resnet18"),
        (["--split", "nothing"], "no split 'nothing' in"),
        (["--resume"], "holds no fine-tuning to resume"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_done_is_one_line_before_anything_is_written(
    options, words, made, tmp_path, capsys
):
    assert finetune(made, tmp_path / "out", *options) == 2
    refused(capsys, tmp_path, words)


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED is not supported"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "MEGATRON_LM is not supported"),
        (FSDP, "FSDP needs GPUs, and torchrun or accelerate launch"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP 1 is not supported: ask for FSDP 2"),
        ({**FSDP, "FSDP_VERSION": "1"}, "FSDP 1 is not supported: ask for FSDP 2"),
        ({**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "leave the weights on the GPUs"),
        ({**FSDP, "FSDP_IGNORED_MODULES": ".*norm"}, "FSDP_IGNORED_MODULES=.*norm is not supp"),
        ({**FSDP, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "say checkpointing: true in the st"),
        ({**FSDP, "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "leave compilation out"),
        ({**FSDP, "ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "divides the work in other ways"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_way_to_share_out_the_model_that_is_not_supported_is_refused(
    settings, words, made, tmp_path, capsys, monkeypatch
):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert finetune(made, tmp_path / "out") == 2
    refused(capsys, tmp_path, words)


@pytest.mark.parametrize("data", ["/nowhere", "builtin:nothing", "hfds"])
def test_a_dataset_that_is_not_there(data, made, tmp_path, capsys):
    assert finetune(made, tmp_path / "out", data=data) == 2
    refused(capsys, tmp_path, data)


def test_a_dataset_that_lacks_a_class(made, tmp_path, photos, capsys):
    few = tmp_path / "few"
    for label in range(9):
        (few / f"c{label}").mkdir(parents=True)
        (few / f"c{label}" / "0.png").symlink_to(photos / "train" / f"c{label}" / "1.png")
    assert finetune(made, tmp_path / "out", data=few) == 2
    refused(capsys, tmp_path, "has 9 class folders and the model 10 outputs")


def test_an_artifact_that_is_none(made, tmp_path, capsys):
    assert main(["finetune", str(tmp_path), "--data", "x", "-o", str(tmp_path / "out")]) == 2
    refused(capsys, tmp_path, str(tmp_path))


def test_an_output_that_is_taken_stays(made, tmp_path, capsys):
    for name, words in (("folder", "is not a dcnify artifact"), ("file", "exists and is a file")):
        taken = tmp_path / name
        if name == "folder":
            taken.mkdir()
            (taken / "mine.txt").write_text("mine")
        else:
            taken.write_text("mine")
        for more in ([], ["--overwrite"]):
            assert finetune(made, taken, *more) == 2
            refused(capsys, tmp_path, words)
    assert [one.name for one in (tmp_path / "folder").iterdir()] == ["mine.txt"]


def test_the_artifact_itself_is_no_output_even_to_overwrite(made, capsys, tmp_path):
    before = sorted(one.name for one in (made / "converted").iterdir())
    assert finetune(made, made / "converted", "--overwrite") == 2
    refused(capsys, tmp_path, "is the artifact that is trained")
    assert sorted(one.name for one in (made / "converted").iterdir()) == before


@pytest.mark.slow
def test_what_would_be_overwritten_stays_when_the_new_run_cannot_begin(
    made, photos, tmp_path, capsys
):
    assert finetune(made, tmp_path / "out", "--quiet", data=photos) == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    wrong = ["--set", f"{SET}batch_size=64"]
    assert finetune(made, tmp_path / "out", "--overwrite", *wrong, data=photos) == 2
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert (tmp_path / "out" / "finetune" / "metrics.jsonl").exists()
    capsys.readouterr()
    assert finetune(made, tmp_path / "out", data=photos) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_json_is_alone_on_stdout_and_names_what_was_skipped(made, photos, tmp_path, capsys):
    assert finetune(made, tmp_path / "out", "--json", data=photos) == 0
    seen = capsys.readouterr()
    told = json.loads(seen.out)
    assert told["stages"].keys() == {"one", "two"}
    assert told["artifact"] == str(tmp_path / "out")
    assert Path(told["curve"]).exists()
    assert [name for name, _ in told["skipped"]] == ["c3/0.png", "c3/0.png"]
    assert "skipped c3/0.png: " in seen.err


def test_the_start_may_be_the_best_and_no_improvement_may_be_an_error(
    made, photos, tmp_path, capsys
):
    still = [
        *("--set", "finetune.stages.one.optimizer.lr=1e-30"),
        *("--set", f"{SET}optimizer.lr=1e-30"),
        "--require-improvement",
    ]
    assert finetune(made, tmp_path / "out", "--json", *still, data=photos) == 3
    seen = capsys.readouterr()
    told = json.loads(seen.out)
    assert (told["best_at"], told["gained"]) == ("the start", False)
    assert f"{tmp_path / 'out'}: no improvement by training" in seen.err
    assert (tmp_path / "out" / "config.json").is_file()


def test_an_end_below_the_start_is_told(made, photos, tmp_path, capsys, monkeypatch):
    def worse(*given, **named):
        done = train(*given, **named)
        return dataclasses.replace(done, converted=0.348, finetuned=0.261)

    monkeypatch.setattr("dcnify.finetune.train", worse)
    assert finetune(made, tmp_path / "out", data=photos) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "below where" in line]
    (line,) = warned
    assert line.startswith("warning: ")
    assert "34.8% before, 26.1% after" in line


def test_quiet_says_nothing_but_the_result(made, photos, tmp_path, capsys):
    assert finetune(made, tmp_path / "out", "--quiet", data=photos) == 0
    seen = capsys.readouterr()
    assert seen.err == ""
    assert "after two" in seen.out
    assert f"wrote {tmp_path / 'out'}" in seen.out


def test_without_a_terminal_there_are_lines(made, photos, tmp_path, capsys):
    assert finetune(made, tmp_path / "out", data=photos) == 0
    said = capsys.readouterr().err
    assert "converted: accuracy " in said
    assert "two, epoch 1, step 2/2: loss " in said


def test_ctrl_c_keeps_what_was_done_and_resume_goes_on(made, photos, tmp_path, capsys, monkeypatch):
    step = Display.step

    def press(self, now):
        if (now.stage, now.step) == ("one", 1):
            os.kill(os.getpid(), signal.SIGINT)
        step(self, now)

    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", press)
        assert finetune(made, tmp_path / "out", "--checkpoint-every", "1", data=photos) == 130
    said = capsys.readouterr()
    assert said.out == ""
    assert "the same command with --resume goes on from here" in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "out" / "config.json").exists()
    assert finetune(made, tmp_path / "out", "--checkpoint-every", "1", "--resume", data=photos) == 0
    assert finetune(made, tmp_path / "other", "--checkpoint-every", "1", data=photos) == 0
    one, other = (dcnify_weights(tmp_path / name) for name in ("out", "other"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    capsys.readouterr()
    assert finetune(made, tmp_path / "out", "--resume", data=photos) == 2
    assert "is finished; there is nothing to resume" in capsys.readouterr().err


def dcnify_weights(path):
    import dcnify

    return dcnify.load(path).state_dict()


def test_setting_what_is_swapped_already_is_refused(made, tmp_path, capsys):
    code = finetune(made, tmp_path / "out", "--set", "swaps.dw.replace.kernel_size=5")
    assert code == 2
    assert "the layers are swapped already" in capsys.readouterr().err


def test_converting_into_a_fine_tuning_that_was_stopped_needs_overwrite(tmp_path):
    from dcnify.artifact import check_output
    from dcnify.errors import InputError

    (tmp_path / "out" / "finetune").mkdir(parents=True)
    with pytest.raises(InputError, match="exists; pass --overwrite"):
        check_output(tmp_path / "out")
