"""The command line: exit codes, one or two lines for a mistake, JSON for machines."""

import json
import os
import subprocess
import sys
import types

import pytest
import typer

import pipelines
import serving
from tests import tiny_world
from tfrs_twotower import __version__
from tfrs_twotower.cli import main
from tfrs_twotower.cli.commands import PANELS, app

PASSED_ON = {
    "prepare": (pipelines, "prepare"),
    "score": (pipelines, "recommend"),
    "embed": (pipelines, "embed"),
    "serve": (serving, "server"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The planted world, prepared and trained."""
    folder = tmp_path_factory.mktemp("tiny")
    config = tiny_world.config()
    tiny_world.write_prepared(folder / "prepared", config)
    (folder / "twotower.yaml").write_text(tiny_world.CONFIG_TEXT, encoding="utf-8")
    done = main(
        ["train", "--config", f"{folder}/twotower.yaml", "--data", f"{folder}/prepared"]
        + ["--output", f"{folder}/run"]
    )
    assert done == 0
    return folder


def assert_said(capsys, *parts: str) -> None:
    """At most two lines on stderr, which hold all the parts, and no traceback."""
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) <= 2, said
    for part in parts:
        assert part in said


def test_a_misspelt_key_of_the_config_is_answered_with_the_nearest_and_exit_2(tmp_path, capsys):
    config = tmp_path / "twotower.yaml"
    config.write_text("trainig: {epochs: 3}\n", encoding="utf-8")

    code = main(["train", "--config", str(config), "--data", "none", "--output", "none"])

    assert code == 2
    assert_said(capsys, str(config), "trainig", "did you mean `training`?")


def test_a_misspelt_override_is_answered_like_a_misspelt_key(tiny, capsys):
    code = main(
        ["train", "--config", f"{tiny}/twotower.yaml", "--data", f"{tiny}/prepared"]
        + ["--output", f"{tiny}/other", "--set", "training.epoch=3"]
    )

    assert code == 2
    assert_said(capsys, "training.epoch", "did you mean `epochs`?")


def test_data_of_another_schema_are_refused_naming_the_difference(tiny, capsys):
    code = main(
        ["train", "--config", f"{tiny}/twotower.yaml", "--data", f"{tiny}/prepared"]
        + ["--output", f"{tiny}/other", "--set", "columns.query_id=reader"]
    )

    assert code == 1
    assert_said(capsys, "columns.query_id", "user_id", "reader", "twotower prepare")


@pytest.mark.parametrize(
    ("query", "columns", "is_told"),
    [
        ("{user_id: {kind: id}, past: {kind: history}}", "", True),
        ("{user_id: {kind: id}, past: {kind: history}}", ", timestamp: at", False),
        ("{past: {kind: history}}", "", False),
        ("{user_id: {kind: id}}", "", False),
    ],
)
def test_an_id_beside_a_history_of_untimed_data_is_warned_of(
    tmp_path, capsys, query, columns, is_told
):
    """The id learns all positives of its query; the one that the history lacks is the target."""
    config = tmp_path / "twotower.yaml"
    config.write_text(
        f"columns: {{query_id: user_id, candidate_id: item_id, split: split{columns}}}\n"
        "split: {by: column}\n"
        f"features: {{query: {query}, candidate: {{item_id: {{kind: id}}}}}}\n",
        encoding="utf-8",
    )

    main(["train", "--config", str(config), "--data", f"{tmp_path}/none", "--output", "none"])

    said = " ".join(capsys.readouterr().err.split())
    assert ("which of them the history lacks" in said) == is_told


def test_a_finished_run_is_refused_without_overwrite(tiny, capsys):
    code = main(
        ["train", "--config", f"{tiny}/twotower.yaml", "--data", f"{tiny}/prepared"]
        + ["--output", f"{tiny}/run"]
    )

    assert code == 2
    assert_said(capsys, f"{tiny}/run", "--overwrite")


def test_a_training_that_replaces_an_unfinished_one_says_how_to_go_on(tiny, tmp_path, capsys):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)

    # Another's folder is refused all the same.
    main(
        ["train", "--config", f"{tiny}/twotower.yaml", "--data", f"{tiny}/prepared"]
        + ["--output", f"{tmp_path}/run"]
    )

    assert "unfinished training, which this one replaces; to go on" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_told_with_the_command_that_makes_one(tiny, capsys):
    code = main(["evaluate", "--run", f"{tiny}/nothing", "--data", f"{tiny}/prepared"])

    assert code == 1
    assert_said(capsys, f"{tiny}/nothing", "twotower train")


def test_evaluate_prints_json_that_holds_the_planted_answer(tiny, capsys):
    code = main(["evaluate", "--run", f"{tiny}/run", "--data", f"{tiny}/prepared", "--json", "-"])

    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert report["num_queries"]["all"] == tiny_world.SIZE
    assert report["metrics"]["model"]["all"]["mrr"] == 1.0


def test_an_unknown_split_is_misuse(tiny, capsys):
    code = main(
        ["evaluate", "--run", f"{tiny}/run", "--data", f"{tiny}/prepared", "--split", "tests"]
    )

    assert code == 2
    assert_said(capsys, "tests", "train, validation, test")


def test_models_that_are_not_there_are_told_with_the_command_that_makes_them(tmp_path, capsys):
    code = main(["recommend", "--models", str(tmp_path), "--query", '{"user_id": "1"}'])

    assert code == 1
    assert_said(capsys, str(tmp_path), "twotower export")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        pytest.param("{", "not JSON", id="broken"),
        pytest.param("[1]", "expected an object", id="no-object"),
    ],
)
def test_a_query_that_is_no_json_object_is_misuse(query, said, capsys):
    code = main(["recommend", "--models", "models", "--query", query])

    assert code == 2
    assert_said(capsys, said)


def test_a_server_that_is_not_there_is_told_in_a_line(capsys):
    code = main(["recommend", "--target", "127.0.0.1:1", "--query", '{"user_id": "1"}'])

    assert code == 1
    assert_said(capsys, "127.0.0.1:1")


def test_an_unknown_data_set_is_answered_with_the_known_ones(tmp_path, capsys):
    code = main(["dataset", "movielens", "--output", str(tmp_path / "out")])

    assert code == 2
    assert_said(capsys, "movielens-100k", "sample")


def test_a_demo_of_a_folder_without_config_says_how_to_get_one(tmp_path, capsys):
    code = main(["demo", "--dataset", str(tmp_path), "--workdir", str(tmp_path / "work")])

    assert code == 1
    assert_said(capsys, "twotower init")


def test_a_missing_option_is_misuse():
    assert main(["train"]) == 2


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0

    assert capsys.readouterr().out == f"twotower {__version__}\n"


def test_the_shell_completes_commands_and_options(capsys, monkeypatch):
    monkeypatch.setenv("_TWOTOWER_COMPLETE", "complete_bash")
    for typed, completed in (
        ("twotower e", {"evaluate", "explain", "explore", "export", "embed", "embeddings"}),
        ("twotower train --wa", {"--warm_start"}),
    ):
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))

        assert main([]) == 0
        assert set(capsys.readouterr().out.split()) == completed


def test_the_help_groups_all_commands(capsys):
    assert main(["--help"]) == 0

    shown = capsys.readouterr().out
    for text in (*PANELS, *typer.main.get_command(app).commands):
        assert text in shown


@pytest.mark.parametrize("name", sorted(typer.main.get_command(app).commands.keys() - PASSED_ON))
def test_the_help_of_a_command_has_an_example_with_options_that_exist(name, capsys):
    command = typer.main.get_command(app).commands[name]
    if not command.params:
        return
    example = command.epilog
    assert f"twotower {name}" in example
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in example.split() if word.startswith("--")} <= options


def test_flags_of_ours_have_underscores_as_those_of_beam_and_tf_serving():
    commands = typer.main.get_command(app).commands.values()
    options = {option for command in commands for p in command.params for option in p.opts}

    assert [option for option in options if "-" in option.removeprefix("--")] == []


def test_a_flag_with_hyphens_is_the_flag_with_underscores(tmp_path, capsys):
    words = ["export", "--run", f"{tmp_path}/none", "--data", "d", "--output", "o"]

    assert main([*words, "--target-recall", "0.9", "--config-base-path", "/m"]) == 1
    assert_said(capsys, "none", "twotower train")


@pytest.mark.parametrize("name", PASSED_ON)
def test_what_a_module_reads_itself_reaches_it_unchanged(name, monkeypatch):
    """Its own options, those of Beam or TF Serving, `--help` too."""
    package, module = PASSED_ON[name]
    called = []
    fake = types.SimpleNamespace(main=lambda *arguments: called.append(arguments) or 7)
    monkeypatch.setattr(package, module, fake, raising=False)
    words = ["--help", "--config", "c.yaml", "--runner=X", "--no-such", "-1", "--k", "3", "last"]

    assert main([name, *words]) == 7

    assert called == [(words, f"twotower {name}")]


@pytest.mark.parametrize(("message", "line"), [("", "interrupted"), ("step 2", "step 2")])
def test_an_interrupted_command_ends_with_a_line_and_exit_130(
    message, line, tmp_path, capsys, monkeypatch
):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt(message)

    monkeypatch.setattr("tfrs_twotower.datasets.write_dataset", interrupted)

    assert main(["dataset", "sample", "--output", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == f"{line}\n"


def test_an_interrupt_while_the_commands_are_imported_ends_so_as_well(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    command = [
        sys.executable,
        "-c",
        "import sys; from tfrs_twotower.cli import main; sys.exit(main())",
    ]
    path = os.pathsep.join([str(tmp_path), os.getcwd()])

    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )

    assert (done.returncode, done.stderr) == (130, "interrupted\n")
