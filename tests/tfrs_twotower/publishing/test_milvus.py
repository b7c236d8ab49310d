"""Candidates in Milvus, by its own engine, Milvus Lite."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tfrs_twotower.publishing.milvus import ALIAS, write_to_milvus
from tfrs_twotower.schema import UserError

pytest.importorskip("pymilvus", reason="needs pip install -e '.[milvus]'")

PAGE = Path(__file__).parents[3] / "docs/howto/milvus.md"


@pytest.fixture(scope="module")
def address(exported_once, tmp_path_factory):
    """Written twice."""
    address = str(tmp_path_factory.mktemp("milvus") / "shop.db")
    write_to_milvus(exported_once, address)
    write_to_milvus(exported_once, address)
    return address


@pytest.mark.slow
def test_the_pages_example_finds_what_the_exact_answer_holds(address, exported_once):
    [lines] = re.findall(r"```python\n([^`]*)```", PAGE.read_text(encoding="utf-8"))
    lines = lines.replace("MODELS", str(exported_once)).replace("shop.db", address)
    read = {}
    exec(lines.replace('"42"', '"user-3"'), read)

    stored = pd.read_parquet(exported_once / "candidates/1")
    scores = np.stack(stored["embedding"]) @ read["embedding"][0]
    best = np.argsort(-scores)[:10]
    assert [hit["candidate_id"] for hit in read["hits"]] == stored["candidate_id"][best].tolist()
    np.testing.assert_allclose([hit["distance"] for hit in read["hits"]], scores[best], rtol=1e-5)


@pytest.mark.slow
def test_a_later_write_takes_the_place_of_the_one_before(address, exported_once):
    from pymilvus import MilvusClient

    client = MilvusClient(address)
    try:
        [name] = client.list_collections()
        found = client.query(ALIAS, filter="", limit=100, output_fields=["*"])
    finally:
        client.close()

    [part] = (exported_once / "candidates/1").iterdir()
    stored = pq.read_table(part).to_pylist()
    assert re.fullmatch(r"candidates_1_[0-9a-f]{32}", name)
    assert len(found) == len(stored)
    by_id = {row["candidate_id"]: row for row in found}
    for row in stored:
        np.testing.assert_array_equal(by_id[row["candidate_id"]]["embedding"], row["embedding"])
        known = {k: v for k, v in row.items() if k != "embedding" and v is not None}
        assert {k: by_id[row["candidate_id"]].get(k) for k in known} == known


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_told_in_a_line(exported_once):
    with pytest.raises(UserError, match="^Milvus refuses: "):
        write_to_milvus(exported_once, "http://127.0.0.1:9")
