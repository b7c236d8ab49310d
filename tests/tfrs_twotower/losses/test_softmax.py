"""The in-batch softmax against its definition written out, by hand and against the full softmax."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from tfrs_twotower.losses import (
    in_batch_softmax,
    log_expected_count,
    mixed_log_q,
    sampled_softmax,
    softmax,
)
from tfrs_twotower.losses.masks import known_places, own_places

# The scores of three queries and four candidates; 0, 1 and 2 are the positives.
QUERIES = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
CANDIDATES = np.array([[2.0, 1.0], [0.5, 1.0], [3.0, -1.0], [0.0, 0.5]])
SCORES = [[2.0, 0.5, 3.0, 0.0], [2.0, 2.0, -2.0, 1.0], [3.0, 1.5, 2.0, 0.5]]


def cross_entropy(positive, negatives):
    return np.log(np.exp([positive, *negatives]).sum()) - positive


def test_each_query_is_a_softmax_over_all_candidates_of_the_batch():
    loss = in_batch_softmax(tf.constant(QUERIES), tf.constant(CANDIDATES))

    of_queries = [
        cross_entropy(2.0, [0.5, 3.0, 0.0]),
        cross_entropy(2.0, [2.0, -2.0, 1.0]),
        cross_entropy(2.0, [3.0, 1.5, 0.5]),
    ]
    assert float(loss) == pytest.approx(np.mean(of_queries), rel=1e-12)


def test_the_loss_is_a_mean_so_that_it_does_not_grow_with_the_batch():
    """Orthogonal queries and candidates: with n of them each loss is log(e + n - 1) - 1."""
    for n in (2, 8):
        assert float(in_batch_softmax(tf.eye(n), tf.eye(n))) == pytest.approx(
            np.log(np.e + n - 1) - 1, rel=1e-6
        )


def test_the_temperature_divides_the_scores_before_the_correction():
    log_q = np.log([0.4, 0.1, 0.3, 0.2])

    loss = in_batch_softmax(
        tf.constant(QUERIES),
        tf.constant(CANDIDATES),
        temperature=0.5,
        candidate_log_q=tf.constant(log_q),
    )

    # Scores are doubled; each negative is divided by 3 q, three negatives being drawn; the
    # positive is not.
    of_queries = [
        cross_entropy(4.0, [1.0 - np.log(0.3), 6.0 - np.log(0.9), 0.0 - np.log(0.6)]),
        cross_entropy(4.0, [4.0 - np.log(1.2), -4.0 - np.log(0.9), 2.0 - np.log(0.6)]),
        cross_entropy(4.0, [6.0 - np.log(1.2), 3.0 - np.log(0.3), 1.0 - np.log(0.6)]),
    ]
    assert float(loss) == pytest.approx(np.mean(of_queries), rel=1e-12)


@pytest.mark.parametrize("dtype", [tf.string, tf.int64], ids=["ids", "rows"])
def test_copies_of_the_positive_are_no_negatives(dtype):
    ids = ["a", "b", "a", "b"] if dtype == tf.string else [7, 0, 7, 0]

    loss = in_batch_softmax(
        tf.constant(QUERIES), tf.constant(CANDIDATES), candidate_ids=tf.constant(ids, dtype)
    )

    of_queries = [
        cross_entropy(2.0, [0.5, 0.0]),
        cross_entropy(2.0, [2.0, -2.0]),
        cross_entropy(2.0, [1.5, 0.5]),
    ]
    assert float(loss) == pytest.approx(np.mean(of_queries), rel=1e-12)


def test_known_positives_of_a_query_are_no_negatives_of_it_but_of_the_others():
    known = tf.ragged.constant([[9, 30], [], [4, 4, 20]], dtype=tf.int32)

    loss = in_batch_softmax(
        tf.constant(QUERIES),
        tf.constant(CANDIDATES),
        candidate_ids=tf.constant([20, 3, 9, 9]),
        known_positives=known,
    )

    # Query 0 likes 9, which stands twice; query 2 likes 20, and its own 9 stands twice.
    of_queries = [
        cross_entropy(2.0, [0.5]),
        cross_entropy(2.0, [2.0, -2.0, 1.0]),
        cross_entropy(2.0, [1.5]),
    ]
    assert float(loss) == pytest.approx(np.mean(of_queries), rel=1e-12)


def test_a_query_whose_every_negative_is_masked_has_no_loss_and_no_gradient():
    queries, candidates = tf.Variable(QUERIES), tf.Variable(CANDIDATES)
    with tf.GradientTape() as tape:
        loss = in_batch_softmax(
            queries, candidates, candidate_ids=tf.constant([5, 5, 5, 5]), temperature=0.1
        )

    assert float(loss) == 0.0
    for gradient in tape.gradient(loss, [queries, candidates]):
        np.testing.assert_array_equal(tf.convert_to_tensor(gradient), 0.0)


def test_a_thumb_of_weight_two_weighs_twice():
    loss = in_batch_softmax(
        tf.constant(QUERIES), tf.constant(CANDIDATES), sample_weight=tf.constant([2.0, 1.0, 0.0])
    )

    # Two parts of the first query, one of the second, over their weight of 3.
    first, second = cross_entropy(2.0, [0.5, 3.0, 0.0]), cross_entropy(2.0, [2.0, -2.0, 1.0])
    assert float(loss) == pytest.approx((2 * first + second) / 3, rel=1e-7)


def test_a_batch_of_no_weight_has_no_loss_and_no_gradient():
    queries = tf.Variable(QUERIES)
    with tf.GradientTape() as tape:
        loss = in_batch_softmax(queries, tf.constant(CANDIDATES), sample_weight=tf.zeros(3))

    assert float(loss) == 0.0
    np.testing.assert_array_equal(tape.gradient(loss, queries), np.zeros([3, 2]))


def test_own_negatives_join_the_softmax_of_their_query_alone():
    own = [[1.5, 0.25], [-np.inf, -np.inf], [-np.inf, 2.5]]

    loss = sampled_softmax(
        tf.constant(QUERIES),
        tf.constant(CANDIDATES[:3]),
        tf.constant(CANDIDATES[3:]),
        own_logits=tf.constant(own, tf.float64),
    )

    of_queries = [
        cross_entropy(2.0, [0.0, 1.5, 0.25]),
        cross_entropy(2.0, [1.0]),
        cross_entropy(2.0, [0.5, 2.5]),
    ]
    assert float(loss) == pytest.approx(np.mean(of_queries), rel=1e-12)


def test_the_bilateral_softmax_weighs_the_negatives_and_leaves_the_positive_out_of_them():
    queries = tf.Variable(QUERIES)
    with tf.GradientTape() as tape:
        loss = sampled_softmax(
            queries,
            tf.constant(CANDIDATES[:3]),
            tf.constant(CANDIDATES),
            masks=own_places(tf.range(3), tf.constant(4)),
            own_logits=tf.constant([[-np.inf], [-np.inf], [2.5]], tf.float64),
            bilateral_weight=1.25,
        )

    negatives = [[0.5, 3.0, 0.0], [2.0, -2.0, 1.0], [3.0, 1.5, 0.5, 2.5]]
    of_queries = [1.25 * np.log(np.exp(scores).sum()) - 2.0 for scores in negatives]
    assert float(loss) == pytest.approx(np.mean(of_queries), rel=1e-12)
    # Of the second query: 1.25 of the mean negative, less the positive.
    shares = np.exp(negatives[1]) / np.exp(negatives[1]).sum()
    wanted = (1.25 * shares @ CANDIDATES[[0, 2, 3]] - CANDIDATES[1]) / 3
    np.testing.assert_allclose(tape.gradient(loss, queries)[1], wanted, rtol=1e-10)


def test_in_the_bilateral_softmax_a_query_without_negatives_is_drawn_to_its_positive():
    queries, candidates = tf.Variable(QUERIES), tf.Variable(CANDIDATES[:3])
    ids = tf.constant([5, 5, 5])
    with tf.GradientTape() as tape:
        loss = sampled_softmax(
            queries, candidates, candidates, masks=known_places(ids, ids), bilateral_weight=1.25
        )

    assert np.isfinite(float(loss))
    np.testing.assert_allclose(tape.gradient(loss, queries), -CANDIDATES[:3] / 3, rtol=1e-12)


def plain_form(queries, candidates, temperature, own, *, log_q, ids, known, weight):
    """The definition with the whole score matrix, one mask a pair; TensorFlow differentiates."""
    num_queries, num_candidates = len(ids) - 4, len(ids)
    scores = tf.matmul(queries, candidates, transpose_b=True) / temperature
    positive = tf.linalg.diag_part(scores)
    negative = [
        [j != i and ids[j] != ids[i] and ids[j] not in known[i] for j in range(num_candidates)]
        for i in range(num_queries)
    ]
    corrected = scores - log_q - np.log(num_candidates - 1)
    terms = tf.where(negative, tf.exp(corrected), tf.zeros([], tf.float64))
    partition = tf.exp(positive) + tf.reduce_sum(terms, 1) + tf.reduce_sum(tf.exp(own), 1)
    return tf.reduce_sum(weight * (tf.math.log(partition) - positive)) / weight.sum()


def streaming_form(queries, candidates, temperature, own, *, log_q, ids, known, weight):
    positive_ids = tf.constant(ids[: len(ids) - 4])
    return sampled_softmax(
        queries,
        candidates[: len(ids) - 4],
        candidates,
        temperature=temperature,
        correction=log_expected_count(tf.constant(log_q), len(ids) - 1),
        masks=known_places(
            positive_ids, tf.constant(ids), tf.ragged.constant(known, dtype=tf.int32)
        ),
        own_logits=own,
        sample_weight=tf.constant(weight),
    )


@pytest.fixture
def batch():
    """37 queries, 41 candidates of 12 identities, everything of another size."""
    rng = np.random.default_rng(3)
    size = 37
    return {
        "variables": [
            tf.Variable(rng.normal(size=shape)) for shape in ([size, 5], [size + 4, 5], [size, 3])
        ],
        "settings": {
            "log_q": np.log(rng.uniform(0.001, 0.3, size + 4)),
            "ids": rng.integers(0, 12, size + 4),
            "known": [rng.choice(30, rng.integers(0, 6), replace=False) for _ in range(size)],
            "weight": rng.uniform(0.0, 3.0, size),
        },
    }


@pytest.mark.parametrize("block_rows", [8, 37, 512], ids=["many blocks", "one", "part of one"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_loss_and_gradients_are_exactly_those_of_the_plain_form(
    batch, block_rows, compiled, monkeypatch
):
    monkeypatch.setattr(softmax, "BLOCK_ROWS", block_rows)
    queries, candidates, own = batch["variables"]
    temperature = tf.Variable(0.7, dtype=tf.float64)
    variables = [queries, candidates, temperature, own]

    def differentiated(form):
        with tf.GradientTape() as tape:
            loss = form(*(tf.identity(v) for v in variables), **batch["settings"])
        return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

    run = tf.function(differentiated) if compiled else differentiated
    loss, gradients = run(streaming_form)

    expected_loss, expected = differentiated(plain_form)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-12)
    for gradient, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["moderate", "extreme"])
def test_float32_is_within_1e_5_of_float64_at_any_scale_of_the_scores(scale):
    rng = np.random.default_rng(5)
    embeddings = [rng.normal(size=(64, 16)) for _ in range(2)]

    def differentiated(dtype):
        variables = [tf.Variable(e, dtype=dtype) for e in embeddings]
        with tf.GradientTape() as tape:
            loss = in_batch_softmax(*variables, temperature=1 / scale)
        return [loss / scale, *(g / scale for g in tape.gradient(loss, variables))]

    for single, double in zip(differentiated(tf.float32), differentiated(tf.float64), strict=True):
        assert np.isfinite(single).all()
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-5)


def test_the_batch_size_may_be_unknown_when_the_graph_is_made():
    spec = [tf.TensorSpec([None, 2], tf.float64)] * 2
    compiled = tf.function(in_batch_softmax, input_signature=spec)

    assert float(compiled(QUERIES, CANDIDATES)) == pytest.approx(
        float(in_batch_softmax(tf.constant(QUERIES), tf.constant(CANDIDATES))), rel=1e-12
    )


# --- the correction against the full softmax ------------------------------------------------


class Corpus:
    """Six candidates of unlike popularity, one query, and what the full softmax says of them."""

    q = np.array([0.45, 0.25, 0.15, 0.1, 0.04, 0.01])
    scores = np.array([0.3, -0.4, 1.1, 0.2, -0.9, 0.8])

    def __init__(self):
        # One dimension: the score of a candidate is its embedding.
        self.query = tf.ones([1, 1], tf.float64)
        self.candidates = self.scores[:, np.newaxis]

    def full_loss(self, positive):
        return np.log(np.exp(self.scores).sum()) - self.scores[positive]

    def sampled_losses(self, positive, num_in_batch, num_uniform, log_q, num_batches):
        """The losses of the positive against negatives drawn as the sampler says."""
        rng = np.random.default_rng(1)
        drawn = np.concatenate(
            [
                rng.choice(6, [num_batches, num_in_batch], p=self.q),
                rng.integers(0, 6, [num_batches, num_uniform]),
            ],
            axis=1,
        )

        @tf.function
        def loss_of(rows):
            return in_batch_softmax(
                self.query,
                tf.gather(self.candidates, rows),
                candidate_log_q=tf.gather(log_q, rows),
                candidate_ids=rows,
            )

        return [float(loss_of(tf.constant([positive, *rows]))) for rows in drawn]


SAMPLERS = {"in-batch": (60, 0), "uniform": (0, 60), "mixed": (40, 20)}


def sampler_log_q(num_in_batch, num_uniform):
    return mixed_log_q(
        tf.constant(np.log(Corpus.q)),
        num_in_batch=num_in_batch,
        num_uniform=num_uniform,
        corpus_size=6,
    ).numpy()


@pytest.mark.parametrize("positive", [0, 5], ids=["popular", "rare"])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_the_corrected_partition_is_that_of_the_corpus_in_expectation(sampler, positive):
    """exp(loss) is the estimated partition over exp(score), which is unbiased."""
    corpus = Corpus()

    losses = corpus.sampled_losses(positive, *sampler, sampler_log_q(*sampler), num_batches=1000)

    partitions = np.exp(losses)
    error = partitions.std() / np.sqrt(len(partitions))
    assert partitions.mean() == pytest.approx(np.exp(corpus.full_loss(positive)), abs=4 * error)
    assert 4 * error < 0.05 * partitions.mean()


def expected_batch(num_in_batch, num_uniform):
    """Negatives in just the numbers in which they are expected."""
    counts = np.rint(num_in_batch * Corpus.q + num_uniform / 6).astype(int)
    np.testing.assert_allclose(counts, num_in_batch * Corpus.q + num_uniform / 6)
    return np.repeat(np.arange(6), counts)


@pytest.mark.parametrize(
    "sampler", [(300, 0), (0, 300), (600, 300)], ids=["in-batch", "uniform", "mixed"]
)
def test_a_batch_of_expected_content_has_loss_and_gradient_of_the_full_softmax(sampler):
    corpus, positive = Corpus(), 3
    rows = np.concatenate([[positive], expected_batch(*sampler)])
    log_q = sampler_log_q(*sampler)
    query, full_query = tf.Variable(corpus.query), tf.Variable(corpus.query)

    with tf.GradientTape() as tape:
        loss = in_batch_softmax(
            query,
            tf.constant(corpus.candidates[rows]),
            candidate_log_q=tf.constant(log_q[rows]),
            candidate_ids=tf.constant(rows),
        )
    with tf.GradientTape() as full_tape:
        logits = tf.matmul(full_query, tf.constant(corpus.candidates), transpose_b=True)
        full = tf.nn.sparse_softmax_cross_entropy_with_logits([positive], logits)

    assert float(loss) == pytest.approx(corpus.full_loss(positive), rel=1e-12)
    np.testing.assert_allclose(
        tape.gradient(loss, query), full_tape.gradient(full, full_query), rtol=1e-9
    )


@pytest.mark.parametrize("rarer", [1e-7, 1e-9, 1e-12])
def test_the_long_tail_of_a_large_corpus_is_still_told_apart(rarer):
    """One negative, as good as the positive: the loss is log(1 + 1 / q)."""
    loss = in_batch_softmax(
        tf.zeros([1, 1]),
        tf.zeros([2, 1]),
        candidate_log_q=tf.constant(np.log([0.5, rarer]), tf.float32),
    )

    assert float(loss) == pytest.approx(np.log(1 + 1 / rarer), rel=1e-6)


def test_the_mixture_counts_each_source_by_its_share_of_the_draws():
    log_q = mixed_log_q(tf.math.log([0.5, 0.02]), num_in_batch=30, num_uniform=10, corpus_size=50)

    # (30 * 0.5 + 10 / 50) / 40 and (30 * 0.02 + 10 / 50) / 40
    np.testing.assert_allclose(tf.exp(log_q), [0.38, 0.02], rtol=1e-6)


def test_a_candidate_never_seen_in_train_is_drawn_uniformly_alone():
    log_q = mixed_log_q(
        tf.constant([-np.inf], tf.float32), num_in_batch=30, num_uniform=10, corpus_size=50
    )

    np.testing.assert_allclose(tf.exp(log_q), [10 / 50 / 40], rtol=1e-6)


# --- refusals, and what it costs ------------------------------------------------------------


@pytest.mark.parametrize("name", ["candidate_log_q", "candidate_ids"])
@pytest.mark.parametrize("shape", [(3,), (3, 4), ()], ids=["a query", "a pair", "scalar"])
def test_values_that_are_not_one_a_candidate_are_refused(name, shape):
    with pytest.raises(ValueError, match=rf"`{name}` must hold one value per candidate.*\(4,\)"):
        in_batch_softmax(
            tf.constant(QUERIES), tf.constant(CANDIDATES), **{name: tf.zeros(shape, tf.float64)}
        )


def test_known_positives_without_integer_ids_are_refused():
    known = tf.ragged.constant([[1], [], []], dtype=tf.int32)
    with pytest.raises(ValueError, match="need `candidate_ids`"):
        in_batch_softmax(tf.constant(QUERIES), tf.constant(CANDIDATES), known_positives=known)
    with pytest.raises(ValueError, match="integer `candidate_ids`.*got string"):
        in_batch_softmax(
            tf.constant(QUERIES),
            tf.constant(CANDIDATES),
            known_positives=known,
            candidate_ids=tf.constant(["a", "b", "c", "d"]),
        )


def test_masks_are_found_by_position_where_there_are_no_identities():
    masks = own_places(tf.constant([2, 0]), tf.constant(3))

    logits = masks.applied(tf.zeros([2, 3]), tf.constant(0))

    np.testing.assert_array_equal(tf.exp(logits), [[1, 1, 0], [0, 1, 1]])


@pytest.mark.slow
def test_a_batch_of_16384_fits_where_its_score_matrix_would_not():
    """The matrix alone would hold 1 GiB, and the plain form several times that."""
    script = """
        import resource
        import tensorflow as tf
        from tfrs_twotower.losses import in_batch_softmax

        def peak_mib():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        @tf.function
        def step(queries, candidates, ids):
            with tf.GradientTape() as tape:
                tape.watch([queries, candidates])
                loss = in_batch_softmax(
                    queries, candidates, temperature=0.1, candidate_ids=ids,
                    candidate_log_q=tf.fill([tf.shape(ids)[0]], -9.0),
                )
            return tape.gradient(loss, [queries, candidates])

        def run(size):
            step(*(tf.random.normal([size, 64]) for _ in range(2)), tf.range(size))

        run(64)
        before = peak_mib()
        run(16384)
        print(peak_mib() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )

    assert float(done.stdout) < 512
