"""The train positives of each query as one `tf.train.Example` a query.

Records differ in length, so the values of a batch of queries are scattered into one buffer: where
a value stands follows from the numbers of positions of its query and of those before it. Lengths
take a fixed number of bytes, as the integers of `pipelines.io.example_records` do.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipelines.io.example_records import (
    CONTINUES,
    FEATURE_TAGS,
    FIRST_FIELD,
    SECOND_FIELD,
    SEVEN_BITS,
    Field,
    message,
    value_bytes,
)

LENGTH_BYTES = 5  # Of a length in a record: up to 2^35.
BATCH_POSITIONS = 1 << 15


class SequenceLayout:
    """How sequences of some fields lie in bytes."""

    def __init__(self, of_query: Sequence[Field], of_position: Sequence[Field]) -> None:
        """Lays the fields out, sorted by name.

        Args:
            of_query: Fields that a record has once.
            of_position: Fields that a record has once a position, one position after another.
        """
        self._of_position = {field.name for field in of_position}
        self._fields = sorted([*of_query, *of_position])

    def encode(
        self, values: Mapping[str, np.ndarray], num_positions: np.ndarray
    ) -> Iterator[bytes]:
        """Encodes sequences.

        Args:
            values: By field as for `RecordLayout.encode`, a row a query, or a row a position,
                query after query.
            num_positions: `[num_queries]` int64, of each query.

        Yields:
            The record of each query, without framing.
        """
        ends = np.cumsum(num_positions)
        starts = ends - num_positions
        first = 0
        while first < len(ends):
            last = int(np.searchsorted(ends, starts[first] + BATCH_POSITIONS, side="right"))
            last = max(last, first + 1)
            positions = slice(int(starts[first]), int(ends[last - 1]))
            batch = {
                field.name: values[field.name][
                    positions if field.name in self._of_position else slice(first, last)
                ]
                for field in self._fields
            }
            yield from self._encode_batch(batch, num_positions[first:last])
            first = last

    def _encode_batch(
        self, values: Mapping[str, np.ndarray], num_positions: np.ndarray
    ) -> Iterator[bytes]:
        payloads = {field.name: value_bytes(field, values[field.name]) for field in self._fields}
        repeats = {
            field.name: num_positions
            if field.name in self._of_position
            else np.ones_like(num_positions)
            for field in self._fields
        }
        heads = {
            field.name: _head(field, payloads[field.name].shape[1] * repeats[field.name])
            for field in self._fields
        }
        sizes = sum(
            heads[name].shape[1] + payload.shape[1] * repeats[name]
            for name, payload in payloads.items()
        )
        prefix = np.hstack([_tag(FIRST_FIELD, sizes), _varints(sizes)])
        ends = np.cumsum(prefix.shape[1] + sizes)
        data = np.empty(int(ends[-1]), np.uint8)
        place = np.concatenate([[0], ends[:-1]])
        place = _put(data, place, prefix, None)
        for name, payload in payloads.items():
            place = _put(data, place, heads[name], None)
            place = _put(data, place, payload, repeats[name])
        start = 0
        for end in ends.tolist():
            yield data[start:end].tobytes()
            start = end


def _put(
    data: np.ndarray, starts: np.ndarray, rows: np.ndarray, repeats: np.ndarray | None
) -> np.ndarray:
    """Writes rows of bytes from `[n]` starts on, `repeats` rows each; gives `[n]` ends."""
    width = rows.shape[1]
    if repeats is None:
        data[starts[:, np.newaxis] + np.arange(width)] = rows
        return starts + width
    before = np.cumsum(repeats) - repeats
    of_rows = np.repeat(starts - width * before, repeats) + width * np.arange(len(rows))
    data[of_rows[:, np.newaxis] + np.arange(width)] = rows
    return starts + width * repeats


def _head(field: Field, num_bytes: np.ndarray) -> np.ndarray:
    """`[n, head]` uint8: what stands before `[n]` int64 bytes of values in the feature map."""
    of_list = num_bytes + 1 + LENGTH_BYTES
    of_feature = of_list + 1 + LENGTH_BYTES
    key = message(FIRST_FIELD, field.name.encode())
    of_entry = of_feature + len(key) + 1 + LENGTH_BYTES
    keys = np.broadcast_to(np.frombuffer(key, np.uint8), [len(num_bytes), len(key)])
    parts = [_tag(FIRST_FIELD, num_bytes), _varints(of_entry), keys]
    for tag, size in (
        (SECOND_FIELD, of_feature),
        (FEATURE_TAGS[field.kind], of_list),
        (FIRST_FIELD, num_bytes),
    ):
        parts += [_tag(tag, num_bytes), _varints(size)]
    return np.hstack(parts)


def _tag(tag: int, like: np.ndarray) -> np.ndarray:
    return np.full([len(like), 1], tag, np.uint8)


def _varints(sizes: np.ndarray) -> np.ndarray:
    """`[n, LENGTH_BYTES]` uint8 of `[n]` sizes."""
    shifts = 7 * np.arange(LENGTH_BYTES)
    septets = (sizes[:, np.newaxis] >> shifts) & SEVEN_BITS
    septets[:, :-1] |= CONTINUES
    return septets.astype(np.uint8)
