"""Replays the requests that an export carries, so that the first caller does not wait."""

from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving.errors import LoadError, ServingError
from serving.loading import Servable
from serving.predict import Limits, predict

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000  # TF Serving's own limit.


def warm_up(servable: Servable, path: str | Path, limits: Limits) -> int:
    """Sends each recorded Predict request once.

    Args:
        servable: The version, loaded.
        path: Its folder.
        limits: See `predict`.

    Returns:
        How many requests were replayed; 0 without a warm-up file.

    Raises:
        LoadError: If the file is damaged or the model refuses a request of it.
    """
    warmup_path = Path(path) / WARMUP_FILE
    if not warmup_path.exists():
        return 0
    count = 0
    try:
        for record in tf.data.TFRecordDataset(str(warmup_path)).as_numpy_iterator():
            if count == MAX_RECORDS:
                raise LoadError(f"{warmup_path} has more than {MAX_RECORDS} records")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if not log.HasField("predict_log"):
                raise LoadError(f"{warmup_path}: record {count} is not a Predict request")
            predict(servable, log.predict_log.request, limits)
            count += 1
    except (tf.errors.OpError, DecodeError) as error:
        raise LoadError(f"{warmup_path} is damaged after record {count}: export again") from error
    except ServingError as error:
        raise LoadError(f"{warmup_path}: the model refuses record {count}: {error}") from error
    return count
