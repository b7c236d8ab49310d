"""Embeddings on disk: what pandas and TensorBoard's projector read."""

import csv
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.publishing.embedding_store import write_embeddings, write_projector
from tfrs_twotower.schema import UsageError


def test_the_store_is_read_by_the_three_lines_of_the_readme(tiny_run, tmp_path):
    store = write_embeddings(*tiny_run, tmp_path / "STORE")

    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"```python\n(import numpy [^`]*)```", readme)
    read = {}
    exec(lines.replace("STORE", str(store.folder)), read)
    candidates, vectors = read["candidates"], read["vectors"]

    run = load_run(*tiny_run)
    corpus = run.data.corpus()
    assert candidates["candidate_id"].tolist() == corpus.candidate_ids.tolist()
    np.testing.assert_array_equal(vectors, embed(run.model.candidate_tower, corpus.features))
    assert (store.num_candidates, store.embedding_dim) == vectors.shape


def test_a_finished_store_is_not_replaced_unasked(tiny_run, tmp_path):
    write_embeddings(*tiny_run, tmp_path / "store")

    with pytest.raises(UsageError, match="is finished: pass `overwrite=True`"):
        write_embeddings(*tiny_run, tmp_path / "store")
    write_embeddings(*tiny_run, tmp_path / "store", overwrite=True)


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
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    write_projector(pa.table({"candidate_id": ["a"]}), np.ones([1, 2], np.float32), tmp_path / "p")

    config = text_format.Parse(
        (tmp_path / "p" / "projector_config.pbtxt").read_text(), ProjectorConfig()
    )
    for path in (config.embeddings[0].tensor_path, config.embeddings[0].metadata_path):
        assert (tmp_path / "p" / path).exists()
