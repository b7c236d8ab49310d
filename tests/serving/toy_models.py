"""Small SavedModels with the project's signatures, whose answers are known by hand.

Candidates: a (1, 0), b (0.8, 0.6), c (0, 1), d (-1, 0). Users: "east" (1, 0), "north" (0, 1), every
other one (0.6, 0.8). So the scores are

    east     a 1.0   b 0.8   c 0.0   d -1.0
    north    c 1.0   b 0.6   a 0.0   d 0.0
    others   b 0.96  c 0.8   a 0.6   d -0.6

`mirrored` models hold the opposite candidates, so that versions can be told apart.
"""

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

CANDIDATE_IDS = ["a", "b", "c", "d"]
CANDIDATES = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]]
USERS = {"east": [1.0, 0.0], "north": [0.0, 1.0]}
OTHER_USER = [0.6, 0.8]
MAX_K = 100
FLOAT32_MIN = float(np.finfo(np.float32).min)

_FEATURES = [
    tf.TensorSpec([None], tf.string, "user_id"),
    tf.TensorSpec([None, None], tf.string, "history"),
    tf.TensorSpec([None], tf.float32, "age"),
]
_IDS = tf.TensorSpec([None, None], tf.string)


class Toy(tf.Module):
    def __init__(self, mirrored=False):
        self.users = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(list(USERS)), tf.range(len(USERS), dtype=tf.int64)
            ),
            len(USERS),
        )
        self.user_vectors = tf.Variable([*USERS.values(), OTHER_USER])
        sign = -1.0 if mirrored else 1.0
        self.candidates = tf.Variable(sign * tf.constant(CANDIDATES))
        self.candidate_ids = tf.Variable(CANDIDATE_IDS)
        default_k, no_ids = tf.constant([3]), tf.constant([[""]])

        @tf.function(input_signature=_FEATURES)
        def embed(user_id, history, age):
            return {"query_embedding": self.embed(user_id)}

        @tf.function(input_signature=_FEATURES)
        def serving_default(user_id, history, age):
            return self.top(user_id, tf.constant([2]), no_ids, no_ids)

        @tf.function(
            input_signature=[
                *_FEATURES,
                tf.TensorSpec([None], tf.int32, "k"),
                tf.TensorSpec([None, None], tf.string, "exclude_ids"),
                tf.TensorSpec([None, None], tf.string, "allow_ids"),
            ]
        )
        def recommend(user_id, history, age, k=default_k, exclude_ids=no_ids, allow_ids=no_ids):
            return self.top(user_id, k, exclude_ids, allow_ids)

        @tf.function(
            input_signature=[*_FEATURES, tf.TensorSpec([None, None], tf.string, "candidate_ids")]
        )
        def score(user_id, history, age, candidate_ids):
            is_same = candidate_ids[:, :, None] == self.candidate_ids[None, None, :]
            scores = tf.where(is_same, self.scores(user_id)[:, None, :], FLOAT32_MIN)
            return {"scores": tf.reduce_max(scores, axis=2)}

        self.embed_function = embed
        self.functions = {
            "serving_default": serving_default,
            "recommend": recommend,
            "score": score,
        }

    def embed(self, user_id):
        return tf.gather(self.user_vectors, self.users.lookup(user_id))

    def scores(self, user_id):
        return tf.matmul(self.embed(user_id), self.candidates, transpose_b=True)

    def top(self, user_id, k, exclude_ids, allow_ids):
        width = tf.reduce_max(k)
        is_legal = tf.debugging.assert_less_equal(
            width, MAX_K, message=f"k must be at most {MAX_K}"
        )
        with tf.control_dependencies([is_legal]):
            width = tf.identity(width)

        def listed(ids):
            return tf.reduce_any(ids[:, :, None] == self.candidate_ids[None, None, :], axis=1)

        is_allowed = listed(allow_ids) | tf.reduce_all(allow_ids == "", axis=1, keepdims=True)
        scores = self.scores(user_id)
        scores = tf.where(is_allowed & ~listed(exclude_ids), scores, FLOAT32_MIN)
        missing = tf.maximum(width - len(CANDIDATE_IDS), 0)
        scores = tf.pad(scores, [[0, 0], [0, missing]], constant_values=FLOAT32_MIN)
        scores, rows = tf.math.top_k(scores, width)
        is_valid = (scores > FLOAT32_MIN) & (tf.range(width)[None, :] < k[:, None])
        ids = tf.gather(tf.concat([self.candidate_ids, tf.fill([missing], "")], 0), rows)
        return {
            "candidate_ids": tf.where(is_valid, ids, ""),
            "scores": tf.where(is_valid, scores, FLOAT32_MIN),
            "valid_count": tf.reduce_sum(tf.cast(is_valid, tf.int32), axis=1),
        }


def write_retrieval(base_path, version, mirrored=False):
    """Writes `base_path/version` and returns it."""
    toy = Toy(mirrored)
    path = base_path / str(version)
    tf.saved_model.save(toy, str(path), signatures=toy.functions)
    return path


def write_query_tower(base_path, version):
    toy = Toy()
    path = base_path / str(version)
    tf.saved_model.save(toy, str(path), signatures={"serving_default": toy.embed_function})
    return path


class Renamed(tf.Module):
    """A query tower with an input of another name, always (1, 1)."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "visitor")])
    def embed(self, visitor):
        return {"query_embedding": tf.ones([tf.shape(visitor)[0], 2])}


def write_renamed_query_tower(base_path, version):
    """Writes `base_path/version` beside its place, then renames it there."""
    model = Renamed()
    beside = base_path / f"tmp-{version}"
    tf.saved_model.save(model, str(beside), {"serving_default": model.embed})
    beside.rename(base_path / str(version))


def write_warmup(version_path, *requests):
    """Writes requests, or anything else that serializes, as the version's warm-up file."""
    path = version_path / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())
    return path


def predict_request(model="retrieval", signature="recommend", version=None, **inputs):
    """A PredictRequest from nested lists."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


EAST = {"user_id": ["east"], "history": [["a"]], "age": [30.0]}  # Inputs of one row.

# Queries as the client takes them.
EAST_QUERY = {"user_id": "east", "history": ["a"], "age": 30.0}
NORTH_QUERY = {"user_id": "north", "history": [], "age": None}


def many_rows(count):
    """A batch for `recommend`, all of user "east"."""
    return {
        "user_id": ["east"] * count,
        "history": [["a"]] * count,
        "age": np.ones(count, np.float32),
    }
