"""What the commands of an evaluation print, and what they refuse."""

import html
import json
import re
import shlex
import shutil

import pandas as pd
import pytest

from tests import tiny_world
from tfrs_twotower.cli import main


@pytest.fixture(scope="module")
def evaluated(tiny_run, tmp_path_factory):
    """A run with an evaluation of its validation split."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(tiny_run[0], folder)
    assert main(_evaluate(folder, tiny_run[1])) == 0
    return folder, tiny_run[1]


def _evaluate(run, data, *more: str) -> list[str]:
    return ["evaluate", "--run", str(run), "--data", str(data), "--split", "validation", *more]


def assert_said(capsys, *parts: str) -> None:
    """At most two lines on stderr, which hold all the parts."""
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) <= 2, said
    for part in parts:
        assert part in said


def test_evaluate_shows_systems_parts_and_named_users(evaluated, capsys):
    assert main(_evaluate(*evaluated, "--user", "user-3")) == 0

    said = capsys.readouterr().out
    for text in ("model", "popularity", "item-kNN", "warm", "tail", "user user-3"):
        assert text in said
    for cost in (
        "query embedding, alone",
        "candidates scored a second",
        "embeddings of all queries",
    ):
        assert cost in said


def test_a_sampled_protocol_says_so_above_its_numbers(evaluated, capsys):
    assert main(_evaluate(*evaluated, "--protocol", "sampled:5")) == 0

    said = capsys.readouterr().out
    assert "validation split, 20 users, 1 + 5 random candidates" in said
    assert "not a figure to quote: ranked among a few candidates" in said


def test_cut_offs_are_those_asked_for(evaluated, capsys):
    assert main(_evaluate(*evaluated, "--k", "3", "--k", "7")) == 0
    run, data = evaluated
    found = json.loads((run / "evaluation" / "validation-full.json").read_text(encoding="utf-8"))

    said = capsys.readouterr().out
    assert "recall@3" in said
    assert "recall@10" not in said.partition("what running it costs")[0]
    model = found["metrics"]["model"]["all"]
    assert 0 <= model["recall_at_3"] <= model["recall_at_7"] <= model["recall_at_10"]
    assert "--k 3 --k 7" in found["options"]
    assert main(_evaluate(run, data)) == 0  # As the other tests expect it.


def test_the_report_names_what_was_asked_and_how_to_ask_it_again(evaluated, tmp_path, capsys):
    run, data = evaluated
    asked = ["--protocol", "sampled:5", "--unit", "event", "--relevant_from", "0.5"]
    assert main(_evaluate(run, data, *asked)) == 0
    assert "relevant from a weight of 0.5" in " ".join(capsys.readouterr().out.split())
    found = run / "evaluation" / "validation-sampled-5-event-from-0.5.json"
    before = found.read_bytes()
    assert json.loads(before)["relevant_from"] == 0.5

    page = tmp_path / "report.html"
    report = ["report", "--run", str(run), "--output", str(page), "--evaluation", found.stem]
    assert main(report) == 0
    text = page.read_text(encoding="utf-8")
    assert "relevant from a weight of 0.5" in text
    options = re.search("--data PREPARED (.*)</pre>", text).group(1)
    found.unlink()
    again = ["evaluate", "--run", str(run), "--data", str(data)]
    assert main([*again, *shlex.split(html.unescape(options))]) == 0
    assert found.read_bytes() == before


def test_lists_of_two_files_are_two_evaluations_that_tell_their_file_and_whom_they_leave_out(
    evaluated, tmp_path, capsys
):
    run, data = evaluated
    everything = [tiny_world.candidate_id(number) for number in range(tiny_world.SIZE)]
    for name, num_queries in (("few", 4), ("many", 15)):
        queries = [tiny_world.query_id(number) for number in range(num_queries)]
        lists = pd.DataFrame({"query_id": queries, "candidate_ids": [everything] * num_queries})
        lists.to_parquet(tmp_path / f"{name}.parquet")
        assert main(_evaluate(run, data, "--protocol", f"given:{tmp_path}/{name}.parquet")) == 0

        said = " ".join(capsys.readouterr().out.split())
        assert f"{num_queries} users, the candidates of given-{name}" in said
        assert f", {20 - num_queries} queries left out, whose lists lack what is relevant" in said

    for name, left_out in (("few", 16), ("many", 5)):
        written = run / "evaluation" / f"validation-given-{name}.json"
        found = json.loads(written.read_text(encoding="utf-8"))
        assert found["num_queries_left_out"] == left_out
        assert f"{tmp_path}/{name}.parquet" in found["options"]


def test_evaluate_prints_json_for_machines(evaluated, capsys):
    assert main(_evaluate(*evaluated, "--json", "-")) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["protocol"] == "full"
    # 20 candidates and 20 queries of 8 numbers of 4 bytes.
    assert found["operations"]["embedding_bytes"] == {"candidates": 640, "queries": 640}


def test_a_json_file_that_cannot_be_written_is_told(evaluated, capsys):
    assert main(_evaluate(*evaluated, "--json", "/dev/full")) == 1

    assert_said(capsys, "cannot write /dev/full: No space left on device")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        pytest.param(["--protocol", "some"], 2, "expected full, sampled:N", id="protocol"),
        pytest.param(["--protocol", "given:none.parquet"], 2, "cannot read ranked", id="lists"),
        pytest.param(["--user", "nobody"], 1, "expected an id such as 'user-0'", id="user"),
        pytest.param(["--relevant_from", "7"], 1, "before: lower --relevant_from, or", id="weight"),
        pytest.param(["--unit", "day"], 2, "expected user or event", id="unit"),
        pytest.param(["--json", "no/x.json"], 2, "--json no/x.json: expected a file in", id="json"),
        pytest.param(["--models", "nowhere"], 1, "no models in nowhere", id="models"),
    ],
)
def test_evaluate_answers_a_mistake_with_a_line(evaluated, capsys, options, code, message):
    assert main(_evaluate(*evaluated, *options)) == code

    assert_said(capsys, message)


def test_compare_of_a_run_with_itself_finds_nothing(evaluated, tmp_path, capsys):
    shutil.copytree(evaluated[0], tmp_path / "again")
    runs = [str(evaluated[0]), str(tmp_path / "again")]

    assert main(["compare", *runs, "--evaluation", "validation-full"]) == 0
    assert "100.0% of the ten best in common" in capsys.readouterr().out

    assert main(["compare", *runs, "--evaluation", "validation-full", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]["again"]
    assert {metric["p_value"] for metric in found.values()} == {1.0}
    evaluation = evaluated[0] / "evaluation" / "validation-full.json"
    intervals = json.loads(evaluation.read_text(encoding="utf-8"))["intervals"]["model"]["all"]
    assert {name: metric["interval"] for name, metric in found.items()} == {
        name: pytest.approx(bounds) for name, bounds in intervals.items()
    }


def test_compare_says_when_it_compares_ranks_among_a_few(evaluated, tmp_path, capsys):
    asked = ["--protocol", "sampled:5", "--relevant_from", "0.5"]
    assert main(_evaluate(*evaluated, *asked)) == 0
    shutil.copytree(evaluated[0], tmp_path / "again")
    runs = [str(evaluated[0]), str(tmp_path / "again")]
    named = ["--evaluation", "validation-sampled-5-from-0.5"]
    capsys.readouterr()

    assert main(["compare", *runs, *named]) == 0
    title = " ".join(capsys.readouterr().out.partition("┏")[0].split())
    assert title.startswith(
        "validation-sampled-5-from-0.5, 20 queries; among the candidates of sampled-5 only, not "
        "the corpus; relevant from a weight of 0.5; differences from run"
    )

    assert main(["compare", *runs, *named, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["evaluation"], found["protocol"], found["is_full_ranking"]) == (
        *("validation-sampled-5-from-0.5", "sampled-5"),
        False,
    )


def test_compare_answers_a_mistake_with_a_line(evaluated, capsys):
    assert main(["compare", str(evaluated[0])]) == 2
    assert_said(capsys, "a comparison needs two runs or more")

    assert main(["compare", str(evaluated[0]), "nowhere", "--evaluation", "validation-full"]) == 1
    assert_said(capsys, "nowhere")


def test_report_writes_a_page_or_says_what_is_missing(evaluated, tmp_path, capsys):
    page = tmp_path / "report.html"
    arguments = ["report", "--run", str(evaluated[0]), "--output", str(page)]

    assert main(arguments) == 1
    assert_said(capsys, "has no evaluation test-full: make it with `twotower evaluate")

    assert main([*arguments, "--evaluation", "validation-full"]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_embeddings_are_written_with_their_size_told(models, tmp_path, capsys):
    arguments = ["embeddings", "--models", str(models), "--output", str(tmp_path / "store")]

    assert main(arguments) == 0

    assert "20 embeddings of 8" in capsys.readouterr().out
    assert (tmp_path / "store" / "candidates.parquet").exists()


def test_embeddings_have_one_place(models, tmp_path, capsys):
    for places in ([], ["--output", str(tmp_path / "store"), "--to", "mongodb://127.0.0.1/shop"]):
        assert main(["embeddings", "--models", str(models), *places]) == 2
        assert_said(capsys, "name one place: --output FOLDER or --to DATABASE")
