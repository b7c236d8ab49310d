"""Other candidates for the same towers: what changes, and what must not."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pytest

from serving.model_config import read_models_config
from tests.cc_loader import predict
from tests.tiny_world import SIZE, candidate_id, query_id
from tfrs_twotower import api
from tfrs_twotower.cli import main
from tfrs_twotower.publishing import saved_model_writer
from tfrs_twotower.publishing.models_folder import read_candidates, read_model_manifest
from tfrs_twotower.publishing.refresh import refresh
from tfrs_twotower.publishing.versions import rollback, set_label
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.scann_ops import scann_op_library

# Each test refreshes a whole models folder.
pytestmark = pytest.mark.slow

OLD = sorted(candidate_id(number) for number in range(SIZE))


def table_of(ids: list[str]) -> pa.Table:
    return pa.table({"candidate_id": ids})


def answer(models, version: int, name: str = "retrieval_exact", query: str = query_id(3)):
    """Id -> score over the whole corpus, by TensorFlow's own loader."""
    found = predict(
        models / name / str(version),
        "recommend",
        {
            "user_id": [query],
            "k": [50],
            "exclude_ids": [[""]],
            "allow_ids": [[""]],
            "mmr_lambda": [1.0],
            "min_score": [-2.0],
        },
        scann_op_library() if name == "retrieval" else None,
    )
    names = [text.decode() for text in found["candidate_ids"][0]]
    scores = found["scores"][0].tolist()
    return {key: score for key, score in zip(names, scores, strict=True) if key}


@pytest.fixture(scope="module")
def refreshed(exported_once, tmp_path_factory):
    """Version 2: two candidates are gone, one is new."""
    models = tmp_path_factory.mktemp("refreshed") / "models"
    shutil.copytree(exported_once, models)
    return models, refresh(models, [table_of(OLD[2:9]), table_of([*OLD[9:], "new"])])


def test_what_changed_is_counted(refreshed):
    _, made = refreshed

    assert (made.version, made.base_version, made.corpus_size) == (2, 1, SIZE - 1)
    assert (made.num_new, made.num_changed, made.num_removed) == (1, 0, 2)


@pytest.mark.parametrize("name", ["retrieval", "retrieval_exact"])
def test_new_candidates_are_found_and_removed_ones_are_not(refreshed, name):
    models, _ = refreshed

    assert set(answer(models, 2, name)) == {*OLD[2:], "new"}


def test_candidates_that_stay_keep_their_scores_to_the_last_bit(refreshed):
    models, _ = refreshed
    before, after = answer(models, 1), answer(models, 2)

    assert {name: after[name] for name in OLD[2:]} == {name: before[name] for name in OLD[2:]}


def test_towers_and_queries_are_those_of_the_version_before(refreshed):
    models, made = refreshed

    for name in ("query_tower", "candidate_tower", "queries"):
        before, after = (models / name / version for version in ("1", "2"))
        for path in (p for p in before.rglob("*") if p.is_file()):
            assert (after / path.relative_to(before)).read_bytes() == path.read_bytes()
            assert (after / path.relative_to(before)).samefile(path)
    old = read_model_manifest(models, "retrieval", 1)
    new = made.manifests["retrieval"]
    assert new["towers_digest"] == old["towers_digest"]
    assert new["features"] == old["features"]
    assert (new["origin"], new["base_version"]) == ("refresh", 1)


def test_what_the_models_of_two_versions_have_in_common_is_one_file(models, monkeypatch):
    monkeypatch.setattr(saved_model_writer, "LARGE", 64)
    refresh(models, [table_of(OLD)])

    again = refresh(models, [table_of(OLD)])

    def files(name, version):
        paths = (models / name / str(version) / "variables").iterdir()
        return {path.stat().st_ino for path in paths}

    # The embeddings, which both models have.
    assert files("retrieval", again.version) & files("retrieval_exact", again.version)
    # The same corpus, and so the same embeddings.
    assert files("retrieval_exact", again.version) & files("retrieval_exact", again.version - 1)
    before = answer(models, 1)
    for name in ("retrieval", "retrieval_exact"):
        for version in (1, again.version - 1):
            shutil.rmtree(models / name / str(version))
        assert answer(models, again.version, name) == before


def test_recall_is_measured_again(refreshed):
    _, made = refreshed

    assert made.manifests["retrieval"]["recall"]["mean"] == 1.0


def test_a_refreshed_version_can_be_refreshed(refreshed, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(refreshed[0], models)

    again = refresh(models, [table_of(OLD)])

    assert (again.version, again.num_new, again.num_removed) == (3, 2, 1)
    # Embedded in other batches, which may change a score's last digit.
    again_answered, first = answer(models, 3), answer(models, 1)
    assert list(again_answered) == list(first)
    assert again_answered == pytest.approx(first, rel=1e-6)


def test_what_was_rolled_back_from_is_neither_built_on_nor_asked(refreshed, tmp_path, capsys):
    models, corpus = tmp_path / "models", tmp_path / "corpus.csv"
    shutil.copytree(refreshed[0], models)
    pd.DataFrame({"item_id": OLD}).to_csv(corpus, index=False)
    for version in (1, 2):
        set_label(models, version)
    rollback(models)

    def said(command, *options):
        assert main([command, "--models", str(models), *options, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    stable = said("refresh", "--candidates", str(corpus))
    chosen = said("refresh", "--candidates", str(corpus), "--version", "2")
    answer = said("recommend", "--query", '{"user_id": "user-3"}')

    # Version 1 holds the corpus already, version 2 lacks two of it.
    assert (stable["version"], stable["base_version"], stable["new"]) == (3, 1, 0)
    assert (chosen["version"], chosen["base_version"], chosen["new"]) == (4, 2, 2)
    assert answer["model_version"] == 1


def test_the_notes_of_tensorflow_are_not_the_commands_own(models):
    command = [sys.executable, "-m", "tfrs_twotower.cli", "recommend", "--models", str(models)]

    done = subprocess.run(
        [*command, "--query", '{"user_id": "user-3"}'], capture_output=True, text=True, check=True
    )

    assert "model version 1" in done.stdout
    assert done.stderr == ""


def test_a_base_that_is_not_there_is_named(models):
    with pytest.raises(UserError, match="no version 7: it has 1"):
        refresh(models, [table_of(OLD)], version=7)


def test_labels_stay_where_they_are(models):
    set_label(models, 1)

    refresh(models, [table_of(OLD)])

    served = {model.name: model for model in read_models_config(models / "models.config")}
    assert served["retrieval"].labels == {"stable": 1}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        pytest.param([], "no candidate", id="none"),
        pytest.param([table_of([])], "no candidate", id="empty"),
        pytest.param([table_of(["a", "b"]), table_of(["a"])], "'a' occurs twice", id="twice"),
        pytest.param([table_of(["", "b"])], "empty", id="empty-id"),
    ],
)
def test_candidates_that_cannot_be_a_corpus_are_refused(models, tables, message):
    with pytest.raises(UserError, match=message):
        refresh(models, tables)

    assert [path.name for path in (models / "retrieval").iterdir()] == ["1"]
    assert not (models / ".incomplete").exists()


def test_files_are_read_as_the_pipeline_reads_them(models, tmp_path):
    pd.DataFrame({"item_id": [*OLD[:5], "late"]}).to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame({"item_id": OLD[5:]}).to_parquet(tmp_path / "b.parquet")

    made = api.refresh(models, [tmp_path / "a.csv", tmp_path / "b.parquet"])

    assert (made.corpus_size, made.num_new) == (SIZE + 1, 1)
    assert read_candidates(models, 2)["candidate_id"].tolist() == sorted([*OLD, "late"])


def test_a_frame_is_read_as_a_file(models):
    made = api.refresh(models, pd.DataFrame({"item_id": pd.Categorical([*OLD[1:], "late"])}))

    assert (made.corpus_size, made.num_new, made.num_removed) == (SIZE, 1, 1)
    assert read_candidates(models, 2)["candidate_id"].tolist() == sorted([*OLD[1:], "late"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("a.csv", "item\nx\n", "no column `item_id`", id="column"),
        pytest.param("a.csv", "item_id\n\nx\n,\n", "cannot be used|malformed", id="row"),
        pytest.param("a.txt", "x", r"expected a file \.csv", id="kind"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(models, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)

    with pytest.raises(UserError, match=message):
        api.refresh(models, [tmp_path / name])


def test_a_file_that_is_not_there_is_named(models, tmp_path):
    with pytest.raises(UserError, match="cannot read .*none.csv"):
        api.refresh(models, [tmp_path / "none.csv"])


def test_a_folder_without_a_version_is_told(tmp_path):
    with pytest.raises(UserError, match="no models in"):
        refresh(tmp_path, [table_of(["a"])])
