"""Loss and gradients of one batch: ours, TFRS', and the three bare matrix products.

Embeddings of 64 dimensions; candidates drawn by a Zipf law from 50,000, so that a batch has
accidental hits; 50 known positives a query, drawn likewise.
"""

from collections.abc import Callable

import numpy as np
from _harness import Measurement, alternate, benchmark, milliseconds

from tfrs_twotower.keras import tf, tfrs
from tfrs_twotower.losses import in_batch_softmax
from tfrs_twotower.losses.masks import known_places

EMBEDDING_DIM = 64
CORPUS_SIZE = 50_000
ZIPF_EXPONENT = 0.8
NUM_KNOWN = 50
TEMPERATURE = 0.1
ROUNDS = {1024: 201, 4096: 61, 8192: 31}
QUICK_ROUNDS = {1024: 31, 4096: 11, 8192: 5}

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# Every contestant is traced once, by the same lines, which TensorFlow takes for retracing.
tf.get_logger().setLevel("ERROR")


@benchmark(code=["tfrs_twotower/losses"])
def main(quick: bool) -> list[Measurement]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    return [found for size in rounds for found in measure(size, rounds[size])]


def measure(batch_size: int, rounds: int) -> list[Measurement]:
    rng = np.random.default_rng(0)
    q = np.arange(1, CORPUS_SIZE + 1) ** -ZIPF_EXPONENT
    q /= q.sum()
    rows = rng.choice(CORPUS_SIZE, batch_size, p=q)
    ids = tf.constant(rows, tf.int32)
    log_q = tf.constant(np.log(q)[rows], tf.float32)
    known = np.sort(rng.choice(CORPUS_SIZE, [batch_size, NUM_KNOWN], p=q), axis=1)
    known_positives = tf.RaggedTensor.from_tensor(tf.constant(known, tf.int32))
    queries, candidates = (
        tf.math.l2_normalize(
            tf.constant(rng.normal(size=[batch_size, EMBEDDING_DIM]), tf.float32), 1
        )
        for _ in range(2)
    )
    plain = tfrs.tasks.Retrieval(temperature=TEMPERATURE)
    corrected = tfrs.tasks.Retrieval(temperature=TEMPERATURE, remove_accidental_hits=True)
    losses: dict[str, Loss] = {
        "TFRS": lambda q, c: plain(q, c, compute_metrics=False),
        "ours": lambda q, c: in_batch_softmax(q, c, temperature=TEMPERATURE),
        "TFRS, logQ + hits": lambda q, c: corrected(
            q,
            c,
            candidate_sampling_probability=tf.exp(log_q),
            candidate_ids=ids,
            compute_metrics=False,
        ),
        "ours, logQ + hits": lambda q, c: in_batch_softmax(
            q, c, temperature=TEMPERATURE, candidate_log_q=log_q, candidate_ids=ids
        ),
        "ours, logQ + known positives": lambda q, c: in_batch_softmax(
            q,
            c,
            temperature=TEMPERATURE,
            candidate_log_q=log_q,
            candidate_ids=ids,
            known_positives=known_positives,
        ),
    }
    contestants = {"bare products": _compiled(_bare_products, queries, candidates)} | {
        name: _compiled(_with_gradients(loss), queries, candidates) for name, loss in losses.items()
    }
    seconds = alternate(contestants, rounds)
    label = f"{batch_size}: "
    places = known_places(ids, ids, known_positives).places
    num_masked = sum(int(tf.size(one)) for one in places)
    return [
        milliseconds(seconds, "bare products", label=label),
        *(milliseconds(seconds, name, "bare products", label=label) for name in losses),
        milliseconds(seconds, "ours", "TFRS", label=label),
        milliseconds(seconds, "ours, logQ + hits", "TFRS, logQ + hits", label=label),
        Measurement(f"{label}masked with known positives", num_masked / batch_size, "a query"),
    ]


def _bare_products(queries: tf.Tensor, candidates: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The products that no exact loss can do without: scores and both gradients."""
    scores = tf.matmul(queries, candidates, transpose_b=True)
    return tf.matmul(scores, candidates), tf.matmul(scores, queries, transpose_a=True)


def _with_gradients(loss_of: Loss) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]:
    def differentiated(queries: tf.Tensor, candidates: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            tape.watch([queries, candidates])
            loss = loss_of(queries, candidates)
        return (loss, *tape.gradient(loss, [queries, candidates]))

    return differentiated


def _compiled(
    function: Callable[..., tuple[tf.Tensor, ...]], *arguments: tf.Tensor
) -> Callable[[], object]:
    """The function as a graph of unknown batch size; a call waits for its results."""
    spec = [tf.TensorSpec([None, EMBEDDING_DIM])] * len(arguments)
    compiled = tf.function(function, input_signature=spec)
    return lambda: [result.numpy() for result in compiled(*arguments)]


if __name__ == "__main__":
    main()
