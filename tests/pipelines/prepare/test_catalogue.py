"""Candidates are found by position, whatever their hashes."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.prepare import catalogue as module
from pipelines.prepare.catalogue import Catalogue, catalogue_table


@pytest.mark.parametrize("bits", [64, 1, 0])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_candidates_are_found_in_the_catalogue_by_position(monkeypatch, bits, kind):
    hash_ids = module.hash_ids
    # With fewer bits several candidates have one hash.
    monkeypatch.setattr(module, "hash_ids", lambda ids: hash_ids(ids) & np.uint64(2**bits - 1))
    ids = sorted(["a", "b", "é", "z", "𝄞", "ab"], key=str.encode)
    catalogue = Catalogue(catalogue_table(pa.array(ids, kind)))
    asked = ["é", "x", "a", "𝄞", "", "z", "ab", "b", "é"]

    rows = catalogue.rows(pa.array(asked, pa.string()))

    assert rows.tolist() == [ids.index(one) if one in ids else -1 for one in asked]
    assert catalogue.rows(pa.array([], pa.string())).tolist() == []


def test_nothing_is_known_without_candidates():
    catalogue = Catalogue(catalogue_table(pa.array([], pa.string())))

    assert len(catalogue) == 0
    assert catalogue.rows(pa.array(["a"])).tolist() == [-1]
