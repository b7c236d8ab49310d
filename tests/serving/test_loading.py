"""SavedModels, good and broken."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, saved_model_pb2

from serving import loading
from serving.errors import InvalidRequestError, LoadError
from tests.serving import toy_models


@pytest.fixture
def retrieval(models_dir):
    servable = loading.load(models_dir / "retrieval" / "3", "retrieval", 3)
    yield servable
    servable.close()


def inputs(k):
    return {
        "user_id": np.array([b"north"], object),
        "history": np.array([[b""]], object),
        "age": np.zeros(1, np.float32),
        "k": np.array([k], np.int32),
        "exclude_ids": np.array([[b""]], object),
        "allow_ids": np.array([[b""]], object),
    }


def edit(version_path, change):
    """Rewrites a version's saved_model.pb."""
    path = version_path / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(proto.meta_graphs[0])
    path.write_bytes(proto.SerializeToString())


def test_a_signature_runs(retrieval):
    outputs = retrieval.run("recommend", inputs(k=2))

    assert outputs["candidate_ids"].tolist() == [[b"c", b"b"]]
    np.testing.assert_allclose(outputs["scores"], [[1.0, 0.6]], atol=1e-6)


def test_the_written_defaults_are_read(retrieval):
    defaults = retrieval.signatures["recommend"].defaults

    assert {name: value.tolist() for name, value in defaults.items()} == {
        "k": [3],
        "exclude_ids": [[b""]],
        "allow_ids": [[b""]],
    }


@pytest.mark.parametrize("optimize", [True, False])
def test_answers_do_not_depend_on_which_rewrites_are_made(models_dir, optimize):
    path = models_dir / "retrieval" / "3"
    servable = loading.load(path, "retrieval", 3, optimize=optimize)

    outputs = servable.run("recommend", inputs(k=2))

    servable.close()
    assert outputs["candidate_ids"].tolist() == [[b"c", b"b"]]
    np.testing.assert_allclose(outputs["scores"], [[1.0, 0.6]], atol=1e-6)


def test_functions_that_are_not_to_be_rewritten_say_so_themselves():
    graph = tf.Graph()
    with graph.as_default():
        tf.function(lambda x: x + 1)(tf.constant(1))
    graph_def = graph.as_graph_def()
    calls = [node for node in graph_def.node if "PartitionedCall" in node.op]
    assert len(calls) == 1

    loading._leave_functions(graph_def)

    config = config_pb2.ConfigProto.FromString(calls[0].attr["config_proto"].s)
    assert config.graph_options.rewrite_options.disable_meta_optimizer


def test_functions_are_inlined_without_a_rewriter(models_dir):
    servable = loading.load(models_dir / "retrieval" / "3", "retrieval", 3)
    nodes = servable._session.graph.as_graph_def().node
    calls = [node for node in nodes if "PartitionedCall" in node.op]
    options = tf.compat.v1.RunOptions(output_partition_graphs=True)
    metadata, spec = tf.compat.v1.RunMetadata(), servable.signatures["recommend"]
    feeds = dict(zip(spec.feeds, (inputs(k=2)[name] for name in spec.inputs), strict=True))
    servable._session.run(spec.fetches, feeds, options, metadata)
    servable.close()

    run = [node.op for graph in metadata.partition_graphs for node in graph.node]
    assert calls
    assert run
    assert not [op for op in run if "PartitionedCall" in op]


@pytest.mark.parametrize("optimize", [True, False])
def test_what_the_graph_refuses_is_told_in_its_words(models_dir, optimize):
    """TensorFlow names the function that it is in, where that has not been inlined."""
    servable = loading.load(models_dir / "retrieval" / "3", "retrieval", 3, optimize=optimize)
    with pytest.raises(InvalidRequestError) as caught:
        servable.run("recommend", inputs(k=101))
    servable.close()

    said = str(caught.value)
    assert said.startswith("assertion failed: [k must be at most 100]")
    assert "\n" not in said
    assert "node" not in said


def no_file(path):
    (path / "saved_model.pb").unlink()


def not_a_proto(path):
    (path / "saved_model.pb").write_bytes(b"\xff" * 50)


def no_variables(path):
    (path / "variables" / "variables.index").unlink()


def half_the_variables(path):
    data = path / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:10])


def training_only(path):
    def change(graph):
        graph.meta_info_def.tags[:] = ["train"]

    edit(path, change)


def foreign_op(path):
    def change(graph):
        graph.graph_def.node.add(name="foreign", op="Foreign>Op")

    edit(path, change)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(no_file, "is not a SavedModel", id="no saved_model.pb"),
        pytest.param(not_a_proto, "saved_model.pb cannot be parsed", id="not a proto"),
        pytest.param(no_variables, "cannot load", id="no variables"),
        pytest.param(half_the_variables, "cannot load", id="half the variables"),
        pytest.param(training_only, "no graph with the tag `serve`", id="not for serving"),
        pytest.param(foreign_op, "Foreign>Op", id="an op that is not here"),
    ],
)
def test_a_broken_version_is_told_in_one_line(tmp_path, damage, said):
    path = toy_models.write_retrieval(tmp_path, 1)
    damage(path)

    with pytest.raises(LoadError, match=said) as caught:
        loading.load(path, "retrieval", 1)

    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_scann_is_told_with_the_cure(tmp_path, monkeypatch):
    path = toy_models.write_retrieval(tmp_path, 1)
    edit(path, lambda graph: graph.graph_def.node.add(name="s", op="Scann>ScannSearchBatched"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    loading.register_scann_ops.cache_clear()

    with pytest.raises(LoadError, match=r"pip install 'scann\[tf\]"):
        loading.load(path, "retrieval", 1)


WRITE_SCANN_MODEL = """
    import sys
    import tensorflow as tf
    from scann.scann_ops.py import scann_ops

    corpus = tf.one_hot(tf.range(8), 8)
    searcher = scann_ops.builder(corpus, 2, "dot_product").score_brute_force().build()

    class Model(tf.Module):
        def __init__(self):
            self.searcher = searcher.serialize_to_module()

        @tf.function(input_signature=[tf.TensorSpec([None, 8], name="query")])
        def search(self, query):
            handle = self.searcher.recreate_handle()
            rows, _ = scann_ops.scann_search_batched(handle, query, 2, 2, 2, False)
            return {"rows": rows}

    model = Model()
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(model, sys.argv[1], {"serving_default": model.search}, options)
"""

LOAD_SCANN_MODEL = """
    import sys
    import numpy as np
    from serving.loading import load

    servable = load(sys.argv[1], "scann", 1)
    query = np.eye(8, dtype=np.float32)[[5]] + 0.5 * np.eye(8, dtype=np.float32)[[2]]
    print(servable.run("serving_default", {"query": query})["rows"].tolist())
    print("scann" in sys.modules)
"""


@pytest.mark.slow
def test_a_scann_model_loads_in_a_fresh_process_without_the_package(tmp_path):
    def run(code):
        command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "1")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    run(WRITE_SCANN_MODEL)

    assert run(LOAD_SCANN_MODEL).splitlines() == ["[[5, 2]]", "False"]


@pytest.mark.slow
def test_closing_gives_the_memory_back(tmp_path):
    class Large(tf.Module):
        def __init__(self):
            self.weights = tf.Variable(tf.ones([16, 1024, 1024]))  # 64 MB

        @tf.function(input_signature=[tf.TensorSpec([None], name="x")])
        def total(self, x):
            return {"y": x * tf.reduce_sum(self.weights)}

    model = Large()
    tf.saved_model.save(model, str(tmp_path / "1"), {"serving_default": model.total})
    code = """
        import sys
        import numpy as np
        from serving.loading import load

        def resident_mb():
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * 4096 / 2**20

        for turn in range(8):
            servable = load(sys.argv[1], "large", turn)
            servable.run("serving_default", {"x": np.ones(1, np.float32)})
            servable.close()
            del servable
            print(resident_mb())
    """

    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "1")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    resident_mb = [float(line) for line in output.splitlines()]
    assert resident_mb[-1] - resident_mb[1] < 64
