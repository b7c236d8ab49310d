"""What must be known of the train part before anything can be encoded: counts of values.

Partitions are counted apart; the counts travel as small tables under a key a quantity and are
merged by key.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.tables import column
from pipelines.prepare.number_statistics import COUNT, VALUE, count_values
from pipelines.prepare.partitions import QUERY, Partition
from pipelines.prepare.split import CODES, TRAIN
from pipelines.prepare.validate import (
    CANDIDATE_ROW,
    FEATURE,
    LABEL,
    QUERY_ID,
    tokens_of,
)
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.features import (
    WITH_VOCABULARY,
    Feature,
    History,
    Id,
    MultiCategorical,
    Number,
)

TOKENS, NUMBERS, CANDIDATES = "tokens:", "numbers:", "candidates"
SPLIT_CODE, LABEL_CODE = "split", "label"

CountedPiece = tuple[str, pa.Table]


def empty_pieces(config: Config) -> Iterator[CountedPiece]:
    """One piece without counts for every quantity, so that each is written even without data."""
    for side in ("query", "context", "candidate"):
        for name, feature in getattr(config.features, side).items():
            if isinstance(feature, WITH_VOCABULARY):
                yield TOKENS + name, _counts(pa.array([], pa.string()))
            elif isinstance(feature, Number):
                yield NUMBERS + name, _counts(pa.array([], pa.float32()))
    yield CANDIDATES, _candidate_counts(*(np.zeros(0, np.int64),) * 3)


def count_partition(
    config: Config, partition: Partition, splits: np.ndarray
) -> Iterator[CountedPiece]:
    """Counts what a partition's train part holds.

    Vocabularies of context features and of the query's id count train positives, those of
    profiles queries with a train event; number statistics of context features and of aggregates
    read train events.

    Args:
        config: Names the features.
        partition: Events and queries.
        splits: `[num_events]` split of each event.

    Yields:
        Key of the quantity and counts: of values, or of candidate rows by split and label.
    """
    events, queries = partition
    is_train = splits == TRAIN
    labels = column(events, LABEL).to_numpy()
    rows = column(events, CANDIDATE_ROW).to_numpy()
    codes = (values.astype(np.int64) for values in (rows, splits, labels))
    yield CANDIDATES, _candidate_counts(*codes)
    is_train_positive = is_train & (labels == 1)
    positives = events.filter(pa.array(is_train_positive))
    train = events.filter(pa.array(is_train))
    for name, feature in config.event_features.items():
        if isinstance(feature, WITH_VOCABULARY):
            yield from _count(name, feature, column(positives, FEATURE + name))
        elif isinstance(feature, Number):
            yield from _count(name, feature, column(train, FEATURE + name))
    of_events = column(events, QUERY).to_numpy()
    has_train = np.bincount(of_events[is_train], minlength=queries.num_rows) > 0
    known = queries.filter(pa.array(has_train))
    for name, feature in config.features.query.items():
        if isinstance(feature, Id):
            counts = np.bincount(of_events[is_train_positive], minlength=queries.num_rows)
            table = pa.table({VALUE: column(queries, QUERY_ID), COUNT: pa.array(counts)})
            yield TOKENS + name, table.filter(pa.array(counts > 0))
        elif not isinstance(feature, History):
            yield from _count(name, feature, column(known, FEATURE + name))


def count_candidates(config: Config, candidates: pa.Table) -> Iterator[CountedPiece]:
    """Counts the values of the candidates' features but aggregates, each candidate once.

    Args:
        config: Names the features.
        candidates: As `validate_entities` gives them.

    Yields:
        Key of the quantity and counts of values; the id's come from the train part instead.
    """
    for name, feature in config.features.candidate.items():
        if not isinstance(feature, Id) and name not in config.candidate_aggregates:
            yield from _count(name, feature, column(candidates, FEATURE + name))


def merge_candidate_counts(
    counts: pa.Table, corpus_size: int
) -> Mapping[tuple[int, int], np.ndarray]:
    """`[corpus_size]` int64 events of each candidate, by split and label."""
    rows = column(counts, CANDIDATE_ROW).to_numpy()
    codes = column(counts, SPLIT_CODE).to_numpy(), column(counts, LABEL_CODE).to_numpy()
    weights = column(counts, COUNT).to_numpy()
    merged = {}
    for split in CODES:
        for label in (0, 1):
            of_this = (codes[0] == split) & (codes[1] == label)
            total = np.bincount(rows[of_this], weights[of_this], corpus_size)
            merged[split, label] = total.astype(np.int64)
    return merged


def corpus_rows(counts: Mapping[tuple[int, int], np.ndarray], corpus: str) -> np.ndarray:
    """`[catalogue_size]` int64 rows of the known candidates in the corpus, -1 for no members.

    Args:
        counts: See `merge_candidate_counts`.
        corpus: Which of them are members, see `Job.corpus`.
    """
    is_member = np.ones(len(counts[TRAIN, 0]), bool)
    if corpus != "file":
        splits = CODES if corpus == "log" else [TRAIN]
        events = [counts[split, label] for split in splits for label in (0, 1)]
        is_member = np.sum(events, axis=0) > 0
    return np.where(is_member, np.cumsum(is_member) - 1, -1)


def _count(name: str, feature: Feature, values: pa.Array) -> Iterator[CountedPiece]:
    if isinstance(feature, Number):
        yield NUMBERS + name, count_values(values)
    elif isinstance(feature, WITH_VOCABULARY):
        yield TOKENS + name, _count_tokens(feature, values)


def _count_tokens(feature: Feature, text: pa.Array) -> pa.Table:
    counted = count_values(text)
    distinct = column(counted, VALUE)
    if pa.types.is_dictionary(distinct.type):
        distinct = distinct.dictionary_decode()
    counts = column(counted, COUNT)
    if isinstance(feature, MultiCategorical):
        lists = tokens_of(distinct)
        counts = counts.take(pc.list_parent_indices(lists))
        distinct = lists.flatten()
    table = pa.table({VALUE: distinct, COUNT: counts})
    return table.filter(pc.not_equal(distinct, ""))


def _candidate_counts(rows: np.ndarray, splits: np.ndarray, labels: np.ndarray) -> pa.Table:
    kinds = 2 * len(CODES)
    counted = pc.value_counts(pa.array(rows * kinds + splits * 2 + labels, pa.int64()))
    codes = counted.field(0).to_numpy()
    return pa.table(
        {
            CANDIDATE_ROW: pa.array(codes // kinds, pa.int32()),
            SPLIT_CODE: pa.array(codes % kinds // 2, pa.int8()),
            LABEL_CODE: pa.array(codes % 2, pa.int8()),
            COUNT: counted.field(1),
        }
    )


def _counts(values: pa.Array) -> pa.Table:
    return pa.table({VALUE: values, COUNT: pa.array([], pa.int64())})
