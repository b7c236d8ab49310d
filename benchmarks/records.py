"""Training records a second: the matrix of bytes of `pipelines.io`, and TensorFlow's own writers.

The records of `prepare.py`: 11 features, a history of 20 among them. Each contestant makes a file
of TFRecords of the same arrays, without compression. Peers: `tf.train.Example` with
`tf.io.TFRecordWriter`, as TensorFlow's guide has it; `tf.io.encode_proto`, which encodes a batch at
once, with the same writer.
"""

import statistics
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from _harness import Measurement, alternate, benchmark

from pipelines.io.example_records import FLOAT, INT, Field, RecordLayout, int_width
from tfrs_twotower.keras import tf

LENGTHS = {"history": 20, "moment": 2}  # Of the others: 1.
INTS = {
    "query_row": 40_000, "candidate_row": 20_000, "timestamp_s": 1_608_000_000, "label": 2,
    "user_id": 40_000, "history": 20_000, "device": 4, "page": 300, "moment": 24,
}  # fmt: skip
FLOATS = ("weight", "dwell")
OURS = "pipelines.io"

Arrays = Mapping[str, np.ndarray]


def draw(num_records: int) -> dict[str, np.ndarray]:
    """`[num_records, length]` int64 or float32 by feature."""
    chance = np.random.default_rng(0)
    values: dict[str, np.ndarray] = {
        name: chance.integers(0, below, [num_records, LENGTHS.get(name, 1)])
        for name, below in INTS.items()
    }
    return values | {name: chance.random([num_records, 1], np.float32) for name in FLOATS}


def write_matrix(values: Arrays, path: Path) -> None:
    """Ours."""
    fields = [Field(name, FLOAT, 1) for name in FLOATS]
    for name, below in INTS.items():
        fields.append(Field(name, INT, LENGTHS.get(name, 1), int_width(below - 1)))
    path.write_bytes(RecordLayout(fields).encode(values).data)


def write_messages(values: Arrays, path: Path) -> None:
    """One `tf.train.Example` after the other."""
    columns = {name: column.tolist() for name, column in values.items()}

    def examples() -> Iterable[bytes]:
        for row in range(len(values["label"])):
            features = {}
            for name, column in columns.items():
                if name in FLOATS:
                    one = tf.train.Feature(float_list=tf.train.FloatList(value=column[row]))
                else:
                    one = tf.train.Feature(int64_list=tf.train.Int64List(value=column[row]))
                features[name] = one
            example = tf.train.Example(features=tf.train.Features(feature=features))
            yield example.SerializeToString()

    write(examples(), path)


def write_encoded(values: Arrays, path: Path) -> None:
    """`tf.io.encode_proto`, from the values of a feature up to the example."""
    num_records = len(values["label"])

    def message(kind: str, **fields: tf.Tensor) -> tf.Tensor:
        names, given = list(fields), list(fields.values())
        sizes = tf.constant([[tensor.shape[1] for tensor in given]] * num_records, tf.int32)
        return tf.io.encode_proto(sizes, given, names, f"tensorflow.{kind}")

    entries = []
    for name, column in values.items():
        kind, place = ("FloatList", "float_list") if name in FLOATS else ("Int64List", "int64_list")
        of_values = message(kind, value=tf.constant(column))
        feature = message("Feature", **{place: of_values[:, tf.newaxis]})
        key = tf.fill([num_records, 1], name)
        entries.append(message("Features.FeatureEntry", key=key, value=feature[:, tf.newaxis]))
    features = message("Features", feature=tf.stack(entries, axis=1))
    examples = message("Example", features=features[:, tf.newaxis])
    write(examples.numpy().tolist(), path)


def write(examples: Iterable[bytes], path: Path) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            writer.write(example)


def read(path: Path, features: Iterable[str]) -> list[list[list[float]]]:
    """All values of a file, by feature."""
    spec = {
        name: tf.io.FixedLenFeature(
            [LENGTHS.get(name, 1)], tf.float32 if name in FLOATS else tf.int64
        )
        for name in features
    }
    [batch] = tf.data.TFRecordDataset(str(path)).batch(1 << 20).take(1)
    parsed = tf.io.parse_example(batch, spec)
    return [parsed[name].numpy().tolist() for name in features]


@benchmark(code=["pipelines/io"])
def main(quick: bool) -> list[Measurement]:
    num_records, rounds = (20_000, 3) if quick else (100_000, 5)
    values = draw(num_records)
    contestants = {
        OURS: write_matrix,
        "tf.train.Example": write_messages,
        "tf.io.encode_proto": write_encoded,
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in contestants}
        seconds = alternate(
            {
                name: lambda name=name, run=run: run(values, paths[name])
                for name, run in contestants.items()
            },
            rounds,
        )
        first, *others = (read(path, values) for path in paths.values())
        assert all(other == first for other in others)
    rates = {name: num_records / statistics.median(times) for name, times in seconds.items()}
    ours = rates.pop(OURS)
    return [
        Measurement(f"{OURS}, {num_records:,} records", ours, "records/s", name, rate)
        for name, rate in rates.items()
    ]


if __name__ == "__main__":
    main()
