"""A Keras tower and an index of one's own, exported without our config and asked elsewhere."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tfrs_twotower.index import ExactIndex, IndexParameters, ScannIndex
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.publishing import export_retriever
from tfrs_twotower.schema import UsageError, UserError

USERS, DIMENSION, SIZE = ["ann", "bob", "eve"], 8, 600
INPUTS = {"user": tf.TensorSpec([None], tf.string), "seen": tf.TensorSpec([None, None], tf.string)}
QUERIES = {"user": ["ann", "eve", "nobody"], "seen": [["i3", ""], ["", ""], ["i5", "i9"]]}


class PlainTower(keras.Model):
    """As anybody writes one: look-ups inside, the vector brought to length 1."""

    def __init__(self) -> None:
        super().__init__()
        self._user_row = keras.layers.StringLookup(vocabulary=USERS)
        self._item_row = keras.layers.StringLookup(vocabulary=[f"i{n}" for n in range(20)])
        normal = keras.initializers.RandomNormal(seed=3)
        self._users = keras.layers.Embedding(4, DIMENSION, embeddings_initializer=normal)
        self._items = keras.layers.Embedding(21, DIMENSION, embeddings_initializer=normal)
        self._dropout = keras.layers.Dropout(0.5)

    def call(self, inputs: dict[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        seen = tf.reduce_mean(self._items(self._item_row(inputs["seen"])), axis=1)
        vector = self._dropout(
            self._users(self._user_row(inputs["user"])) + seen, training=training
        )
        return tf.math.l2_normalize(vector, axis=-1)


def unit_rows(num_rows: int) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(num_rows, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


EMBEDDINGS, IDS = unit_rows(SIZE), [f"c{row:03}" for row in range(SIZE)]

# A server of its own: nothing of the process that exported is there.
ASK = """
import json, sys
import numpy as np
from serving.loading import load

folder, queries = sys.argv[1], json.loads(sys.argv[2])
servable = load(folder, "retrieval", 1)
inputs = {name: np.array(value, object) for name, value in queries.items()}
signature = servable.signatures["recommend"]
ruled = {
    name: np.repeat(value, len(inputs["user"]), axis=0)
    for name, value in signature.defaults.items()
}
ruled["k"] = np.array([5, 5, 5], np.int32)
ruled["exclude_ids"] = np.array([["c000"], [""], [""]], object)
found = servable.run("recommend", {**inputs, **ruled})
print(json.dumps([[i.decode() for i in ids] for ids in found["candidate_ids"]]))
print(any("tfrs_twotower.index" in name for name in sys.modules))
"""


@pytest.mark.parametrize("kind", ["scann", "exact"])
@pytest.mark.slow
def test_a_plain_tower_answers_in_a_fresh_process(kind, tmp_path):
    tower = PlainTower()
    # Every leaf is searched and plenty rescored, so that the answer is the exact one.
    parameters = IndexParameters(num_leaves=20, leaves_to_search=20, reorder=SIZE, at=10)
    index = ScannIndex(EMBEDDINGS, parameters) if kind == "scann" else ExactIndex(EMBEDDINGS)

    manifest = export_retriever(tower, IDS, index, tmp_path / "retrieval/1", inputs=INPUTS)

    printed = subprocess.run(
        [sys.executable, "-c", ASK, str(tmp_path / "retrieval/1"), json.dumps(QUERIES)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    vectors = tower({name: tf.constant(value) for name, value in QUERIES.items()}).numpy()
    scores = vectors @ EMBEDDINGS.T
    scores[0, 0] = -2.0  # Excluded.
    expected = [[IDS[row] for row in np.argsort(-of_query)[:5]] for of_query in scores]
    assert json.loads(printed[-2]) == expected
    assert printed[-1] == "False"
    assert manifest["index"]["kind"] == kind
    assert manifest["corpus_size"] == SIZE
    assert bool(manifest["custom_ops"]) == (kind == "scann")
    assert [path.name for path in (tmp_path / "retrieval").iterdir()] == ["1"]


def test_an_index_of_another_width_is_refused(tmp_path):
    narrow = ExactIndex(np.ascontiguousarray(EMBEDDINGS[:, :4]))

    with pytest.raises(ValueError, match="expected 4, got 8"):
        export_retriever(PlainTower(), IDS, narrow, tmp_path / "1", inputs=INPUTS)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        pytest.param(IDS[::-1], ValueError, "must be sorted", id="unsorted"),
        pytest.param(["c000", *IDS[:-1]], UserError, "'c000' occurs twice", id="twice"),
        pytest.param(IDS[1:], ValueError, "expected 600, got 599", id="too-few"),
    ],
)
def test_ids_that_do_not_fit_the_index_are_refused(ids, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export_retriever(PlainTower(), ids, ExactIndex(EMBEDDINGS), tmp_path / "m/1", inputs=INPUTS)

    assert not (tmp_path / "m/1").exists()


def test_a_version_that_is_there_is_not_replaced(tmp_path):
    with pytest.raises(UsageError, match="exists: name the folder of a new version"):
        export_retriever(PlainTower(), IDS, ExactIndex(EMBEDDINGS), tmp_path, inputs=INPUTS)
