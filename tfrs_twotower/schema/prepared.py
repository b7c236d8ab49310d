"""The prepared folder: what `twotower prepare` writes and training reads.

    manifest.json                                        written last; names the files that belong
    run-<id>/examples/{train,validation,test}-*.tfrecord.gz   one record an example
    run-<id>/sequences/train-*.tfrecord.gz               one record a query; ordered data only
    run-<id>/candidates-*.tfrecord.gz                    one record a candidate, encoded features
    run-<id>/candidate_attributes-*.parquet              candidate_id, candidate_row, display
    run-<id>/queries-*.parquet                           one row a query: profile and histories
    run-<id>/known_positives-*.parquet                   train positives by query
    run-<id>/vocabularies/<feature>.txt                  count descending, then token; of a history
                                                         with `candidate_features`: the corpus
    run-<id>/statistics-*.json                           numbers and train counts of candidates
    run-<id>/rejected/*.jsonl                            the first that could not be used, and why

`files` of the manifest lists the files by what they hold, in their order: path from the folder,
rows, bytes and sha256. A reader follows it and nothing else: other files may be of a run that was
killed, or is still at work.

Rows: `candidate_row` is the position of a candidate in the corpus sorted by id (UTF-8 bytes),
`query_row` the position of a query among all queries sorted likewise. Neither is a row of a
vocabulary.

Records are `tf.train.Example`s. Every feature of the config stands under its name in its encoded
form (`tfrs_twotower.schema.features`), rows and numbers flattened; examples hold the query and
context features and the candidate's aggregates as of the moment, candidate records the candidate
features, sequences the query features but the history once, and each context feature and aggregate
once a position. Beside them stand the keys below.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tfrs_twotower.schema.errors import UserError

FORMAT = 2
EXAMPLES, SEQUENCES, VOCABULARIES, REJECTED = "examples", "sequences", "vocabularies", "rejected"
CANDIDATES, CANDIDATE_ATTRIBUTES = "candidates", "candidate_attributes"
QUERIES, KNOWN_POSITIVES = "queries", "known_positives"
STATISTICS = "statistics"
TRAIN_SEQUENCES = f"{SEQUENCES}/train"

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

# In the manifest's `counts.filtered`: events after train, whose candidate is not in the corpus.
NOT_IN_TRAIN = "candidate_not_in_train"
# There as well: events in `split.gap_s`; later histories have them.
IN_GAP = "in_gap"

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


def files_of(manifest: Mapping[str, Any], name: str) -> list[str]:
    """Paths, from the prepared folder, of the files that hold one thing, in their order.

    Args:
        manifest: Of the folder.
        name: What they hold: `examples/<split>`, `TRAIN_SEQUENCES`, `CANDIDATES`, `QUERIES`, ...
    """
    return [file["path"] for file in manifest["files"].get(name, [])]


def check_format(manifest: Mapping[str, Any], folder: object, made_by: str) -> None:
    """Checks that a prepared folder is of the format that this version reads.

    Raises:
        UserError: If it is of another.
    """
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{folder} has format {manifest.get('format')}, this version reads format {FORMAT}: "
            f"prepare the data again with `{made_by}`"
        )
