"""Towers run over a prepared folder give what they give in this process."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipelines.score.embed import embed, main
from tests.pipelines.reference import files_of
from tfrs_twotower.schema import UserError

# The towers that embed are trained and exported first.
pytestmark = pytest.mark.slow

CONFIG = """
columns: {timestamp: t}
features:
  query: {user_id: {kind: id}, age: {kind: number}, history: {kind: history, length: 2}}
  candidate:
    item_id: {kind: id}
    genres: {kind: multi_categorical}
    price: {kind: number}
    vector: {kind: vector, dimension: 2}
"""
CANDIDATES = [
    {"item_id": "a", "genres": ["x", "y"], "price": 2.0, "vector": [1.0, 3.0]},
    {"item_id": "bb", "genres": [], "price": None, "vector": None},
    {"item_id": "ccc", "genres": ["z"], "price": 4.0, "vector": [0.0, 5.0]},
]


class Towers(tf.Module):
    """Towers whose embeddings can be worked out by hand."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "item_id"),
            tf.TensorSpec([None, None], tf.string, "genres"),
            tf.TensorSpec([None], tf.float32, "price"),
            tf.TensorSpec([None, 2], tf.float32, "vector"),
        ]
    )
    def candidate(self, item_id, genres, price, vector):
        parts = [
            tf.cast(tf.strings.length(item_id), tf.float32),
            tf.cast(tf.math.count_nonzero(genres != "", axis=1), tf.float32),
            tf.where(tf.math.is_nan(price), -1.0, price),
            tf.reduce_sum(tf.where(tf.math.is_nan(vector), -1.0, vector), axis=1),
        ]
        return {"candidate_embedding": tf.stack(parts, axis=1)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "user_id"),
            tf.TensorSpec([None], tf.float32, "age"),
            tf.TensorSpec([None, None], tf.string, "history"),
        ]
    )
    def query(self, user_id, age, history):
        parts = [
            tf.where(tf.math.is_nan(age), -1.0, age),
            tf.cast(tf.math.count_nonzero(history != "", axis=1), tf.float32),
        ]
        return {"query_embedding": tf.stack(parts, axis=1)}


@pytest.fixture
def folders(world, tmp_path):
    rows = ["u1,a,1,tv", "u1,bb,2,tv", "u1,ccc,3,tv", "u2,a,4,tv"]
    world.write("interactions.csv", "user_id,item_id,t,device\n" + "\n".join(rows))
    world.write_json_lines("candidates.jsonl", CANDIDATES)
    world.write_json_lines("queries.jsonl", [{"user_id": f"u{n}", "age": a} for n, a in
                                             [(1, 30), (2, None), (3, 50)]])  # fmt: skip
    world.prepare(CONFIG + "split: {by: random, validation: 0.0, test: 0.0}")
    towers = Towers()
    for side in ("candidate", "query"):
        signature = {"serving_default": getattr(towers, side)}
        tf.saved_model.save(towers, str(tmp_path / side / "7"), signature)
    return tmp_path, world.output


def embeddings(folder, id_column):
    rows = []
    for path in files_of(folder, "embeddings"):
        rows += pq.read_table(path).to_pylist()
    return {row[id_column]: row["embedding"] for row in rows}


def test_candidates_are_embedded_with_missing_values_where_they_have_none(folders):
    path, prepared = folders

    num_rows = embed(str(path / "candidate"), str(prepared), str(path / "out"))

    # Length of the id, genres, price or -1, sum of the vector or -1 twice.
    assert num_rows == 3
    assert embeddings(path / "out", "candidate_id") == {
        "a": [1, 2, 2, 4],
        "bb": [2, 0, -1, -2],
        "ccc": [3, 1, 4, 5],
    }


def test_queries_are_embedded_with_their_history(folders):
    path, prepared = folders

    embed(str(path / "query" / "7"), str(prepared), str(path / "out"), side="query")

    assert embeddings(path / "out", "query_id") == {
        "u1": [30, 2],
        "u2": [-1, 1],
        "u3": [50, 0],
    }


def test_queries_whose_embedding_depends_on_the_moment_are_refused(world, tmp_path):
    world.write("interactions.csv", "user_id,item_id,t,device\nu1,a,1,tv\nu1,b,2,tv")
    context = "features:\n  context: {device: {kind: categorical}}"
    config = (
        "columns: {timestamp: t}\n"
        + context
        + """
  candidate: {item_id: {kind: id}}
split: {by: random, validation: 0.0, test: 0.0}
"""
    )
    world.prepare(config)

    with pytest.raises(UserError, match="depends on the moment .*device"):
        embed("model", str(world.output), str(tmp_path / "out"), side="query")


def test_the_result_is_that_of_the_tower_in_this_process(folders):
    path, prepared = folders
    tower = tf.saved_model.load(str(path / "candidate" / "7")).signatures["serving_default"]

    embed(str(path / "candidate"), str(prepared), str(path / "out"))

    direct = tower(
        item_id=tf.constant(["a", "ccc"]),
        genres=tf.constant([["x", "y"], ["z", ""]]),
        price=tf.constant([2.0, 4.0]),
        vector=tf.constant([[1.0, 3.0], [0.0, 5.0]]),
    )["candidate_embedding"]
    batch = embeddings(path / "out", "candidate_id")
    np.testing.assert_array_equal([batch["a"], batch["ccc"]], direct)


def test_a_path_that_is_no_model_is_said_so(folders):
    path, prepared = folders

    with pytest.raises(UserError, match="is no SavedModel and holds no version"):
        embed(str(path), str(prepared), str(path / "out"))


def test_the_command_line_names_what_is_missing(capsys):
    assert main(["--data", "x"]) == 2

    assert "--model is missing" in capsys.readouterr().err
