"""A partition's events -> training records, histories, known positives, and counts."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.example_records import FLOAT, INT, Field, RecordLayout, int_width
from pipelines.io.report import RANGE, Summary
from pipelines.io.sequence_records import SequenceLayout
from pipelines.io.tables import column, hash_ids, mix
from pipelines.prepare import histories
from pipelines.prepare.encode import encode, record_fields
from pipelines.prepare.job import Corpus
from pipelines.prepare.partitions import QUERY, Partition
from pipelines.prepare.split import IN_GAP, TRAIN, Cutoffs, assign_splits
from pipelines.prepare.validate import (
    CANDIDATE_ROW,
    END_OF_TIME_S,
    FEATURE,
    LABEL,
    ORDER,
    QUERY_ID,
    SPLIT,
    TIMESTAMP_S,
    WEIGHT,
    tokens_of,
)
from tfrs_twotower.features.encoding import PADDING_ROW, Encoder, Vocabulary
from tfrs_twotower.schema import SPLITS, Config
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.features import Feature, History, Id, MultiCategorical, Vector

SLICE_ROWS = 1 << 14
SHOWN_HISTORY = 20  # Length for queries of a model without history, which people still look at.


def split_partition(
    config: Config, partition: Partition, cutoffs: Cutoffs, corpus_hashes: np.ndarray
) -> np.ndarray:
    """`[num_events]` int8 split of each event of a partition.

    Args:
        config: Says how to split.
        partition: Events and queries.
        cutoffs: Of splits by time or date.
        corpus_hashes: `[catalogue_size]` uint64 hashes of the candidate ids.
    """
    events, queries = partition
    of_query = column(events, QUERY).to_numpy()
    given = column(events, SPLIT).to_numpy() if SPLIT in events.column_names else None
    return assign_splits(
        config.split,
        cutoffs,
        timestamps=column(events, TIMESTAMP_S).to_numpy(),
        queries=of_query,
        pair_hashes=_pair_hashes(partition, corpus_hashes),
        given=given,
    )


class Examples:
    """The examples of one partition."""

    def __init__(
        self,
        config: Config,
        partition: Partition,
        splits: np.ndarray,
        query_rows: np.ndarray,
        corpus: Corpus,
    ) -> None:
        """Filters the events and finds what each query had before them.

        Args:
            config: Of the job.
            partition: Events and queries.
            splits: `[num_events]` int8.
            query_rows: `[num_queries]` int64.
            corpus: The candidates; events of others are filtered out.
        """
        in_corpus = corpus.rows[column(partition.events, CANDIDATE_ROW).to_numpy()] >= 0
        self.filtered = {
            layout.NOT_IN_TRAIN: int((~in_corpus).sum()),
            layout.IN_GAP: int((splits[in_corpus] == IN_GAP).sum()),
        }
        events = partition.events
        if not in_corpus.all():
            events = events.filter(pa.array(in_corpus)).combine_chunks()
        self.config, self.corpus = config, corpus
        self.partition = Partition(events, partition.queries)
        self.splits, self.query_rows = splits[in_corpus], query_rows
        self.of_query = column(events, QUERY).to_numpy()
        self.catalogue_rows = column(events, CANDIDATE_ROW).to_numpy()
        self.candidate_rows = corpus.rows[self.catalogue_rows]
        self.labels = column(events, LABEL).to_numpy()
        self.timestamps = column(events, TIMESTAMP_S).to_numpy()
        self.is_positive = self.labels == 1

    @property
    def is_train_positive(self) -> np.ndarray:
        """`[num_events]` bool."""
        return (self.splits == TRAIN) & self.is_positive

    def history_rows(self, length: int) -> np.ndarray:
        """`[num_events, length]` int32 catalogue rows, oldest first, -1 for padding at the end."""
        if self.config.has_order:
            keys = [self.of_query, self.timestamps, self.catalogue_rows]
            if ORDER in self.partition.events.column_names:
                keys.append(column(self.partition.events, ORDER).to_numpy())
            places = histories.before_each(
                self.of_query, histories.groups(*keys), self.is_positive, length
            )
            return _gather(self.catalogue_rows[self.is_positive], places)
        listed, places = histories.leaving_out(
            self.of_query,
            self.catalogue_rows,
            self._pair_hashes(),
            self.is_train_positive,
            self.splits == TRAIN,
            length,
        )
        return _gather(self.catalogue_rows[listed], places)

    def history_at_end(self, is_counted: np.ndarray, length: int) -> np.ndarray:
        """`[num_queries, length]` int32 catalogue rows of the last positives among some events."""
        num_queries = self.partition.queries.num_rows
        if self.config.has_order:
            places = histories.at_end(self.of_query, is_counted, num_queries, length)
            return _gather(self.catalogue_rows[is_counted], places)
        listed, _ = histories.leaving_out(
            self.of_query, self.catalogue_rows, self._pair_hashes(), is_counted, is_counted, length
        )
        of_listed = self.of_query[listed]
        # The first ones by hash, as in the examples: the list is read from its start.
        start = np.searchsorted(of_listed, np.arange(num_queries))
        end = np.searchsorted(of_listed, np.arange(num_queries), side="right")
        places = start[:, np.newaxis] + np.arange(length)
        places = np.where(places < end[:, np.newaxis], places, histories.NOTHING)
        return _gather(self.catalogue_rows[listed], places)

    def _pair_hashes(self) -> np.ndarray:
        return _pair_hashes(self.partition, self.corpus.catalogue.hashes)

    def known_positives(self) -> pa.Table:
        """Queries with train positives: id, row, and the candidate rows, ascending, distinct."""
        is_known = self.is_train_positive
        width = len(self.corpus)
        keys = self.of_query[is_known].astype(np.int64) * width + self.candidate_rows[is_known]
        keys.sort()
        pairs = keys[histories.groups(keys).starts]
        starts = histories.groups(pairs // width).starts
        queries = pairs[starts] // width
        offsets = np.append(starts, len(pairs)).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(pairs % width, pa.int32()))
        return pa.table(
            {
                layout.QUERY_ID: column(self.partition.queries, QUERY_ID).take(pa.array(queries)),
                layout.QUERY_ROW: pa.array(self.query_rows[queries], pa.int64()),
                layout.CANDIDATE_ROWS: lists,
            }
        )

    def queries(self) -> pa.Table:
        """Every query: id, row, profile as it came, histories as of the end of train and now."""
        queries = self.partition.queries
        columns = {
            layout.QUERY_ID: column(queries, QUERY_ID),
            layout.QUERY_ROW: pa.array(self.query_rows, pa.int64()),
        }
        for name, feature in self.config.features.query.items():
            if not isinstance(feature, Id | History):
                columns[name] = readable(feature, column(queries, FEATURE + name))
        history = self.config.history
        length = history.feature.length if history else SHOWN_HISTORY
        for name, is_counted in (
            (layout.HISTORY_TRAIN_END, self.is_train_positive),
            (layout.HISTORY_NOW, self.is_positive),
        ):
            rows = self.history_at_end(is_counted, length)
            offsets = np.concatenate([[0], np.cumsum((rows >= 0).sum(axis=1))]).astype(np.int32)
            ids = self.corpus.catalogue.ids.take(pa.array(rows[rows >= 0]))
            columns[name] = pa.ListArray.from_arrays(pa.array(offsets), ids)
        return pa.table(columns)

    def summary(self) -> Summary:
        """What the examples are, counted."""
        train_positives = np.bincount(
            self.of_query[self.is_train_positive], minlength=self.partition.queries.num_rows
        )
        counts: Summary = {"filtered": {k: v for k, v in self.filtered.items() if v}}
        counts["examples"], counts["queries"], counts["times"] = {}, {}, {}
        for code, split in enumerate(SPLITS):
            of_split = self.splits == code
            positives = int((of_split & self.is_positive).sum())
            counts["examples"][split] = {
                "positives": positives,
                "negatives": int(of_split.sum()) - positives,
            }
            of_query = self.of_query[of_split]
            present = of_query[histories.groups(of_query).starts]
            warm = int((train_positives[present] > 0).sum())
            counts["queries"][split] = {"warm": warm, "cold": len(present) - warm}
            if self.config.columns.timestamp is not None and of_split.any():
                times = self.timestamps[of_split]
                counts["times"][split] = {RANGE: [int(times.min()), int(times.max())]}
        return counts


class ExampleEncoder:
    """Encodes examples into records; made once a worker."""

    def __init__(
        self, config: Config, vocabulary_dir: str, corpus: Corpus, num_queries: int
    ) -> None:
        """Opens the vocabularies and lays the records out.

        Args:
            config: Of the job.
            vocabulary_dir: With all vocabularies.
            corpus: The candidates.
            num_queries: In the whole data set, for the width of query rows.
        """
        self._config = config
        self._profile: dict[str, Feature] = {
            name: feature
            for name, feature in config.features.query.items()
            if not isinstance(feature, History)
        }
        self._of_event = config.event_features
        self._profile_encoder = Encoder(self._profile, vocabulary_dir)
        self._event_encoder = Encoder(self._of_event, vocabulary_dir)
        of_query = [
            Field(layout.QUERY_ROW, INT, 1, int_width(num_queries)),
            *record_fields(self._profile_encoder, self._profile),
        ]
        of_position = [
            Field(layout.CANDIDATE_ROW, INT, 1, int_width(len(corpus))),
            Field(layout.TIMESTAMP_S, INT, 1, int_width(END_OF_TIME_S)),
            Field(layout.LABEL, INT, 1),
            Field(layout.WEIGHT, FLOAT, 1),
            *record_fields(self._event_encoder, self._of_event),
        ]
        self._sequence_layout = SequenceLayout(of_query, of_position)
        self._of_query = [field.name for field in of_query]
        self._of_position = [field.name for field in of_position]
        fields = of_query + of_position
        self._id_rows = np.zeros(0, np.int32)
        if config.history is not None and config.candidate_id is not None:
            vocabulary = Vocabulary(
                f"{vocabulary_dir}/{config.history_vocabulary}.txt",
                config.candidate_id.feature.oov_buckets,
            )
            ids = corpus.catalogue.ids
            # In slices: as Python objects and tensors all ids would take more than all else here.
            encoded = [
                vocabulary(ids[start : start + SLICE_ROWS].to_numpy(zero_copy_only=False))
                for start in range(0, len(ids), SLICE_ROWS)
            ]
            # Rows of one partition's histories are the largest arrays of a worker.
            self._id_rows = np.concatenate(
                [*(rows.numpy() for rows in encoded), [PADDING_ROW]], dtype=np.int32
            )
            width = int_width(vocabulary.num_rows)
            name, history = config.history
            fields.append(Field(name, INT, history.length, width))
        self._layout = RecordLayout(fields)

    def arrays(self, examples: Examples, history_rows: np.ndarray) -> dict[str, np.ndarray]:
        """Encoded features and keys of all examples of a partition, `[num_events, ...]`."""
        config, events = self._config, examples.partition.events
        queries = examples.partition.queries
        profile = {
            name: column(queries, QUERY_ID if isinstance(feature, Id) else FEATURE + name)
            for name, feature in self._profile.items()
        }
        of_query = encode(self._profile_encoder, self._profile, profile)
        of_event = {
            name: column(events, FEATURE + name)
            if FEATURE + name in events.column_names
            else column(events, TIMESTAMP_S)
            for name in self._of_event
        }
        arrays = {
            layout.QUERY_ROW: examples.query_rows[examples.of_query],
            layout.CANDIDATE_ROW: examples.candidate_rows,
            layout.TIMESTAMP_S: examples.timestamps,
            layout.LABEL: examples.labels,
            layout.WEIGHT: column(events, WEIGHT).to_numpy(),
            **{name: values[examples.of_query] for name, values in of_query.items()},
            **encode(self._event_encoder, self._of_event, of_event),
        }
        if config.history is not None:
            arrays[config.history.name] = self._id_rows[history_rows]
        return arrays

    def records(self, arrays: Mapping[str, np.ndarray], chosen: np.ndarray) -> Iterator[np.ndarray]:
        """Framed records of chosen examples, in blocks of `[n, record_bytes]` uint8."""
        for start in range(0, len(chosen), SLICE_ROWS):
            places = chosen[start : start + SLICE_ROWS]
            yield self._layout.encode({name: values[places] for name, values in arrays.items()})

    def sequences(self, arrays: Mapping[str, np.ndarray], chosen: np.ndarray) -> Iterator[bytes]:
        """Records of the sequences of chosen examples, in their order, one a query."""
        starts = histories.groups(arrays[layout.QUERY_ROW][chosen]).starts
        values = {name: arrays[name][chosen] for name in self._of_position}
        values |= {name: arrays[name][chosen[starts]] for name in self._of_query}
        yield from self._sequence_layout.encode(values, np.diff(starts, append=len(chosen)))


def readable(feature: Feature, values: pa.Array) -> pa.Array:
    """A feature's canonical column as people and requests write it: tokens and vectors as lists."""
    if isinstance(feature, Vector):
        # Parquet readers stumble over null in lists of fixed size.
        return pc.cast(values, pa.list_(pa.float32()))
    return tokens_of(values) if isinstance(feature, MultiCategorical) else values


def _pair_hashes(partition: Partition, candidate_hashes: np.ndarray) -> np.ndarray:
    of_queries = hash_ids(column(partition.queries, QUERY_ID))
    queries = column(partition.events, QUERY).to_numpy()
    rows = column(partition.events, CANDIDATE_ROW).to_numpy()
    return mix(of_queries[queries], candidate_hashes[rows])


def _gather(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.append(values.astype(np.int32), np.int32(-1))[places]
