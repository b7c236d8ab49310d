"""Evaluation: metrics of a run over the whole corpus, beside non-learned baselines.

For embeddings of any model, without a config and folders:

    from tfrs_twotower.evaluation import rank_corpus

    ranking = rank_corpus(user_vectors, item_vectors, positives=[[3, 7], [1]], exclude=[[0], []])
    ranking.metrics(["recall_at_10", "ndcg_at_10"])  # means over the queries with positives
    ranking.top_rows  # [num_queries, k] rows of the best items
"""

from tfrs_twotower.evaluation.corpus_ranking import CorpusRanking, rank_corpus

__all__ = ["CorpusRanking", "rank_corpus"]
