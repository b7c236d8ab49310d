"""The prepared folder: what `twotower prepare` writes and training reads.

    examples/{train,validation,test}-*.tfrecord.gz   one record an example
    sequences/train-*.tfrecord.gz                    one record a query; ordered data only
    candidates-*.tfrecord.gz                         one record a candidate, encoded features
    candidate_attributes-*.parquet                   candidate_id, candidate_row, display columns
    queries-*.parquet                                one row a query: profile and histories
    known_positives-*.parquet                        train positives by query
    vocabularies/<feature>.txt                       count descending, then token
    statistics.json                                  see `Statistics`
    rejected/*.jsonl                                 what could not be used, and why
    manifest.json                                    written last

Rows: `candidate_row` is the position of a candidate in the corpus sorted by id (UTF-8 bytes),
`query_row` the position of a query among all queries sorted likewise. Neither is a row of a
vocabulary.

Records are `tf.train.Example`s. Every feature of the config stands under its name in its encoded
form (`tfrs_twotower.schema.features`), rows and numbers flattened; examples hold the query and
context features and the candidate's aggregates as of the moment, candidate records the candidate
features, sequences the query features but the history once, and each context feature and aggregate
once a position. Beside them stand the keys below.
"""

from typing import NamedTuple

FORMAT = 1
EXAMPLES, SEQUENCES, VOCABULARIES, REJECTED = "examples", "sequences", "vocabularies", "rejected"
CANDIDATES, CANDIDATE_ATTRIBUTES = "candidates", "candidate_attributes"
QUERIES, KNOWN_POSITIVES = "queries", "known_positives"
STATISTICS_FILE = "statistics.json"

# Keys of example records, one value each; sequences have the last four once a position.
QUERY_ROW, CANDIDATE_ROW = "query_row", "candidate_row"  # int64
TIMESTAMP_S = "timestamp_s"  # int64, Unix seconds; 0 in data without times.
LABEL = "label"  # int64, 1 = positive, 0 = explicit negative; sequences: positives only.
WEIGHT = "weight"  # float32, > 0

# Keys of candidate records beside CANDIDATE_ROW.
CANDIDATE_ID = "candidate_id"  # bytes

# Columns of queries-*.parquet beside the raw query feature columns.
QUERY_ID = "query_id"  # string
HISTORY_TRAIN_END = "history_train_end"  # list<string>, oldest first, as of the end of train
HISTORY_NOW = "history_now"  # list<string>, oldest first, as of the last event

# Column of known_positives-*.parquet beside QUERY_ID and QUERY_ROW.
CANDIDATE_ROWS = "candidate_rows"  # list<int32>, ascending, distinct


class NumberStatistics(NamedTuple):
    """Of one number feature over the train part; missing values do not count."""

    num_values: int
    mean: float
    variance: float  # population variance
    log_mean: float  # of sign(x) * log(1 + |x|)
    log_variance: float
    quantiles: tuple[float, ...]  # 0 %, 10 %, ... 100 %
