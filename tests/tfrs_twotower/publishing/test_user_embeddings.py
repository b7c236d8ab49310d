"""User embeddings of models without context, and of versions that cannot give them."""

import numpy as np
import pandas as pd
import pytest

from tests.tiny_world import SIZE, query_id
from tfrs_twotower.keras import tf
from tfrs_twotower.publishing import user_embeddings
from tfrs_twotower.publishing.saved_model_reader import LoadedQueryTower
from tfrs_twotower.schema import UserError, parse_config

WITH_CONTEXT = """\
columns: {timestamp: ts}
features:
  query: {user_id: {kind: id}}
  context: {clock: {kind: timestamp}}
  candidate: {item: {kind: id}}
"""


def test_without_context_the_vector_is_the_query_embedding(models, tmp_path):
    count = user_embeddings.write_user_embeddings(models, tmp_path / "users")

    stored = pd.read_parquet(tmp_path / "users" / "part-00000.parquet").set_index("query_id")
    assert count == len(stored) == SIZE
    tower = LoadedQueryTower(models / "query_tower/1")
    expected = tower({"user_id": tf.constant([query_id(3)])}).numpy()[0]
    np.testing.assert_allclose(stored.loc[query_id(3), "query_embedding"], expected, atol=1e-6)


def test_a_version_without_the_signature_is_refused(models, tmp_path, monkeypatch):
    """As exported before the scoring layer's user half was served apart."""
    text = WITH_CONTEXT + "towers: {context_mode: trilinear}\n"
    monkeypatch.setattr(user_embeddings, "read_config", lambda *_: parse_config(text, "here"))

    with pytest.raises(UserError, match="has no signature `user`"):
        user_embeddings.write_user_embeddings(models, tmp_path / "users")

    assert not (tmp_path / "users").exists()
