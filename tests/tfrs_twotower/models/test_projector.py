"""What TensorBoard's embedding projector is given."""

import csv

import numpy as np
import pyarrow as pa
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from tfrs_twotower.models.projector import write_projector


def test_the_projector_gets_a_line_a_candidate_whatever_the_titles_hold(tmp_path):
    attributes = pa.table(
        {
            "candidate_id": ["a", "b", "c"],
            "title": ["Tab\tand\nbreak", 'Quoted "so"', None],
            "genres": [["x", "y"], [], None],
            "content": [[0.5, 1.0], [0.25, 2.0], [0.0, 0.0]],
        }
    )
    embeddings = np.array([[1, 0.5], [-0.25, 0], [1e-7, 2]], np.float32)

    write_projector(attributes, embeddings, tmp_path / "projector")

    text = (tmp_path / "projector" / "metadata.tsv").read_text()
    rows = list(csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows == [
        ["candidate_id", "title", "genres"],
        ["a", "Tab and break", "x | y"],
        ["b", 'Quoted "so"', ""],
        ["c", "", ""],
    ]
    vectors = np.loadtxt(tmp_path / "projector" / "vectors.tsv", delimiter="\t")
    np.testing.assert_allclose(vectors, embeddings, rtol=1e-5)


def test_tensorboard_understands_the_projector_config(tmp_path):
    write_projector(pa.table({"candidate_id": ["a"]}), np.ones([1, 2], np.float32), tmp_path / "p")

    config = text_format.Parse(
        (tmp_path / "p" / "projector_config.pbtxt").read_text(), ProjectorConfig()
    )
    for path in (config.embeddings[0].tensor_path, config.embeddings[0].metadata_path):
        assert (tmp_path / "p" / path).exists()
