"""The options of every verb: none may go, and specs become options as they are declared."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from dcnify.cli import app
from dcnify.cli.flatten import Offer, verb
from dcnify.data.spec import DataSpec, ImageSpec
from dcnify.errors import InputError
from dcnify.finetune.spec import Options
from dcnify.pipeline import RunSpec
from dcnify.sources.spec import SourceSpec
from dcnify.spec import Spec, option

OFFERED = {
    "inspect": """
        --arch --ignore --input-size --json --key --model-arg --part --pretrained --quiet
        --trust-code --trust-pickle --use-ema -q SOURCE
    """,
    "plan": """
        --arch --batch --device --ignore --input-size --json --key --model-arg --part --pretrained
        --quiet --recipe --set --threads --time --trust-code --trust-pickle --use-ema -q -r SOURCE
    """,
    "convert": """
        --arch --data-dir --ignore --image-count --images --input-size --interpolation --json --key
        --mean --model-arg --output --overwrite --plot --part --pretrained --quiet --recipe --seed
        --set --split --std --trust-code --trust-pickle --use-ema -o -q -r SOURCE
    """,
    "verify": """
        --against --arch --data-dir --ignore --image-count --images --interpolation --json --key
        --mean --model-arg --overwrite --plot --pretrained --quiet --split --std --trust-code
        --trust-pickle --use-ema -q ARTIFACT
    """,
    "finetune": """
        --arch --checkpoint-every --cpu --crop-pct --data --data-dir --ignore --image-count --images
        --interpolation --json --key --mean --model-arg --output --overwrite --pretrained --quiet
        --recipe --require-improvement --resume --seed --set --split --std --teacher --tensorboard
        --trust-code --trust-pickle --use-ema --val-split --validate-every --workers -o -q -r
        ARTIFACT
    """,
    "run": """
        --arch --batch --calibration-count --checkpoint-every --cpu --crop-pct --data --data-dir
        --ignore --image-count --images --input-size --interpolation --json --key --mean --model-arg
        --output --overwrite --part --pretrained --quiet --resume --seed --set --source --split
        --std --tensorboard --time --trust-code --trust-pickle --use-ema --val-split
        --validate-every --workers -o -q RECIPE
    """,
    "export": """
        --against --arch --data-dir --dtype --dynamic --fold-static --form --format --ignore
        --image-count --images --input-size --interpolation --json --key --max-error --mean
        --model-arg --opset --output --overwrite --part --pretrained --quiet --split --std
        --trust-code --trust-pickle --use-ema -o -q SOURCE
    """,
    "offsets": """
        --at --image --interpolation --json --mean --output --overwrite --quiet --site --std
        --trust-code -o -q ARTIFACT
    """,
    "search": """
        --arch --batch --budget --data-dir --device --ignore --image-count --images --init
        --input-size --interpolation --json --key --mean --model-arg --output --overwrite --part
        --pretrained --quiet --recipe --score --seed --set --split --std --threads --time
        --trust-code --trust-pickle --use-ema -o -q -r SOURCE
    """,
    "diff": """
        --exit-code --json --output --overwrite --quiet -o -q A B
    """,
    "report": """
        --json --output --overwrite --quiet -o -q FOLDER
    """,
    "ablate run": """
        --arch --batch --calibration-count --checkpoint-every --cpu --crop-pct --data --data-dir
        --fail-fast --ignore --image-count --images --input-size --interpolation --jobs --json
        --keep-models --key --mean --measure --model-arg --output --part --pretrained --quiet
        --recipe --set --source --split --std --storage --time --trust-code --trust-pickle --use-ema
        --val-split --validate-every --workers -j -o -q -r SWEEP
    """,
    "ablate worker": """
        --fail-fast --jobs --json --quiet --storage --study -j -q OUT
    """,
    "ablate status": """
        --json --quiet --storage -q OUT
    """,
    "ablate report": """
        --json --quiet --storage -q OUT
    """,
    "ablate ls": """
        --json --quiet -q
    """,
    "recipe ls": """
        --json --quiet -q
    """,
    "recipe show": """
        --json --quiet --resolved --set -q NAME
    """,
    "recipe copy": """
        --json --overwrite --quiet -q DEST NAME
    """,
    "recipe validate": """
        --json --quiet --set -q PATH...
    """,
    "recipe schema": """
        --json --output --overwrite --quiet -o -q
    """,
    "bench op": """
        --ablation --batch --csv --device --dtype --json --offsets --overwrite --pass --plot --quiet
        --rivals --seed --shapes --threads --time -q
    """,
    "bench model": """
        --against --arch --batch --cpu --csv --device --dtype --ignore --input-size --json --key
        --model-arg --onnx --overwrite --quiet --seed --threads --time --train --trust-code
        --trust-pickle -q ARTIFACT
    """,
}


def commands():
    """Every verb, and every verb of a verb, by what a person types."""
    for name, command in app.root().commands.items():
        loaded = command.load()
        below = getattr(loaded, "commands", {})
        yield from ((f"{name} {one}", made) for one, made in below.items())
        if not below:
            yield name, loaded


def test_the_verbs_are_those_that_are_pinned():
    assert {name for name, _ in commands()} == set(OFFERED)


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_a_verb_offers_the_options_it_always_had(name, command):
    offered = {"--debug", *OFFERED[name].split()}
    found = set()
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        found |= {parameter.metavar} if is_argument else set(parameter.opts)
    assert found == offered
    assert {"--json", "--quiet", "--debug"} <= found


@dataclass(frozen=True)
class Inner(Spec):
    name: str = option(help="A name.", metavar="NAME")
    size: int = option(3, help="A size.")


@dataclass(frozen=True)
class Outer(Spec):
    place: str = option(help="A place.", metavar="PLACE")
    inner: Inner | None = option(None, help="The inner one.", flags=("--inner", "-i"))
    many: tuple[str, ...] = option((), help="Several.")
    size: int = option(3, help="The same size.")


TakesOuter = Annotated[Outer, Offer(argument="place", help={"many": "Many."})]
TakesLead = Annotated[Inner | None, Offer(flags={"name": "--against"})]


@pytest.fixture
def call():
    """Run a function as a command; gives what it received and what click printed."""

    def run(annotation, *args):
        received = []

        def probe(spec) -> None:
            received.append(spec)

        probe.__annotations__ = {"spec": annotation}
        made = typer.Typer(add_completion=False)
        made.command()(verb(probe))
        done = CliRunner().invoke(made, args)
        if isinstance(done.exception, InputError):
            raise done.exception
        return received[0] if received else done.output

    return run


def test_fields_become_options_and_come_back_as_the_spec(call):
    assert call(TakesOuter, "here") == Outer("here")
    given = ("here", "-i", "me", "--many", "a", "--many", "b", "--size", "5")
    assert call(TakesOuter, *given) == Outer("here", Inner("me", 5), ("a", "b"), 5)
    words = call(TakesOuter, "--help")
    assert "Many." in words
    assert "[default: 3]" in words


def test_an_optional_spec_is_there_if_its_first_field_is_given(call):
    assert call(TakesLead) is None
    assert call(TakesLead, "--against", "x") == Inner("x")
    with pytest.raises(InputError, match="--size needs --against NAME"):
        call(TakesLead, "--size", "5")


def test_a_run_is_plain_data():
    spec = RunSpec(
        recipe="convnext",
        source=SourceSpec("timm:test_convnext", model_arg=("num_classes=10",)),
        data=DataSpec("builtin:cluttered-digits", image_count=64),
        output="out",
        overrides=("seed=1",),
        images=ImageSpec("photos", image_count=4),
        options=Options(cpu=True, look_every=3),
    )
    assert RunSpec.from_json(spec.to_json()) == spec
    assert spec.training == Options(seed=0, cpu=True, look_every=3, crop_pct=1.0)
    with pytest.raises(InputError, match="--batch 0"):
        RunSpec.from_dict({**spec.to_dict(), "batch": 0})


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("inspect tim:convnext_tiny", "did you mean 'timm:'"),
        ("inspect nowhere.pt", "nowhere.pt does not exist"),
        ("inspect timm:x --input-size big", "--input-size big"),
        ("plan timm:x -r convnxt", "did you mean 'convnext'"),
        ("convert timm:x -r convnext -o out --set swaps.dw7.x=1", "--set swaps.dw7.x=1"),
        ("convert timm:x -r convnext -o out --image-count 0", "--image-count"),
        ("verify nowhere", "nowhere does not exist"),
        ("verify {here} --pretrained", "--pretrained needs --against SOURCE"),
        ("bench model {here} --against timn:x", "did you mean 'timm:'"),
        ("finetune nowhere --data D", "nowhere does not exist"),
        ("finetune {here} --data D --teacher nowhere.pt", "nowhere.pt does not exist"),
        ("run convnxt --source timm:x --data D -o out", "did you mean 'convnext'"),
        ("run convnext --source nowhere.pt --data D -o out", "nowhere.pt does not exist"),
    ],
)
def test_a_cheap_mistake_is_refused_before_torch_is_imported(args, words):
    given = args.format(here=__file__).split()
    script = (
        "import sys; from dcnify.cli import main; code = main(sys.argv[1:]); "
        "print('torch' in sys.modules or 'timm' in sys.modules); raise SystemExit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *given], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stdout == "False\n"
