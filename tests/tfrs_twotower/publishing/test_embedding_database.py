"""Embeddings in MongoDB: what is written, how a version takes the place of another."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from bson.binary import BinaryVectorDtype

from serving.similarity import SimilarityScorer
from tests.tiny_world import SIZE, candidate_id, query_id
from tfrs_twotower.cli import main
from tfrs_twotower.publishing import embedding_database
from tfrs_twotower.publishing.embedding_database import write_to_mongodb
from tfrs_twotower.publishing.user_embeddings import write_user_embeddings
from tfrs_twotower.schema import UserError, parse_config
from tfrs_twotower.schema.mongodb import Store


@pytest.fixture
def store(database):
    opened = Store(database)
    yield opened
    opened.close()


def collections(store):
    return set(store.database.list_collection_names())


def of(version):
    return {"versions", f"candidates_{version.write}", f"queries_{version.write}"}


def test_candidates_and_queries_are_stored_with_their_vectors(models, database, store, tmp_path):
    version = write_to_mongodb(models, database)

    assert store.find_current() == version
    assert (version.model_version, version.embedding_dim) == (1, 8)
    exported = pq.read_table(models / "candidates/1").to_pylist()
    assert len(exported) == SIZE == version.num_candidates
    for row in exported:
        stored = store.candidates(version).find_one(row["candidate_id"])["embedding"].as_vector()
        assert stored.dtype == BinaryVectorDtype.FLOAT32
        np.testing.assert_array_equal(np.float32(stored.data), row["embedding"])
    write_user_embeddings(models, tmp_path / "users")
    for row in pq.read_table(tmp_path / "users" / "part-00000.parquet").to_pylist():
        stored = store.queries(version).find_one(row["query_id"])["embedding"].as_vector()
        np.testing.assert_array_equal(np.float32(stored.data), row["query_embedding"])
    # What a query's answers leave out, so that no models folder is needed beside the database.
    known = store.queries(version).find_one(query_id(3))["features"]["exclude_ids"]
    assert candidate_id(5) in known


def test_the_next_version_takes_the_place_of_the_last(models, database, store):
    first = write_to_mongodb(models, database)
    store.database["candidates_" + "0" * 24].insert_one({})  # A write that was killed.
    store.database["candidates_of_others"].insert_one({})
    second = write_to_mongodb(models, database)

    assert first.write != second.write
    assert store.find_current() == second
    assert collections(store) == {*of(second), "candidates_of_others"}


def test_a_write_that_fails_leaves_the_current_version(models, database, store, monkeypatch):
    first = write_to_mongodb(models, database)
    monkeypatch.setattr(embedding_database, "DOCUMENTS_A_BATCH", SIZE // 2)
    is_second_batch = iter([False, True]).__next__
    insert = embedding_database._insert

    def fail(collection, table, key, embeddings):
        insert(collection, table, key, embeddings)
        if is_second_batch():
            raise KeyboardInterrupt

    monkeypatch.setattr(embedding_database, "_insert", fail)
    with pytest.raises(KeyboardInterrupt):
        write_to_mongodb(models, database)

    assert store.find_current() == first
    assert collections(store) == of(first)


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_writes_at_once_one_is_refused(models, database, store, monkeypatch, is_first):
    if not is_first:
        write_to_mongodb(models, database)
    insert, other = embedding_database._insert, []

    def meet_another(*arguments):
        monkeypatch.setattr(embedding_database, "_insert", insert)
        other.append(write_to_mongodb(models, database))
        insert(*arguments)

    monkeypatch.setattr(embedding_database, "_insert", meet_another)
    with pytest.raises(UserError, match="another command has written"):
        write_to_mongodb(models, database)

    assert store.find_current() == other[0]
    assert collections(store) == of(other[0])


def test_what_was_read_of_a_version_that_was_replaced_is_read_anew(models, database, store):
    first = write_to_mongodb(models, database)
    replaced = []

    def read(version):
        if not replaced:
            replaced.append(write_to_mongodb(models, database))
        return version, store.candidates(version).count_documents({})

    assert store.candidates(first).count_documents({}) == SIZE
    assert store.of_current(read) == (replaced[0], SIZE)


def test_queries_that_need_context_have_no_embeddings(models, database, store, monkeypatch):
    text = (
        "columns: {query_id: user_id, candidate_id: item_id, timestamp: ts}\n"
        "features: {query: {user_id: {kind: id}}, context: {clock: {kind: timestamp}}, "
        "candidate: {item_id: {kind: id}}}\n"
    )
    monkeypatch.setattr(
        embedding_database, "read_config", lambda *_: parse_config(text, "with context")
    )
    version = write_to_mongodb(models, database)

    assert not version.has_query_embeddings
    assert set(store.queries(version).find_one(query_id(3))) == {"_id", "features"}
    assert SimilarityScorer(database).rank(query_id(3), [candidate_id(1)])[0].score is None


def test_offers_are_ranked_from_the_database_as_from_files(models, database, tmp_path):
    write_to_mongodb(models, database)
    write_user_embeddings(models, tmp_path / "users")
    users = pq.read_table(tmp_path / "users" / "part-00000.parquet").to_pylist()
    scorer, of_files = SimilarityScorer(database), SimilarityScorer(models / "candidates")
    offers = [candidate_id(number) for number in range(SIZE)]

    for user in users:
        expected = of_files.rank(user["query_embedding"], [*offers, "new"])
        assert scorer.rank(user["query_id"], [*offers, "new"]) == expected
    assert scorer.rank("nobody", offers[:1])[0].score is None


def test_vectors_of_the_database_are_as_old_as_their_version(models, database):
    version = write_to_mongodb(models, database)
    written_s = version.write.generation_time.timestamp()

    def score_at(now_s):
        scorer = SimilarityScorer(database, user_ttl_s=100, clock=lambda: now_s)
        return scorer.rank(query_id(3), [candidate_id(1)])[0].score

    assert score_at(written_s + 100) is not None
    assert score_at(written_s + 101) is None


def test_a_reload_comes_to_the_current_version(models, database, store):
    version = write_to_mongodb(models, database)
    scorer = SimilarityScorer(database)
    store.candidates(version).delete_one({"_id": candidate_id(1)})
    before = scorer.rank(query_id(3), [candidate_id(1)])[0].score
    scorer.reload()

    assert before is not None
    assert scorer.rank(query_id(3), [candidate_id(1)])[0].score is None


def test_the_command_tells_what_it_has_written(models, database, capsys):
    assert main(["embeddings", "--models", str(models), "--to", database]) == 0

    said = capsys.readouterr().out
    assert said == "version 1: 20 embeddings of 8, 20 queries with embeddings\n"


def test_a_database_without_embeddings_or_in_another_layout_is_told(database, store):
    with pytest.raises(UserError, match="has no embeddings: write them with `twotower embeddings"):
        SimilarityScorer(database)
    store.database["versions"].insert_one({"_id": "current", "write": 3})
    with pytest.raises(UserError, match="written by another tfrs_twotower"):
        SimilarityScorer(database)
