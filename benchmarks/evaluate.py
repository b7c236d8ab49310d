"""Validation over a whole corpus: our ranking beside TFRS' FactorizedTopK, the same recall@k.

Embeddings drawn at random, 64 wide, on the corpus sizes of MovieLens 1M and gowalla; one relevant
candidate a query, for ours also ten. `FactorizedTopK` runs as in the TFRS tutorial (streaming over
the candidates in batches) and on TFRS' brute-force layer. Ours counts what is ahead of the relevant
candidate; with lists it also finds the hundred best.
"""

import numpy as np
from _harness import Measurement, alternate, benchmark

from tfrs_twotower.evaluation import metrics
from tfrs_twotower.evaluation.ranking import Pairs, rank
from tfrs_twotower.keras import tf, tfrs

EMBEDDING_DIM = 64
KS = (1, 5, 10, 50, 100)  # TFRS' own.
K = 10
CANDIDATE_BATCH = 128  # Of the TFRS tutorial.
QUERY_BATCH = 4096
# Corpus size -> queries of the quick form, of the long one.
CORPORA = {3_706: (4_096, 8_192), 40_981: (256, 1_024)}
# Equal scores: `FactorizedTopK` puts the relevant candidate first, ours goes by row.
LARGEST_DIFFERENCE = 1e-3
STREAMING, BRUTE_FORCE = "FactorizedTopK, streaming", "FactorizedTopK, brute force"
SEVERAL = 10  # Relevant candidates a query.
SEVERAL_EACH = f"ours, {SEVERAL} relevant a query"
COUNTING, LISTS = "ours, ranks", "ours, ranks and lists"


def factorized_top_k(
    queries: np.ndarray, candidates: np.ndarray, positives: np.ndarray, *, streaming: bool
) -> float:
    """Recall@k as TFRS computes it."""
    if streaming:
        source = tf.data.Dataset.from_tensor_slices(candidates).batch(CANDIDATE_BATCH)
    else:
        source = tfrs.layers.factorized_top_k.BruteForce(k=max(KS)).index(candidates)
    metric = tfrs.metrics.FactorizedTopK(source, ks=KS)
    for start in range(0, len(queries), QUERY_BATCH):
        rows = positives[start : start + QUERY_BATCH]
        metric.update_state(queries[start : start + QUERY_BATCH], candidates[rows])
    return float(metric.result()[KS.index(K)])


def several_each(queries: np.ndarray, candidates: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """The ranks of `SEVERAL` candidates of each query: its own, and the rows after it."""
    rows = (positives[:, np.newaxis] + np.arange(SEVERAL)) % len(candidates)
    pairs = Pairs(np.repeat(np.arange(len(queries)), SEVERAL), rows.ravel())
    return rank(queries, candidates, pairs, Pairs(*np.zeros([2, 0], np.int64)), k=0).ranks


def ours(queries: np.ndarray, candidates: np.ndarray, positives: np.ndarray, *, k: int) -> float:
    """Recall@k as this project computes it."""
    nothing = Pairs(*np.zeros([2, 0], np.int64))
    pairs = Pairs(np.arange(len(queries)), positives)
    ranks = rank(queries, candidates, pairs, nothing, k=k).ranks
    return float(metrics.recall_at_k(pairs.queries, ranks, K).mean())


def _rounded(values: np.ndarray) -> np.ndarray:
    """To multiples of 1/64: their dot products are exact in any order.

    `FactorizedTopK` computes the score of the relevant candidate twice, in two orders, and where
    the last bits differ it counts the candidate ahead of itself.
    """
    return (np.round(values * 64) / 64).astype(np.float32)


def measure(corpus_size: int, num_queries: int, rounds: int) -> list[Measurement]:
    """Runs all of them in turns on one corpus."""
    generator = np.random.default_rng(corpus_size)
    candidates = _rounded(generator.normal(size=[corpus_size, EMBEDDING_DIM]))
    positives = generator.integers(0, corpus_size, num_queries)
    # Queries lean towards their candidate, so that recall is neither 0 nor 1.
    noise = generator.normal(size=[num_queries, EMBEDDING_DIM])
    data = (_rounded(candidates[positives] + 2.5 * noise), candidates, positives)
    contestants = {
        STREAMING: lambda: factorized_top_k(*data, streaming=True),
        BRUTE_FORCE: lambda: factorized_top_k(*data, streaming=False),
        COUNTING: lambda: ours(*data, k=0),
        LISTS: lambda: ours(*data, k=max(KS)),
    }
    recalls = {name: run() for name, run in contestants.items()}
    if max(recalls.values()) - min(recalls.values()) > LARGEST_DIFFERENCE:
        raise SystemExit(f"recall@{K} differs: {recalls}")
    timed = {**contestants, SEVERAL_EACH: lambda: several_each(*data)}
    seconds = {name: np.array(one) for name, one in alternate(timed, rounds, warm_up=0).items()}
    corpus = f", corpus {corpus_size:,}"
    found = [Measurement(f"recall@{K}{corpus}", recalls[COUNTING], "by each of them")]
    for name, own in seconds.items():
        versus = None if name in (STREAMING, SEVERAL_EACH) else STREAMING + corpus
        ratio = None if versus is None else float(np.median(seconds[STREAMING] / own))
        rate = num_queries / float(np.median(own))
        found.append(Measurement(name + corpus, rate, "queries/s", versus, ratio=ratio))
    return found


@benchmark(code=["tfrs_twotower/evaluation"])
def main(quick: bool) -> list[Measurement]:
    rounds = 3 if quick else 5
    return [
        found
        for corpus_size, sizes in CORPORA.items()
        for found in measure(corpus_size, sizes[0] if quick else sizes[1], rounds)
    ]


if __name__ == "__main__":
    main()
