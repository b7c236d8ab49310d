"""Optional inputs keep their defaults in the file, or what a TensorFlow version moved is named."""

from tensorflow.core.protobuf import saved_model_pb2

from tfrs_twotower.keras import tf
from tfrs_twotower.publishing._named_defaults import with_named_defaults


def test_defaults_are_in_the_signature_that_is_written(tmp_path):
    module = tf.Module()
    function = with_named_defaults(
        lambda inputs: {"sum": inputs["a"] + inputs["k"]},
        {"k": tf.TensorSpec([None], tf.int32), "a": tf.TensorSpec([None], tf.int32)},
        {"k": tf.constant([10])},
    )

    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": function})

    proto = saved_model_pb2.SavedModel.FromString((tmp_path / "saved_model.pb").read_bytes())
    signature = proto.meta_graphs[0].signature_def["serving_default"]
    assert signature.inputs.keys() == {"a", "k"}, "TensorFlow no longer reads `__signature__`"
    assert signature.defaults.keys() == {"k"}, "TensorFlow no longer saves positional defaults"
    assert tf.make_ndarray(signature.defaults["k"]).tolist() == [10]
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    assert loaded(a=tf.constant([1]), k=tf.constant([2]))["sum"].numpy().tolist() == [3]
