"""Request logs of a server, written by hand."""

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2


def record(time_s, inputs, outputs, version=7, label=None):
    log = prediction_log_pb2.PredictionLog()
    log.log_metadata.timestamp_secs = time_s
    request, response = log.predict_log.request, log.predict_log.response
    if label:
        request.model_spec.version_label = label
    response.model_spec.name = "retrieval"
    response.model_spec.version.value = version
    for tensors, values in ((request.inputs, inputs), (response.outputs, outputs)):
        for name, value in values.items():
            tensors[name].CopyFrom(tf.make_tensor_proto(value))
    return log.SerializeToString()


def answers(*rows):
    """Recommendations, padded as the server pads them."""
    width = max(map(len, rows))
    return {
        "candidate_ids": [[*row, *[""] * (width - len(row))] for row in rows],
        "valid_count": [len(row) for row in rows],
    }


def write_log(folder, *records, name="retrieval-1.tfrecord.gz"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        for data in records:
            writer.write(data)
    return path
