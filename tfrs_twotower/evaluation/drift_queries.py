"""The queries of a server's request log, encoded as the towers read them, for drift to count."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfrs_twotower.data.prepared import Arrays, PreparedData
from tfrs_twotower.datasets.impressions import damaged, log_files, prediction_logs
from tfrs_twotower.evaluation.drift_counts import GROUP, NUM_GROUPS
from tfrs_twotower.keras import tf

BATCH = 4096

# Records of a log without a query.
OTHER_INPUTS = "other_inputs"


class ServedQueries:
    """The queries of a request log. Its counts stand once it has been iterated over.

    Attributes:
        num_queries: Rows of all requests.
        skipped: Records left out, by reason: "other_inputs", which ask with something else than all
            features of the query and the context, such as those of the candidate tower.
    """

    def __init__(self, logs: str | Path, data: PreparedData) -> None:
        """Finds the files of a log.

        Args:
            logs: The folder of the log.
            data: Its features, vocabularies and ids of queries are those that count.

        Raises:
            UserError: If there are no files.
        """
        self._files = log_files(logs)
        self._encoder = data.query_encoder()
        own_id = data.config.query_id
        self._id = own_id.name if own_id else None
        self.num_queries = 0
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Arrays]:
        """Batches of encoded features, with the group of each query.

        Queries of one id have one group, by the hash that the ids of a prepared folder have; those
        without an id are each by itself.

        Raises:
            UserError: If a file is damaged.
        """
        self.num_queries = 0
        self.skipped.clear()
        waiting: list[Arrays] = []
        num_waiting = 0
        for raw in self._requests():
            waiting.append(raw)
            num_waiting += _num_rows(raw)
            if num_waiting >= BATCH:
                yield self._encoded(waiting)
                waiting, num_waiting = [], 0
        if waiting:
            yield self._encoded(waiting)

    def _requests(self) -> Iterator[Arrays]:
        """The raw features of each request."""
        for path in self._files:
            for log in prediction_logs(path):
                try:
                    raw = self._features(log.predict_log.request.inputs)
                except (TypeError, ValueError) as error:
                    raise damaged(path) from error
                if raw is None:
                    self.skipped[OTHER_INPUTS] += 1
                else:
                    yield raw

    def _features(self, inputs: Mapping[str, Any]) -> Arrays | None:
        """The features among the inputs; None where one is lacking or of another type.

        What else a request carries, such as k and rules, is no feature.
        """
        raw = {}
        for name, spec in self._encoder.raw_specs.items():
            if name not in inputs or inputs[name].dtype != spec.dtype.as_datatype_enum:
                return None
            raw[name] = tf.make_ndarray(inputs[name])
            if not spec.shape.is_compatible_with(raw[name].shape):
                return None
        return raw

    def _encoded(self, requests: Sequence[Arrays]) -> Arrays:
        raw = {
            name: np.concatenate(_to_one_width([request[name] for request in requests]))
            for name in requests[0]
        }
        num_rows = _num_rows(raw)
        groups = np.arange(self.num_queries, self.num_queries + num_rows) % NUM_GROUPS
        if self._id is not None:
            ids = raw[self._id]
            hashed = tf.strings.to_hash_bucket_fast(tf.constant(ids), NUM_GROUPS).numpy()
            groups = np.where(ids == b"", groups, hashed)
        self.num_queries += num_rows
        encoded = {name: values.numpy() for name, values in self._encoder(raw).items()}
        return {**encoded, GROUP: groups}


def _num_rows(raw: Arrays) -> int:
    return len(next(iter(raw.values())))


def _to_one_width(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Lists of text filled up with "", which is ignored; of other inputs the width is fixed."""
    if arrays[0].ndim == 1:
        return arrays
    width = max(array.shape[1] for array in arrays)
    return [
        np.pad(array, [(0, 0), (0, width - array.shape[1])], constant_values=b"")
        if array.shape[1] < width
        else array
        for array in arrays
    ]
