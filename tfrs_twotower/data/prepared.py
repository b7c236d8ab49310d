"""The prepared folder, read: records -> arrays."""

import copy
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tfrs_twotower.data.remote import RemoteFolder, url_of
from tfrs_twotower.features.encoding import Encoder, Vocabulary, encoded_spec
from tfrs_twotower.features.history_candidates import by_history_row
from tfrs_twotower.keras import tf
from tfrs_twotower.schema import Config, UserError, differences
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.features import WITH_VOCABULARY, Feature, History, NamedFeature, Text
from tfrs_twotower.schema.folders import read_manifest
from tfrs_twotower.schema.prepared import NumberStatistics

Arrays = dict[str, np.ndarray]
MADE_BY = "twotower prepare"
PARSE_BATCH = 4096
MAX_DIFFERENCES_SHOWN = 4
_KEYS = {
    layout.QUERY_ROW: tf.TensorSpec([None], tf.int64),
    layout.CANDIDATE_ROW: tf.TensorSpec([None], tf.int64),
    layout.TIMESTAMP_S: tf.TensorSpec([None], tf.int64),
    layout.LABEL: tf.TensorSpec([None], tf.int64),
    layout.WEIGHT: tf.TensorSpec([None], tf.float32),
}


@dataclass(frozen=True)
class Corpus:
    """Every candidate, by row: encoded features, ids and train counts.

    `features`: arrays with one entry a candidate; `candidate_ids`: `[corpus_size]` str;
    `train_counts`: `[corpus_size]` int64, positives of each candidate that are trained on;
    `history_rows`: `[corpus_size]` int, what each candidate is in a history, where there is one.
    """

    features: Arrays
    candidate_ids: np.ndarray
    train_counts: np.ndarray
    history_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.candidate_ids)

    @property
    def log_q(self) -> np.ndarray:
        """`[corpus_size]` float32: log of each candidate's share of the train positives.

        A candidate without train positive is never drawn as a positive; it gets the value of half
        a positive, so that it may still be scored or drawn uniformly.
        """
        counts = np.maximum(self.train_counts, 0.5)
        return np.log(counts / max(self.train_counts.sum(), 1)).astype(np.float32)


class PreparedData:
    """A finished prepared folder."""

    def __init__(self, folder: str | Path, config: Config) -> None:
        """Opens the folder.

        Args:
            folder: What `twotower prepare` wrote; may be on `gs://` or `s3://`.
            config: Must describe the same records; `config` of the instance is this one with
                `training.batch_size` filled in.

        Raises:
            UserError: If the folder is missing, unfinished, or holds records of another schema.
        """
        url = url_of(folder)
        self.folder: Path | str = Path(folder) if url is None else url
        self.config = config
        if url is None:
            self.manifest = read_manifest(folder, kind="prepared", made_by=MADE_BY)
            self._remote: RemoteFolder | None = None
        else:
            self._remote = RemoteFolder(url)
            self.manifest = self._remote.read_manifest(kind="prepared", made_by=MADE_BY)
        self.training_splits: tuple[str, ...] = ("train",)
        self._check_schema()
        # Once, by the train split: a refit takes the same.
        self.config = config.with_batch_size(self.batch_size)
        vocabularies = self.files(layout.VOCABULARIES)
        self.vocabulary_dir = vocabularies[0].parent if vocabularies else Path(self.folder)
        [statistics] = self.files(layout.STATISTICS)
        self._statistics = json.loads(statistics.read_text("utf-8"))

    def _check_schema(self) -> None:
        layout.check_format(self.manifest, self.folder, MADE_BY)
        ours = json.loads(json.dumps(self.config.record_schema()))
        found = differences(self.manifest["record_schema"], ours)
        if found:
            shown = "; ".join(
                f"{path}: {theirs!r} in the folder, {mine!r} in the config"
                for path, theirs, mine in found[:MAX_DIFFERENCES_SHOWN]
            )
            more = f"; and {len(found) - MAX_DIFFERENCES_SHOWN} more" if found[4:] else ""
            raise UserError(
                f"{self.folder} was prepared with another schema: {shown}{more}\n"
                f"Prepare the data with this config (`{MADE_BY}`), or use the config it was "
                "prepared with."
            )

    def with_vocabularies(self, folder: Path) -> "PreparedData":
        """The same data beside other vocabulary files, for a model that was built for those."""
        other = copy.copy(self)
        other.vocabulary_dir = folder
        return other

    def with_numbers_of(self, other: "PreparedData") -> "PreparedData":
        """The same data, numbers normalised as in another folder, whose model is to read them."""
        changed = copy.copy(self)
        changed._statistics = {**self._statistics, "numbers": other._statistics["numbers"]}
        return changed

    def with_validation_in_training(self) -> "PreparedData":
        """The same data, whose validation split counts among what is trained on.

        Examples, counts and known positives follow; vocabularies and the statistics of numbers stay
        those of the train split, and so does what an encoded feature means.
        """
        other = copy.copy(self)
        other.training_splits = ("train", "validation")
        return other

    @property
    def num_examples(self) -> int:
        """Examples that an epoch steps through: positives, and for `bce` those of label 0."""
        kinds = ("positives", "negatives") if self.config.loss.kind == "bce" else ("positives",)
        of_splits = self.manifest["counts"]["examples"]
        return sum(of_splits[split][kind] for split in self.training_splits for kind in kinds)

    @property
    def batch_size(self) -> int:
        """Examples of a step."""
        return self.config.training.batch_size_for(self.num_examples)

    def num_rows(self) -> dict[str, int]:
        """Rows of the embedding table of each feature that has one, by name."""
        sides = (
            (self.config.query_features, self.query_encoder()),
            (self.config.candidate_features, self.candidate_encoder()),
        )
        return {
            name: encoder.num_rows(name)
            for features, encoder in sides
            for name, feature in features.items()
            if isinstance(feature, (*WITH_VOCABULARY, Text))
        }

    @property
    def number_statistics(self) -> dict[str, NumberStatistics]:
        """Statistics of the number features by name."""
        numbers: dict[str, dict[str, Any]] = self._statistics["numbers"]
        return {name: NumberStatistics(**values) for name, values in numbers.items()}

    def query_encoder(self) -> Encoder:
        """Raw query and context features -> encoded."""
        config = self.config
        return Encoder(config.query_features, self.vocabulary_dir, config.candidate_id)

    def candidate_encoder(self) -> Encoder:
        """Raw candidate features -> encoded."""
        return Encoder(self.config.candidate_features, self.vocabulary_dir)

    def corpus(self) -> Corpus:
        """Reads every candidate, in the order of rows."""
        specs = {
            layout.CANDIDATE_ROW: tf.TensorSpec([None], tf.int64),
            layout.CANDIDATE_ID: tf.TensorSpec([None], tf.string),
            **_specs(self.config.candidate_features),
        }
        records = _read_records(self.files(layout.CANDIDATES), specs)
        order = np.argsort(records.pop(layout.CANDIDATE_ROW))
        ids = np.char.decode(records.pop(layout.CANDIDATE_ID).astype(bytes)[order], "utf-8")
        of_train = self._statistics["candidate_train_counts"]
        counts = np.array([of_train[candidate_id] for candidate_id in ids], np.int64)
        for _, rows in self._later_positives():
            counts += np.bincount(rows, minlength=len(ids))
        features = {name: values[order] for name, values in records.items()}
        return Corpus(features, ids, counts, self._history_rows(ids, features))

    def history_candidates(self) -> Arrays:
        """Encoded candidates by their rows in a history, see `by_history_row`.

        Empty where a history reads ids alone.
        """
        features = self.config.history_candidate_features
        if not features:
            return {}
        corpus, num_rows = self.corpus(), self._history_vocabulary().num_rows
        return by_history_row(
            features, self.vocabulary_dir, num_rows, corpus.history_rows, corpus.features
        )

    def _history_rows(self, candidate_ids: np.ndarray, features: Arrays) -> np.ndarray:
        if self.config.history is None or self.config.candidate_id is None:
            return np.zeros(0, np.int32)
        if not self.config.history_candidate_features:
            return features[self.config.candidate_id.name]
        rows: np.ndarray = self._history_vocabulary()(candidate_ids).numpy()
        return rows.astype(np.int32)

    def _history_vocabulary(self) -> Vocabulary:
        """Of the rows of a history that reads features of its candidates."""
        assert self.config.candidate_id is not None
        return Vocabulary(
            self.vocabulary_dir / f"{self.config.history_vocabulary}.txt",
            self.config.candidate_id.feature.oov_buckets,
        )

    def candidate_table(self) -> pa.Table:
        """Id, title, attributes and raw features of every candidate, in the order of rows."""
        table = ds.dataset(self.files(layout.CANDIDATE_ATTRIBUTES)).to_table()
        return table.sort_by(layout.CANDIDATE_ROW).drop_columns([layout.CANDIDATE_ROW])

    def query_ids(self) -> np.ndarray:
        """`[num_queries]` str: the id of each query, by query row."""
        files = self.files(layout.QUERIES)
        ids = [
            pq.read_table(path, columns=[layout.QUERY_ID]).column(0).to_pylist() for path in files
        ]
        # Rows follow the order of UTF-8 bytes, which is that of code points.
        return np.array(sorted(itertools.chain.from_iterable(ids)), np.str_)

    def examples(self, split: str) -> Arrays:
        """Reads the examples of a split: encoded features and the keys of the layout.

        The features are those of the query, of the context, and of the candidate its aggregates.
        """
        return self._examples(split, {**_KEYS, **_specs(self._example_features)})

    def batches_of_examples(self, split: str) -> Iterator[Arrays]:
        """Like `examples`, some at a time, where all do not fit into memory."""
        specs = {**_KEYS, **_specs(self._example_features)}
        return _record_batches(self.files(f"{layout.EXAMPLES}/{split}"), specs)

    def batches_of_events(self, split: str) -> Iterator[Arrays]:
        """Like `events`, some at a time."""
        return _record_batches(self.files(f"{layout.EXAMPLES}/{split}"), _KEYS)

    def examples_to_train(self) -> Arrays:
        """Reads the examples to train on, without what training finds for itself.

        Ordered histories are cut from the positives of all queries; only mining reads those stored.
        """
        return self._examples_of_training({**_KEYS, **_specs(self.features_to_train)})

    @property
    def features_to_train(self) -> dict[str, Feature]:
        """The features of `examples_to_train`."""
        features = dict(self._example_features)
        history = ordered_history(self.config)
        if history is not None and not self.config.loss.mined_negatives:
            del features[history.name]
        return features

    @property
    def _example_features(self) -> dict[str, Feature]:
        return {**self.config.query_features, **self.config.event_features}

    def events(self, split: str) -> Arrays:
        """Reads the examples of a split without features: the keys of the layout alone."""
        return self._examples(split, _KEYS)

    def events_to_train(self) -> Arrays:
        """Reads the examples to train on without features."""
        return self._examples_of_training(_KEYS)

    def sequences(self) -> tf.data.Dataset:
        """Reads the train positives of each query in their order, for models of your own.

        Returns:
            One element a query: `query_row` [] and the query features but the history; the other
            keys of the layout, the context features and the candidate's aggregates as ragged
            tensors `[positions, ...]`.
        """
        config = self.config
        once = _specs(
            {n: f for n, f in config.features.query.items() if not isinstance(f, History)}
        )
        once[layout.QUERY_ROW] = tf.TensorSpec([None], tf.int64)
        keys = {
            layout.CANDIDATE_ROW: tf.int64,
            layout.TIMESTAMP_S: tf.int64,
            layout.LABEL: tf.int64,
            layout.WEIGHT: tf.float32,
        }
        repeated = {name: tf.TensorSpec([None], dtype) for name, dtype in keys.items()}
        repeated |= _specs(config.event_features)
        columns: dict[str, Any] = {
            name: tf.io.FixedLenFeature(spec.shape[1:], spec.dtype) for name, spec in once.items()
        }
        columns |= {
            name: tf.io.RaggedFeature(
                spec.dtype,
                partitions=[tf.io.RaggedFeature.UniformRowLength(n) for n in spec.shape[1:]],
            )
            for name, spec in repeated.items()
        }
        files = self.files(layout.TRAIN_SEQUENCES)
        records = tf.data.TFRecordDataset(list(map(str, files)), compression_type="GZIP")
        parsed = records.batch(PARSE_BATCH).map(lambda data: tf.io.parse_example(data, columns))
        return parsed.unbatch()

    def known_positives(self) -> tuple[np.ndarray, np.ndarray]:
        """What is trained on as positive: query rows (ascending) and candidate rows, distinct."""
        tables = [
            pq.read_table(path, columns=[layout.QUERY_ROW, layout.CANDIDATE_ROWS])
            for path in self.files(layout.KNOWN_POSITIVES)
        ]
        query_rows, candidate_rows = [], []
        for table in tables:
            lists = table.column(layout.CANDIDATE_ROWS).combine_chunks()
            lengths = np.diff(lists.offsets.to_numpy())
            query_rows.append(np.repeat(table.column(layout.QUERY_ROW).to_numpy(), lengths))
            candidate_rows.append(lists.flatten().to_numpy())
        for later_queries, later_candidates in self._later_positives():
            query_rows.append(later_queries)
            candidate_rows.append(later_candidates)
        queries, candidates = np.concatenate(query_rows), np.concatenate(candidate_rows)
        order = np.lexsort((candidates, queries))
        pairs = np.stack([queries[order], candidates[order]]).astype(np.int64)
        is_new = np.append(True, (pairs[:, 1:] != pairs[:, :-1]).any(axis=0))
        distinct = pairs[:, is_new[: pairs.shape[1]]]
        return distinct[0], distinct[1]

    def _later_positives(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Query and candidate rows of the positives of what is trained on beside train."""
        for split in self.training_splits[1:]:
            events = self.events(split)
            is_positive = events[layout.LABEL] == 1
            yield events[layout.QUERY_ROW][is_positive], events[layout.CANDIDATE_ROW][is_positive]

    def _examples_of_training(self, specs: Mapping[str, tf.TensorSpec]) -> Arrays:
        parts = [self._examples(split, specs) for split in self.training_splits]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in specs}

    def _examples(self, split: str, specs: Mapping[str, tf.TensorSpec]) -> Arrays:
        return _read_records(self.files(f"{layout.EXAMPLES}/{split}"), specs)

    def files(self, name: str) -> list[Path]:
        """The files that hold one thing, see `layout.files_of`; local copies of remote ones."""
        paths = layout.files_of(self.manifest, name)
        if self._remote is not None:
            return self._remote.local_files(paths)
        return [Path(self.folder) / path for path in paths]


def ordered_history(config: Config) -> NamedFeature[History] | None:
    """The history, if its encoder reads an order."""
    history = config.history
    return history if history is not None and history.feature.is_ordered else None


def _specs(features: Mapping[str, Feature]) -> dict[str, tf.TensorSpec]:
    return {name: encoded_spec(feature, name) for name, feature in features.items()}


def _read_records(files: list[Path], specs: Mapping[str, tf.TensorSpec]) -> Arrays:
    """Parses all records."""
    read = list(_record_batches(files, specs))
    if not read:
        return {
            name: np.zeros([0, *spec.shape[1:]], spec.dtype.as_numpy_dtype)
            for name, spec in specs.items()
        }
    return {name: np.concatenate([batch[name] for batch in read]) for name in specs}


def _record_batches(files: list[Path], specs: Mapping[str, tf.TensorSpec]) -> Iterator[Arrays]:
    """Parses records batch by batch; int64 values are kept as int32, which hold any row."""
    columns = {
        name: tf.io.FixedLenFeature(spec.shape[1:], spec.dtype) for name, spec in specs.items()
    }

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(serialized, columns)
        keep = {layout.TIMESTAMP_S}  # Seconds from 2038 on exceed int32.
        return {
            name: tf.cast(values, tf.int32)
            if values.dtype == tf.int64 and name not in keep
            else values
            for name, values in parsed.items()
        }

    batches = (
        tf.data.TFRecordDataset(list(map(str, files)), compression_type="GZIP")
        .batch(PARSE_BATCH)
        .map(parse, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(2)
    )
    yield from batches.as_numpy_iterator()
