"""``dcnify recipe`` and the frame every verb stands in: output, errors, exit codes."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from types import ModuleType

import pytest
import typer
import yaml

from dcnify import __version__
from dcnify.cli import app, main
from dcnify.cli.flatten import verb as takes_specs
from dcnify.cli.options import RecipeSpec, Source
from dcnify.cli.output import table
from dcnify.cli.terminal import Terminal
from dcnify.errors import CheckError, InputError
from dcnify.recipe import Recipe, Stage, builtin, load_finetune, schema, stage_preset


@pytest.fixture
def dcnify(capsys, monkeypatch, tmp_path):
    """Run the command line in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        code = main(args)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def verb(monkeypatch):
    """Register a function as the verb ``probe``, the way a new verb would be."""

    def register(function) -> None:
        module = ModuleType("probe_verb")
        module.probe = function
        monkeypatch.setitem(sys.modules, "probe_verb", module)
        monkeypatch.setitem(app.VERBS, "probe", ("probe_verb", "Probe."))

    return register


def test_help_loads_neither_torch_nor_timm_nor_pydantic():
    heavy = "{'torch', 'timm', 'pydantic', 'rich', 'yaml', 'dcnify.recipe'}"
    script = (
        "import sys; from dcnify.cli import main; assert main(['--help']) == 0; "
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "List, show, copy and check recipes." in done.stdout


def test_the_version_and_help_without_arguments(dcnify):
    assert dcnify("--version") == (0, f"dcnify {__version__}\n", "")
    assert dcnify() == dcnify("--help")
    assert dcnify("recipe") == dcnify("recipe", "--help")
    assert "$ dcnify recipe ls" in dcnify("recipe", "ls", "--help")[1]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["recpe"], "no such command 'recpe', did you mean 'recipe'? (see 'dcnify --help')"),
        (
            ["recipe", "zzz"],
            "no such command 'zzz'; there is ls, show, copy, validate, schema "
            "(see 'dcnify recipe --help')",
        ),
        (
            ["recipe", "ls", "--jsno"],
            "no such option '--jsno', did you mean '--json'? (see 'dcnify recipe ls --help')",
        ),
        (["recipe", "show"], "missing argument 'NAME' (see 'dcnify recipe show --help')"),
    ],
)
def test_a_usage_error_is_one_line_with_the_nearest_word(dcnify, args, line):
    assert dcnify(*args) == (2, "", f"error: {line}\n")


def test_ls_lists_every_builtin(dcnify):
    code, out, _ = dcnify("recipe", "ls")
    assert code == 0
    assert builtin("mobilenet").summary in out
    assert out.index(builtin("vit").summary) < out.index(stage_preset("align").summary)
    rows = json.loads(dcnify("recipe", "ls", "--json")[1])
    names = [
        "convnext",
        "convnext-calibrated",
        "convnext-late",
        "internimage-exact",
        "internimage-flash",
        "large-kernel",
        "mobilenet",
        "mobilenet-calibrated",
        "swin",
        "swin-calibrated",
        "unet",
        "vit",
        "vit-calibrated",
    ]
    assert [row["name"] for row in rows if row["kind"] == "recipe"] == names
    assert [row["name"] for row in rows if row["kind"] == "stage"] == ["align", "distil", "recover"]
    assert rows[names.index("vit")]["sha256"] == Recipe.load("vit").sha256


def test_show_prints_the_file_or_what_it_means(dcnify):
    assert dcnify("recipe", "show", "vit") == (0, builtin("vit").text, "")
    resolved = dcnify("recipe", "show", "vit", "--resolved")[1]
    assert Recipe.from_yaml(resolved) == Recipe.load("vit")
    changed = dcnify("recipe", "show", "vit", "--set", "swaps.attention.replace.kernel_size=5")[1]
    assert yaml.safe_load(changed)["swaps"][0]["replace"]["kernel_size"] == [5, 5]
    data = json.loads(dcnify("recipe", "show", "vit", "--json")[1])
    assert data == yaml.safe_load(resolved)


def test_show_prints_a_stage_of_finetuning_too(dcnify):
    assert dcnify("recipe", "show", "align") == (0, stage_preset("align").text, "")
    resolved = yaml.safe_load(dcnify("recipe", "show", "align", "--resolved")[1])
    assert resolved == json.loads(dcnify("recipe", "show", "align", "--json")[1])
    assert load_finetune("align").stages == (Stage.model_validate(resolved),)
    changed = dcnify("recipe", "show", "align", "--set", "finetune.stages.align.steps=7")[1]
    assert yaml.safe_load(changed)["steps"] == 7
    code, out, err = dcnify("recipe", "show", "algn")
    assert (code, out) == (2, "")
    assert err.startswith("error: no recipe 'algn', did you mean the stage 'align'?")


def test_an_error_in_json_mode_leaves_stdout_empty(dcnify):
    code, out, err = dcnify("recipe", "show", "vitt", "--json")
    assert (code, out) == (2, "")
    assert err.startswith("error: no recipe 'vitt', did you mean 'vit'?")
    assert err.count("\n") == 1


def test_copy_writes_the_comments_too_and_does_not_overwrite_unasked(dcnify, tmp_path):
    code, out, err = dcnify("recipe", "copy", "vit")
    assert (code, out) == (0, "vit.yaml\n")
    assert "dcnify recipe validate vit.yaml" in err
    assert (tmp_path / "vit.yaml").read_text() == builtin("vit").text
    (tmp_path / "vit.yaml").write_text("mine")
    code, out, err = dcnify("recipe", "copy", "vit")
    assert (code, out) == (2, "")
    assert err.startswith("error: vit.yaml exists")
    assert "--overwrite" in err
    assert (tmp_path / "vit.yaml").read_text() == "mine"
    assert dcnify("recipe", "copy", "vit", "--overwrite", "--quiet") == (0, "vit.yaml\n", "")
    assert (tmp_path / "vit.yaml").read_text() == builtin("vit").text


def test_copy_into_a_folder_and_to_nowhere(dcnify, tmp_path):
    (tmp_path / "recipes").mkdir()
    done = json.loads(dcnify("recipe", "copy", "vit", "recipes", "--json")[1])
    assert done == {"recipe": "vit", "path": "recipes/vit.yaml"}
    assert dcnify("recipe", "copy", "vit", "no/where.yaml") == (
        2,
        "",
        "error: no/where.yaml: there is no folder 'no'\n",
    )


def test_validate_names_the_place_of_each_mistake(dcnify, tmp_path):
    (tmp_path / "a.yaml").write_text(builtin("vit").text)
    (tmp_path / "b.yaml").write_text(builtin("vit").text.replace(" kernel_size", " kernal_size"))
    code, out, err = dcnify("recipe", "validate", "a.yaml", "b.yaml", "c.yaml")
    assert code == 2
    assert "a.yaml" in out
    assert "b.yaml" not in out
    first, second = err.splitlines()
    assert first == "error: b.yaml:22:7: unknown key 'kernal_size', did you mean 'kernel_size'?"
    assert second.startswith("error: c.yaml: no such file")
    code, out, _ = dcnify("recipe", "validate", "a.yaml", "b.yaml", "--json")
    assert code == 2
    assert [r["valid"] for r in json.loads(out)] == [True, False]
    assert dcnify("recipe", "validate", "a.yaml", "vit")[0] == 0


def test_schema_goes_to_stdout_or_a_file(dcnify, tmp_path):
    assert json.loads(dcnify("recipe", "schema")[1]) == schema()
    assert dcnify("recipe", "schema", "-o", "s.json", "-q") == (0, "s.json\n", "")
    assert json.loads((tmp_path / "s.json").read_text()) == schema()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a: b, did you mean 'c'?"), 2, "a: b, did you mean 'c'?"),
        (CheckError("two of 9 layers\nare below"), 3, "two of 9 layers are below"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "/x/y: permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            RuntimeError("first\n  second"),
            1,
            "unexpected RuntimeError: first second (run again with --debug for the traceback)",
        ),
        (
            EOFError("Ran out of input"),
            1,
            "unexpected EOFError: Ran out of input (run again with --debug for the traceback)",
        ),
        (
            OSError("no address"),
            1,
            "unexpected OSError: no address (run again with --debug for the traceback)",
        ),
    ],
)
def test_whatever_a_verb_raises_is_one_line_and_an_exit_code(dcnify, verb, error, code, line):
    def probe() -> None:
        raise error

    verb(probe)
    out_err = dcnify("probe")
    assert out_err == (code, "", out_err[2])
    assert out_err[2].splitlines()[-1] == f"error: {line}"
    assert out_err[2].strip().count("\n") == 0


@pytest.mark.parametrize("args", [("--debug", "probe"), ("probe", "--debug")])
def test_debug_prints_the_traceback_before_and_after_the_verb(dcnify, verb, args):
    def probe() -> None:
        raise RuntimeError("inside")

    verb(probe)
    code, _, err = dcnify(*args)
    assert code == 1
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("error: unexpected RuntimeError: inside\n")


def test_a_verb_gets_the_shared_options_and_its_exit_code_through(dcnify, verb):
    def probe(source: Source, recipe: RecipeSpec, terminal: Terminal) -> None:
        """Probe a source."""
        found = [source.source, recipe.recipe, recipe.overrides]
        terminal.emit(found, lambda: "for a person")
        raise typer.Exit(3)

    probe.__annotations__ = {"source": Source, "recipe": RecipeSpec, "terminal": Terminal}
    verb(takes_specs(probe))
    code, out, _ = dcnify("probe", "x", "-r", "vit", "--set", "a=1", "--set", "b=2", "--json")
    assert (code, json.loads(out)) == (3, ["x", "vit", ["a=1", "b=2"]])
    assert dcnify("probe", "x", "-r", "vit") == (3, "for a person\n", "")
    assert "Probe a source." in dcnify("probe", "--help")[1]
    assert "--debug" in dcnify("probe", "--help")[1]
    assert dcnify("probe", "x")[0] == 2


def test_only_the_verb_that_is_asked_for_is_imported(dcnify, monkeypatch):
    monkeypatch.setitem(app.VERBS, "broken", ("no_such_module", "Cannot be imported."))
    assert "Cannot be imported." in dcnify("--help")[1]
    assert dcnify("recipe", "show", "vit")[0] == 0
    assert dcnify("broken")[0] == 1


def test_a_piped_table_is_neither_cut_nor_folded_nor_read_as_markup(dcnify, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    path = "stages.0.blocks.[bold]." + "x" * 200

    def probe() -> None:
        Terminal().emit(None, lambda: table(["path", ">n"], [(path, 3)], title="sites"))

    verb(probe)
    assert path in dcnify("probe")[1]


def test_json_holds_any_data_and_nothing_that_is_not_json(capsys):
    Terminal(as_json=True).emit(
        {"db": float("inf"), "recipe": Recipe.load("vit"), "pair": (3, 3)}, lambda: ""
    )
    data = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert data["db"] is None
    assert data["recipe"]["swaps"][0]["replace"]["with"] == "dcnv4"


def test_remarks_stay_off_stdout(capsys):
    Terminal().say("remark")
    Terminal(quiet=True).say("unheard")
    assert capsys.readouterr() == ("", "remark\n")


def test_a_closed_pipe_is_quiet():
    script = "from dcnify.cli import main; raise SystemExit(main())"
    command = f"{sys.executable} -c '{script}' recipe schema | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
