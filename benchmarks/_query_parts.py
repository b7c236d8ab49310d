"""What a single query of a SavedModel with ScaNN spends its time on."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf
from _clustered import EMBEDDING_DIM, FEATURE, NUM_QUERIES, Floats, K, export
from _harness import Measurement, alternate, milliseconds

from serving.loading import load
from tfrs_twotower.index import ScannIndex
from tfrs_twotower.retrieval.retriever import Signature

QUERY, SCANN, SCORES = "session", "ScaNN", "exact scores"
# Each does what the one before does, and one thing more.
STEPS = {
    QUERY: "the session alone: query in, query out",
    SCANN: "and ScaNN: the rows it finds",
    SCORES: "and exact scores, in order",
    "serving_default": "and ids as text: the whole answer",
}


def query_parts(
    label: str, index: ScannIndex, queries: Floats, *, turn: int, rounds: int
) -> Iterator[Measurement]:
    """The time of a query, by how far the signature goes.

    Args:
        label: Put before each name.
        index: The corpus.
        queries: `[num_queries, embedding_dim]`, asked one by one.
        turn: How many queries a signature answers before the next one has its turn.
        rounds: Turns of each.
    """
    inputs = {FEATURE: tf.TensorSpec([None, EMBEDDING_DIM], tf.float32)}
    k, none = tf.constant(K), tf.constant(0)
    further = {
        QUERY: Signature(lambda raw: {"query": tf.identity(raw[FEATURE])}, inputs),
        SCANN: Signature(lambda raw: {"rows": index.find_more(raw[FEATURE], k, none)}, inputs),
        SCORES: Signature(
            lambda raw: dict(zip(("rows", "scores"), index.search(raw[FEATURE], k), strict=True)),
            inputs,
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        export(index, Path(folder, "1"), further=further)
        servable = load(Path(folder, "1"), "retrieval", 1)
    place = iter(range(10**9))

    def asking(signature: str) -> Callable[[], None]:
        def run() -> None:
            for _ in range(turn):
                first = next(place) % NUM_QUERIES
                servable.run(signature, {FEATURE: queries[first : first + 1]})

        return run

    seconds = alternate({STEPS[name]: asking(name) for name in STEPS}, rounds)
    servable.close()
    for step in STEPS.values():
        of_one = {step: [one / turn for one in seconds[step]]}
        yield milliseconds(of_one, step, label=label)
