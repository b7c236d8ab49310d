"""Embeddings on disk, as pandas reads them."""

import re
from pathlib import Path

import numpy as np
import pytest

from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.publishing.embedding_store import write_embeddings
from tfrs_twotower.schema import UsageError


def test_the_store_is_read_by_the_lines_of_the_documentation(tiny_run, models, tmp_path):
    store = write_embeddings(models, tmp_path / "STORE")

    page = Path(__file__).parents[3] / "docs/howto/index-and-export.md"
    [lines] = re.findall(r"```python\n(import numpy [^`]*)```", page.read_text(encoding="utf-8"))
    read = {}
    exec(lines.replace("STORE", str(store.folder)), read)
    candidates, vectors = read["candidates"], read["vectors"]

    run = load_run(*tiny_run)
    corpus = run.data.corpus()
    assert candidates["candidate_id"].tolist() == corpus.candidate_ids.tolist()
    np.testing.assert_array_equal(vectors, embed(run.model.candidate_tower, corpus.features))
    assert (store.num_candidates, store.embedding_dim) == vectors.shape
    np.testing.assert_array_equal(np.stack(store.to_frame()["embedding"]), vectors)
    assert repr(store).startswith(f"20 embeddings of 8 in {store.folder}")
    assert "embedding " not in repr(store).splitlines()[1]


def test_a_finished_store_is_not_replaced_unasked(models, tmp_path):
    write_embeddings(models, tmp_path / "store")

    with pytest.raises(UsageError, match="is finished: pass `overwrite=True`"):
        write_embeddings(models, tmp_path / "store")
    write_embeddings(models, tmp_path / "store", overwrite=True)
