"""Raw values -> rows and numbers, as TensorFlow ops.

The pipeline encodes with these ops when it writes records, the exported models encode with them
when they answer: what is trained on is what is served. See `tfrs_twotower.schema.features` for the
raw and encoded form of each kind.
"""

import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import tensorflow as tf

from tfrs_twotower.schema.features import (
    WITH_VOCABULARY,
    Boolean,
    Categorical,
    Feature,
    Fill,
    History,
    Id,
    MultiCategorical,
    Number,
    Text,
    Timestamp,
    Vector,
)

PADDING_ROW = 0
FIRST_OOV_ROW = 1
SECONDS_PER_HOUR, SECONDS_PER_DAY = 3600, 86400
TIMESTAMP_PART_ROWS = {"hour": 1 + 24, "weekday": 1 + 7}
LAST_YEAR_OF_OFFSETS = 2100


def raw_spec(feature: Feature, name: str) -> tf.TensorSpec:
    """The tensor that a serving request and the pipeline give for a feature, batch first."""
    if isinstance(feature, MultiCategorical | History):
        return tf.TensorSpec([None, None], tf.string, name)
    if isinstance(feature, Number | Boolean):
        return tf.TensorSpec([None], tf.float32, name)
    if isinstance(feature, Vector):
        return tf.TensorSpec([None, feature.dimension], tf.float32, name)
    if isinstance(feature, Timestamp):
        return tf.TensorSpec([None], tf.int64, name)
    return tf.TensorSpec([None], tf.string, name)


def encoded_spec(feature: Feature, name: str) -> tf.TensorSpec:
    """The tensor that a training record holds for a feature, batch first."""
    if isinstance(feature, Number | Boolean):
        return tf.TensorSpec([None], tf.float32, name)
    if isinstance(feature, Vector):
        return tf.TensorSpec([None, feature.dimension], tf.float32, name)
    if isinstance(feature, MultiCategorical | Text):
        return tf.TensorSpec([None, feature.max_length], tf.int64, name)
    if isinstance(feature, History):
        return tf.TensorSpec([None, feature.length], tf.int64, name)
    if isinstance(feature, Timestamp):
        return tf.TensorSpec([None, len(feature.parts)], tf.int64, name)
    return tf.TensorSpec([None], tf.int64, name)


def missing_value(feature: Feature) -> str | float | int:
    """The raw value that stands for "not known" in a request."""
    if isinstance(feature, Number | Boolean | Vector):
        return float("nan")
    return 0 if isinstance(feature, Timestamp) else ""


class Vocabulary(tf.Module):
    """Tokens -> rows: padding, then out-of-vocabulary buckets, then the file's tokens in order.

    Looks up in a static table that a SavedModel carries as an asset.
    """

    def __init__(self, path: str | Path, oov_buckets: int) -> None:
        """Opens a vocabulary file.

        Args:
            path: UTF-8 text, one token a line; any filesystem TensorFlow reads.
            oov_buckets: How many rows share the tokens that the file does not list.
        """
        super().__init__()
        self._oov_buckets = oov_buckets
        self._is_empty = tf.io.gfile.stat(str(path)).length == 0
        self._table = tf.lookup.StaticHashTable(
            # TensorFlow has no empty table: this one holds the missing token alone.
            tf.lookup.KeyValueTensorInitializer([""], [-1], tf.string, tf.int64)
            if self._is_empty
            else tf.lookup.TextFileInitializer(
                str(path),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            default_value=-1,
        )

    @property
    def num_rows(self) -> int:
        """Padding, out-of-vocabulary buckets and tokens together."""
        num_tokens = 0 if self._is_empty else int(self._table.size())
        return FIRST_OOV_ROW + self._oov_buckets + num_tokens

    def __call__(self, tokens: tf.Tensor) -> tf.Tensor:
        """Looks tokens up.

        Args:
            tokens: String tensor of any shape; "" is missing.

        Returns:
            int64 rows of the same shape.
        """
        tokens = tf.convert_to_tensor(tokens, tf.string)
        line = self._table.lookup(tokens)
        hashed = tf.strings.to_hash_bucket_fast(tokens, self._oov_buckets)
        known = FIRST_OOV_ROW + self._oov_buckets + line
        rows = tf.where(line >= 0, known, FIRST_OOV_ROW + hashed)
        return tf.where(tokens == "", tf.constant(PADDING_ROW, tf.int64), rows)


class Encoder(tf.Module):
    """Encodes the raw features of one side, or of a part of it."""

    def __init__(
        self,
        features: Mapping[str, Feature],
        vocabulary_dir: str | Path,
        candidate_id: tuple[str, Id] | None = None,
    ) -> None:
        """Opens the vocabularies that the features need.

        Args:
            features: Features by name.
            vocabulary_dir: Folder with `<feature>.txt` for each feature that has a vocabulary.
            candidate_id: Name and feature of the candidate's id, whose rows a history holds, or
                those of `<history>.txt` where it has `candidate_features`; needed where the
                features have a history.
        """
        super().__init__()
        self._features = dict(features)
        self._vocabularies: dict[str, Vocabulary] = {}
        self._utc_offsets: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}
        for name, feature in self._features.items():
            if isinstance(feature, History):
                if candidate_id is None:
                    raise ValueError("a history needs `candidate_id`")
                source = name if feature.candidate_features else candidate_id[0]
                oov_buckets = candidate_id[1].oov_buckets
            elif isinstance(feature, WITH_VOCABULARY):
                source, oov_buckets = name, feature.oov_buckets
            elif isinstance(feature, Timestamp):
                self._utc_offsets[name] = _utc_offsets(feature.time_zone)
                continue
            else:
                continue
            path = f"{vocabulary_dir}/{source}.txt"
            self._vocabularies[name] = Vocabulary(path, oov_buckets)

    @property
    def raw_specs(self) -> dict[str, tf.TensorSpec]:
        """`raw_spec` of each feature, by name."""
        return {name: raw_spec(feature, name) for name, feature in self._features.items()}

    @property
    def encoded_specs(self) -> dict[str, tf.TensorSpec]:
        """`encoded_spec` of each feature, by name."""
        return {name: encoded_spec(feature, name) for name, feature in self._features.items()}

    def num_rows(self, name: str) -> int:
        """How many rows an embedding table of the feature needs."""
        feature = self._features[name]
        if isinstance(feature, Text):
            return FIRST_OOV_ROW + feature.buckets
        return self._vocabularies[name].num_rows

    @tf.autograph.experimental.do_not_convert  # AutoGraph does not know `match`.
    def __call__(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Encodes a batch.

        Args:
            raw: At least the features of this encoder, shaped as in `raw_specs`.

        Returns:
            Encoded features by name, shaped as in `encoded_specs`.
        """
        encoded = {}
        for name, feature in self._features.items():
            values = tf.convert_to_tensor(raw[name], raw_spec(feature, name).dtype)
            encoded[name] = self._encode(name, feature, values)
        return encoded

    def _encode(self, name: str, feature: Feature, raw: tf.Tensor) -> tf.Tensor:
        raw = _fill(feature, raw)
        match feature:
            case Id() | Categorical():
                return self._vocabularies[name](raw)
            case MultiCategorical():
                rows = self._vocabularies[name](_pack(raw))
                return _fit(rows[:, : feature.max_length], feature.max_length)
            case History():
                rows = self._vocabularies[name](_pack(raw))
                return _fit(_last(rows, feature.length), feature.length)
            case Text():
                return _hashed_words(raw, feature)
            case Timestamp():
                return _timestamp_parts(raw, feature, *self._utc_offsets[name])
            case Number() | Boolean() | Vector():
                return tf.cast(raw, tf.float32)


def _fill(feature: Feature, raw: tf.Tensor) -> tf.Tensor:
    if not isinstance(feature.missing, Fill):
        return raw
    value = feature.missing.fill
    match feature:
        case Number() | Boolean():
            return tf.where(tf.math.is_nan(raw), tf.constant(float(value), tf.float32), raw)
        case MultiCategorical():
            is_empty = tf.reduce_all(raw == "", axis=1, keepdims=True)
            first = tf.where(is_empty, str(value), "")
            return tf.concat([first, raw], axis=1)
        case _:
            return tf.where(raw == "", str(value), raw)


def _pack(tokens: tf.Tensor) -> tf.Tensor:
    """Moves the tokens of each row to its front, in order; "" may stand anywhere."""
    ragged = tf.ragged.boolean_mask(tokens, tokens != "")
    return ragged.to_tensor("")


def _last(rows: tf.Tensor, length: int) -> tf.Tensor:
    """The last `length` of each row's leading non-padding values."""
    counts = tf.math.count_nonzero(rows, axis=1, keepdims=True)
    columns = tf.range(tf.minimum(length, tf.shape(rows)[1]), dtype=tf.int64)
    source = columns + tf.maximum(counts - length, 0)
    return tf.gather(rows, source, batch_dims=1)


def _fit(rows: tf.Tensor, length: int) -> tf.Tensor:
    """Pads the second axis with `PADDING_ROW` to `length`."""
    rows = tf.pad(rows, [[0, 0], [0, length - tf.shape(rows)[1]]])
    return tf.ensure_shape(rows, [None, length])


def _hashed_words(text: tf.Tensor, feature: Text) -> tf.Tensor:
    lowered = tf.strings.lower(text, encoding="utf-8")
    words = tf.strings.split(tf.strings.regex_replace(lowered, r"[^\p{L}\p{M}\p{N}]+", " "))
    rows = FIRST_OOV_ROW + tf.strings.to_hash_bucket_fast(words.values, feature.buckets)
    return tf.ensure_shape(
        words.with_values(rows).to_tensor(shape=[None, feature.max_length]),
        [None, feature.max_length],
    )


def _utc_offsets(time_zone: str) -> tuple[tf.Tensor, tf.Tensor]:
    """When the zone's distance from UTC changes: moments and, one longer, distances (seconds)."""
    zone = zoneinfo.ZoneInfo(time_zone)

    def offset(second: int) -> int:
        moment = datetime.fromtimestamp(second, UTC).astimezone(zone)
        return int((moment.utcoffset() or timedelta()).total_seconds())

    moments, distances = [], [offset(0)]
    end = int(datetime(LAST_YEAR_OF_OFFSETS, 1, 1, tzinfo=UTC).timestamp())
    for day in range(0, end, SECONDS_PER_DAY):
        if offset(day + SECONDS_PER_DAY) == distances[-1]:
            continue
        low, high = day, day + SECONDS_PER_DAY
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == distances[-1] else (low, middle)
        moments.append(high)
        distances.append(offset(high))
    return tf.constant(moments, tf.int64, [len(moments)]), tf.constant(distances, tf.int64)


def _timestamp_parts(
    second: tf.Tensor, feature: Timestamp, moments: tf.Tensor, distances: tf.Tensor
) -> tf.Tensor:
    local = second + tf.gather(distances, tf.searchsorted(moments, second, side="right"))
    parts = {
        "hour": local // SECONDS_PER_HOUR % 24,
        # 1 January 1970 was a Thursday, three days after a Monday.
        "weekday": (local // SECONDS_PER_DAY + 3) % 7,
    }
    rows = 1 + tf.stack([parts[part] for part in feature.parts], axis=1)
    return tf.where(second[:, tf.newaxis] > 0, rows, PADDING_ROW)
