"""Offline scoring: a row a query, and the answers of the served model."""

import json

import numpy as np
import pandas as pd
import pytest

from pipelines.score import queries as queries_module
from pipelines.score.recommend import main, recommend
from serving.client import RetrievalClient
from serving.model_config import ModelConfig
from serving.model_server import ModelServer, ServerOptions
from tests import small_shop
from tests.pipelines.reference import files_of
from tfrs_twotower.publishing.models_folder import complete_query
from tfrs_twotower.schema import UsageError, UserError

# The models that are asked take most of a minute.
pytestmark = pytest.mark.slow

K_REFUSED = r"`k` must be between 1 and 1000 \(`export\.max_k` of the config\), got 5000$"
NOW = small_shop.FIRST_DAY + 91 * 86_400


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return small_shop.make(tmp_path_factory.mktemp("shop")).models


@pytest.fixture(scope="module")
def client(models):
    with (
        ModelServer(
            [ModelConfig("retrieval", models / "retrieval")],
            rest_port=None,
            options=ServerOptions(optimize=False),
        ) as server,
        RetrievalClient(f"127.0.0.1:{server.port}", timeout_s=60) as client,
    ):
        yield client


@pytest.fixture
def answer(models, tmp_path):
    """Runs the job on queries given as a table; returns its rows."""

    def run(queries, name="queries.parquet", **options):
        path = tmp_path / name
        if name.endswith("parquet"):
            queries.to_parquet(path)
        elif name.endswith("jsonl"):
            queries.to_json(path, orient="records", lines=True)
        else:
            queries.to_csv(path, index=False)
        output = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        recommend(str(models), str(path), str(output), **options)
        return rows_of(output)

    return run


def rows_of(output):
    parts = files_of(output, "parts")
    if parts[0].suffix == ".parquet":
        return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
    lines = [line for part in parts for line in part.read_text().splitlines()]
    return pd.DataFrame([json.loads(line) for line in lines])


def online(client, models, query, **rules):
    """What the running server answers the same query."""
    unknown = dict.fromkeys(client.query_features())
    completed = complete_query(models, 1, query)
    return client.recommend({**unknown, **completed}, **rules)[0]


def had_by_user(models):
    """The candidates of each user's events in the log: all of them are positives."""
    log = pd.read_csv(models.parent / "dataset" / "interactions.csv")
    return log.groupby("user")["item"].agg(set)


def queries_of(num_queries):
    """Users in no order, some several times, some unknown to everything."""
    users = np.random.default_rng(1).integers(0, small_shop.NUM_USERS + 5, num_queries)
    moments = NOW + 3600 * np.arange(num_queries)
    return pd.DataFrame({"user": [f"u{user:02d}" for user in users], "clock": moments})


def assert_same(found, queries, client, models, **rules):
    assert found["query_id"].tolist() == queries["user"].tolist()
    for row, query in zip(found.itertuples(), queries.to_dict("records"), strict=True):
        expected = online(client, models, query, **rules)
        assert list(row.candidate_ids) == expected.candidate_ids
        np.testing.assert_allclose(row.scores, expected.scores, atol=1e-6)


def test_each_query_gets_the_answer_that_it_would_get_online(answer, client, models):
    queries = queries_of(30)

    assert_same(answer(queries, k=7), queries, client, models, k=7)


def test_a_thousand_queries_get_the_answers_that_they_would_get_online(
    answer, client, models, monkeypatch
):
    monkeypatch.setattr(queries_module, "ROWS_A_FILE", 300)
    queries = queries_of(1000)

    assert_same(answer(queries, k=12), queries, client, models, k=12)


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """Nine queries, and their answers in one file."""
    folder, queries = tmp_path_factory.mktemp("whole"), queries_of(9)
    queries.to_parquet(folder / "queries.parquet")
    recommend(str(models), str(folder / "queries.parquet"), str(folder / "out"), k=4)
    return queries, rows_of(folder / "out")


def test_the_parts_of_the_output_change_nothing(answer, monkeypatch, whole):
    monkeypatch.setattr(queries_module, "ROWS_A_FILE", 2)

    pd.testing.assert_frame_equal(answer(whole[0], k=4), whole[1])


@pytest.mark.parametrize("name", ["queries.jsonl", "queries.csv"])
def test_text_is_read_like_parquet(answer, name, whole):
    pd.testing.assert_frame_equal(answer(whole[0], name, k=4), whole[1])


def test_json_lines_hold_the_same_as_parquet(answer, whole):
    lines = answer(whole[0], k=4, file_format="jsonl")

    assert lines["query_id"].tolist() == whole[1]["query_id"].tolist()
    assert lines["candidate_ids"].tolist() == [list(ids) for ids in whole[1]["candidate_ids"]]
    np.testing.assert_allclose(np.stack(lines["scores"]), np.stack(whole[1]["scores"]), atol=1e-6)


def test_features_of_the_file_win_over_what_is_known(answer, client, models):
    queries = pd.DataFrame(
        {
            "user": ["u01", "u01", "u02"],
            "clock": [NOW] * 3,
            "history": [["i05", "i09"], None, []],
            "city": [None, "Oslo", "Oslo"],
        }
    )

    found = answer(queries, k=5)

    for row, (history, city) in zip(
        found.itertuples(), [(["i05", "i09"], None), (None, "Oslo"), ([], "Oslo")], strict=True
    ):
        given = {"history": history, "city": city}
        query = {name: value for name, value in given.items() if value is not None}
        expected = online(client, models, {"user": row.query_id, "clock": NOW, **query}, k=5)
        assert list(row.candidate_ids) == expected.candidate_ids


def test_rules_for_all_and_rules_of_a_row_are_those_of_the_signature(answer, client, models):
    queries = pd.DataFrame(
        {"user": ["u01", "u02"], "clock": [NOW, NOW], "exclude_ids": [["i01", "i05"], None]}
    )

    found = answer(queries, k=6, rules={"min_score": -0.5})

    for row, excluded in zip(found.itertuples(), (["i01", "i05"], []), strict=True):
        query = {"user": row.query_id, "clock": NOW, "exclude_ids": excluded}
        expected = online(client, models, query, k=6, min_score=-0.5)
        assert list(row.candidate_ids) == expected.candidate_ids


def test_what_a_query_already_had_is_not_recommended(answer, models):
    queries = pd.DataFrame(
        {
            "user": ["u03", "u04", "nobody"],
            "exclude_ids": [["i00"], None, None],
            "history": [None, None, ["i07"]],
        }
    )
    had = had_by_user(models)

    found = answer(queries, k=40, rules={"exclude_ids": ["i02"]})

    listed = found.set_index("query_id")["candidate_ids"].map(set)
    everything = {small_shop.item_id(number) for number in range(40)} - {"i02"}
    assert max(map(len, had)) > 6  # The length of a history.
    assert listed["u03"] == everything - had["u03"] - {"i00"}
    assert listed["u04"] == everything - had["u04"]
    assert listed["nobody"] == everything - {"i07"}


def test_what_a_query_already_had_is_recommended_where_that_is_wanted(models, tmp_path):
    pd.DataFrame({"user": ["u03"]}).to_parquet(tmp_path / "queries.parquet")

    manifest = recommend(
        str(models),
        str(tmp_path / "queries.parquet"),
        str(tmp_path / "out"),
        k=40,
        exclude_known=False,
    )

    assert manifest["excluded"] == "nothing"
    assert len(rows_of(tmp_path / "out")["candidate_ids"][0]) == 40


def test_k_over_the_corpus_gives_the_corpus_and_says_so(models, tmp_path):
    queries_of(3).to_parquet(tmp_path / "queries.parquet")
    manifest = recommend(
        str(models), str(tmp_path / "queries.parquet"), str(tmp_path / "out"), k=100
    )

    found = rows_of(tmp_path / "out").set_index("query_id")["candidate_ids"]
    had = had_by_user(models)
    assert (manifest["num_queries"], manifest["num_short"]) == (3, 3)
    assert manifest["excluded"] == "known positives"
    assert [len(ids) for ids in found] == [40 - len(had.get(user, ())) for user in found.index]


def test_several_files_are_one_set_of_queries(models, tmp_path):
    for place in range(3):
        queries_of(4).to_parquet(tmp_path / f"queries-{place}.parquet")

    manifest = recommend(
        str(models), str(tmp_path / "queries-*.parquet"), str(tmp_path / "out"), k=2
    )

    assert manifest["num_queries"] == len(rows_of(tmp_path / "out")) == 12


# --- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        pytest.param({"usr": ["u1"]}, {}, "no input `usr`: did you mean `user`", id="misspelt"),
        pytest.param({"city": ["Rome"]}, {}, "has no column `user`, the id", id="no-id"),
        pytest.param({"user": ["u1", None]}, {}, "`user` is missing in 1 rows", id="null-id"),
        pytest.param(
            {"user": ["u1"], "clock": ["noon"]}, {}, "column `clock` must be int64", id="type"
        ),
        pytest.param({"user": []}, {}, "no query in", id="empty"),
        pytest.param({"user": ["u1"]}, {"k": 0}, "`k` must be between 1 and", id="k-zero"),
        pytest.param({"user": ["u1"]}, {"k": 5000}, K_REFUSED, id="k-huge"),
        pytest.param({"user": ["u1"]}, {"show": ["u2"]}, "--show u2: not among the", id="show"),
        pytest.param(
            {"user": ["u1"]}, {"rules": {"min_scor": 1}}, "did you mean `min_score`", id="rule"
        ),
        pytest.param(
            {"user": ["u1"]}, {"rules": {"exclude_ids": "i1"}}, "expected a list", id="rule-shape"
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(models, tmp_path, queries, options, message):
    types = {"user": str} if "user" in queries and queries["user"] != ["u1", None] else {}
    pd.DataFrame(queries).astype(types).to_parquet(tmp_path / "queries.parquet")

    with pytest.raises(UserError, match=message):
        recommend(str(models), str(tmp_path / "queries.parquet"), str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_models_is_told(tmp_path):
    with pytest.raises(UserError, match="no models in .*: make them with `twotower export`"):
        recommend(str(tmp_path), "queries.parquet", str(tmp_path / "out"))


def test_a_damaged_line_of_json_is_told(models, tmp_path):
    (tmp_path / "queries.jsonl").write_text('{"user": "u1"}\n{"user": \n')

    with pytest.raises(UserError, match=r"cannot read the queries .*queries\.jsonl: JSON parse"):
        recommend(str(models), str(tmp_path / "queries.jsonl"), str(tmp_path / "out"))


def test_a_finished_folder_is_not_replaced_unasked(models, tmp_path):
    queries_of(2).to_parquet(tmp_path / "queries.parquet")
    arguments = (str(models), str(tmp_path / "queries.parquet"), str(tmp_path / "out"))
    recommend(*arguments)

    with pytest.raises(UsageError, match="is finished: pass `overwrite=True`"):
        recommend(*arguments)
    recommend(*arguments, overwrite=True)


# --- the command ----------------------------------------------------------------------------


def test_the_command_shows_named_users_with_titles_and_closes_with_counts(models, tmp_path, capsys):
    queries_of(20).assign(user=[f"u{place:02d}" for place in range(20)]).to_parquet(
        tmp_path / "queries.parquet"
    )

    code = main(
        ["--models", str(models), "--queries", str(tmp_path / "queries.parquet")]
        + ["--output", str(tmp_path / "out"), "--k", "3", "--show", "u05,u07"]
    )

    said = capsys.readouterr().out
    answers = rows_of(tmp_path / "out").set_index("query_id")["candidate_ids"]
    assert code == 0
    for user in ("u05", "u07"):
        assert f"user {user}" in said
        assert f"Title {int(answers[user][1][1:])}" in said
    assert "queries/s" in said


def test_the_history_that_is_shown_is_the_one_that_was_asked_with(models, tmp_path, capsys):
    queries = pd.DataFrame({"user": ["u05", "u07"], "history": [["i11", "i22"], None]})
    queries.to_parquet(tmp_path / "queries.parquet")
    stored = pd.read_parquet(models / "queries" / "1").set_index("user")["history"]["u07"]

    main(
        ["--models", str(models), "--queries", str(tmp_path / "queries.parquet")]
        + ["--output", str(tmp_path / "out"), "--k", "6", "--show", "u05,u07"]
    )

    first, second = capsys.readouterr().out.partition("user u07")[::2]
    assert shown_histories(first) == ["Title 22", "Title 11"]
    assert shown_histories(second) == [f"Title {int(item[1:])}" for item in stored[::-1]]


def shown_histories(said):
    """The second column of a table, without its empty cells."""
    cells = [line.split("│")[2].strip() for line in said.splitlines() if line.startswith("│")]
    return [cell for cell in cells if cell.startswith("Title")]


def test_the_command_answers_a_mistake_with_a_line(tmp_path, capsys):
    code = main(["--models", str(tmp_path), "--queries", "none", "--output", str(tmp_path / "out")])

    assert code == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_missing_option_is_misuse(capsys):
    assert main(["--models", "somewhere"]) == 2
    assert "--queries is missing" in capsys.readouterr().err


def test_rules_that_are_no_json_are_misuse(models, tmp_path, capsys):
    code = main(
        ["--models", str(models), "--queries", "none", "--output", str(tmp_path / "out")]
        + ["--rules", "{min_score: 1}"]
    )

    assert code == 2
    assert "--rules is not JSON" in capsys.readouterr().err
