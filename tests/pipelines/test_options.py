"""The command lines of the jobs."""

import logging
import re

import pytest

from pipelines.options import beam_options, check_flink_tasks
from pipelines.prepare import pipeline as prepare
from pipelines.score import embed, recommend
from tfrs_twotower.schema import UsageError

OUTPUT = {"--output", "--overwrite"}


@pytest.mark.parametrize(
    ("job", "own"),
    [
        pytest.param(
            prepare,
            {"--config", "--dataset", "--max_rejected_share", "--clean", "--cache"},
            id="prepare",
        ),
        pytest.param(
            recommend,
            {"--models", "--queries", "--k", "--format", "--rules", "--show"} | {"--exclude_known"},
            id="recommend",
        ),
        pytest.param(embed, {"--model", "--data", "--side"}, id="embed"),
    ],
)
def test_help_names_the_options_of_the_job_and_those_of_beam(job, own, capsys):
    with pytest.raises(SystemExit) as done:
        job.main(["--help"])

    said = capsys.readouterr().out
    assert done.value.code == 0
    listed = set(re.findall(r"^  (?:-h, )?(--\w+)", said, re.MULTILINE))
    assert listed == own | OUTPUT | {"--help"}
    assert "--runner" in said.partition("--overwrite  ")[2]


def test_a_missing_option_is_told_with_where_to_look(capsys):
    assert prepare.main(["--config", "c", "--dataset", "d"]) == 2
    assert "--output is missing; see `python -m pipelines.prepare --help`" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("message", "is_shown"),
    [
        ("Resource module is not available for current platform, memory usage ...", False),
        ("the disk is full", True),
    ],
)
def test_notes_of_beam_that_nobody_can_act_on_are_left_out(message, is_shown):
    record = logging.LogRecord("root", logging.WARNING, "base.py", 1, message, None, None)

    assert bool(logging.getLogger().filter(record)) == is_shown


@pytest.mark.parametrize(("job", "step"), [(prepare, "prepare"), (embed, "embed")])
def test_an_interrupted_job_ends_with_a_line(job, step, capsys, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, step, interrupt)
    config = tmp_path / "twotower.yaml"
    config.write_text(
        "split: {by: random}\nfeatures: {query: {u: {kind: id}}, candidate: {i: {kind: id}}}\n"
    )
    given = ["--config", str(config), "--dataset", "d", "--model", "m", "--data", "d"]

    assert job.main([*given, "--output", "o"]) == 130
    assert capsys.readouterr().err.splitlines() == ["interrupted"]


@pytest.mark.parametrize(
    ("sizes", "described"),
    [([], "0 files, 0.0 MB"), ([2_500_000], "1 file, 2.5 MB"), ([600_000] * 2, "2 files, 1.2 MB")],
)
def test_clean_tells_what_it_removed(sizes, described, capsys, tmp_path):
    for number, size in enumerate(sizes):
        (tmp_path / "run-0").mkdir(exist_ok=True)
        (tmp_path / "run-0" / f"x-{number}.gz").write_bytes(bytes(size))

    assert prepare.main(["--clean", "--output", str(tmp_path)]) == 0

    assert capsys.readouterr().out.splitlines() == [f"removed from {tmp_path}: {described}"]


@pytest.mark.parametrize(
    ("given", "runner", "exchange"),
    [
        pytest.param([], "FnApiRunner", None, id="in-process"),
        pytest.param(["--runner=DataflowRunner"], "DataflowRunner", None, id="dataflow"),
        pytest.param(
            ["--runner", "PortableRunner"], "PortableRunner", "BATCH_FORCED", id="portable"
        ),
        pytest.param(
            ["--runner=flinkrunner", "--execution_mode_for_batch=PIPELINED"],
            "flinkrunner",
            "PIPELINED",
            id="flink-as-told",
        ),
    ],
)
def test_a_runner_and_the_exchanges_of_flink_are_set_unless_they_are_given(given, runner, exchange):
    options = beam_options(given).get_all_options()

    assert (options["runner"], options["execution_mode_for_batch"]) == (runner, exchange)


@pytest.mark.parametrize(
    ("given", "log_bytes", "needed"),
    [
        pytest.param(["--runner=PortableRunner"], 250_000_000, None, id="one-is-enough"),
        pytest.param(["--runner=PortableRunner"], 250_000_001, 2, id="none-given"),
        pytest.param(["--runner=FlinkRunner", "--parallelism=8"], 2_400_000_000, 10, id="too-few"),
        pytest.param(["--runner=FlinkRunner", "--parallelism=10"], 2_400_000_000, None, id="just"),
        pytest.param(["--runner=DataflowRunner"], 2_400_000_000, None, id="not-flink"),
        pytest.param([], 2_400_000_000, None, id="in-process"),
    ],
)
def test_a_log_that_needs_more_tasks_on_flink_is_refused(given, log_bytes, needed):
    options = beam_options(given)

    if needed is None:
        check_flink_tasks(options, log_bytes)
        return
    with pytest.raises(UsageError, match=f"--parallelism={needed} or more"):
        check_flink_tasks(options, log_bytes)
