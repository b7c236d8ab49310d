"""Rule 6: maximal marginal relevance."""

import tensorflow as tf

from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.index.control_flow import in_chunks
from tfrs_twotower.retrieval.placeholders import NO_SCORE
from tfrs_twotower.retrieval.rules.ranking import Ranked
from tfrs_twotower.retrieval.rules.request import Request

# Among how many candidates, for each one wanted and at most, relevance is weighed against variety.
MMR_POOL, LARGEST_MMR_POOL = 10, 1000


def count_needed(request: Request) -> tf.Tensor:
    """How many ranked candidates the answer to each query is chosen from, `[batch]` int32."""
    for_variety = tf.maximum(tf.minimum(MMR_POOL * request.k, LARGEST_MMR_POOL), request.k)
    return tf.where(request.mmr_lambda < 1.0, for_variety, request.k)


def rerank_mmr(
    index: CandidateIndex, request: Request, ranked: Ranked, num_needed: tf.Tensor, width: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Rule 6.

    Args:
        index: The embeddings of the corpus.
        request: Of `batch` queries.
        ranked: At least `num_needed` of the ranked candidates, where there are as many.
        num_needed: See `count_needed`.
        width: int32 scalar, the largest k.

    Returns:
        Rows `[batch, width]` int64 and scores in the order of the answer.
    """
    pool_width = tf.shape(ranked.scores)[1]
    is_in = tf.range(pool_width) < tf.minimum(ranked.count, num_needed)[:, tf.newaxis]
    embeddings = tf.convert_to_tensor(index.embeddings)

    def choose(
        rows: tf.Tensor, scores: tf.Tensor, is_in: tf.Tensor, weight: tf.Tensor
    ) -> tf.Tensor:
        vectors = tf.gather(embeddings, rows)
        relevance = weight * scores
        places = tf.TensorArray(tf.int32, width)

        def step(
            number: tf.Tensor, places: tf.TensorArray, is_left: tf.Tensor, nearest: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            value = tf.where(is_left, relevance - (1.0 - weight) * nearest, NO_SCORE)
            place = tf.argmax(value, axis=1, output_type=tf.int32)
            chosen = tf.gather(vectors, place, batch_dims=1)
            cosines = tf.linalg.matvec(vectors, chosen)
            # Before the first choice, no candidate was near a chosen one.
            nearest = tf.where(number == 0, cosines, tf.maximum(nearest, cosines))
            is_left &= tf.range(pool_width) != place[:, tf.newaxis]
            return number + 1, places.write(number, place), is_left, nearest

        _, places, _, _ = tf.while_loop(
            lambda number, *_: number < width,
            step,
            (0, places, is_in, tf.zeros_like(scores)),
            parallel_iterations=1,
        )
        return tf.transpose(tf.ensure_shape(places.stack(), [None, None]))

    order = in_chunks(
        choose,
        (ranked.candidate_rows, ranked.scores, is_in, request.mmr_lambda[:, tf.newaxis]),
        index.vectors_at_once // tf.maximum(pool_width, 1),
        tf.TensorSpec([None, None], tf.int32),
    )
    rows = tf.gather(ranked.candidate_rows, order, batch_dims=1)
    return rows, tf.gather(ranked.scores, order, batch_dims=1)
