"""Which candidates stay what they were, and that only the others are embedded."""

import numpy as np
import pyarrow as pa
import pytest

from tfrs_twotower.publishing import unchanged
from tfrs_twotower.publishing.indexes import vectors
from tfrs_twotower.publishing.unchanged import embed_changed, same_values
from tfrs_twotower.schema.features import Id, Number

NAN = float("nan")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(["a", "b", None, None], ["a", "c", None, "d"], [1, 0, 1, 0], id="text"),
        pytest.param([1.0, NAN, NAN, None], [1.0, NAN, 2.0, None], [1, 1, 0, 1], id="numbers"),
        pytest.param(
            [["a", "b"], [], None, ["c"], ["d"]],
            [["a", "b"], [], None, ["c", "c"], ["e"]],
            [1, 1, 1, 0, 0],
            id="lists",
        ),
        pytest.param([[], None], [None, []], [0, 0], id="missing-lists"),
    ],
)
def test_values_are_compared_row_by_row(first, second, expected):
    assert same_values(pa.array(first), pa.array(second)).tolist() == [bool(x) for x in expected]


def test_the_form_that_arrow_keeps_them_in_does_not_matter():
    text = pa.array(["a", None, "b"])
    numbers = pa.array([1.5, 2.5], pa.float32())
    lists = pa.array([[1.0, 2.0], None, [3.0, NAN]])

    assert same_values(text, text.dictionary_encode()).all()
    assert same_values(numbers, numbers.cast(pa.float64())).all()
    assert same_values(
        lists.cast(pa.list_(pa.float64(), 2)), lists.cast(pa.large_list(pa.float32()))
    ).all()
    assert not same_values(numbers, pa.array(["x", "y"])).any()
    assert same_values(pa.array([], pa.string()), pa.array([], pa.string())).shape == (0,)
    assert same_values(text, text).dtype == np.bool_


def test_only_new_and_changed_candidates_are_embedded(monkeypatch):
    stored = np.eye(4, dtype=np.float32)
    earlier = pa.table(
        {
            "candidate_id": ["a", "b", "c", "d"],
            "embedding": vectors(stored),
            "price": [1.0, 2.0, 3.0, 4.0],
            "shop": ["x", "x", "x", "x"],
        }
    )
    table = pa.table(
        {
            "candidate_id": ["a", "b", "d", "e"],
            "price": [1.0, 9.0, 9.0, 1.0],
            "shop": ["y", "x", "x", "x"],  # No feature: its change changes no embedding.
        }
    )
    others = np.full([3, 4], 0.5, np.float32)
    others[1] = stored[3] + 1e-7  # The price of d makes no difference.
    asked = []

    def embed(tower, features, rows):
        asked.extend(rows["candidate_id"].to_pylist())
        return others

    monkeypatch.setattr(unchanged, "embed_candidates", embed)

    found = embed_changed(
        None, {"item_id": Id(kind="id"), "price": Number(kind="number")}, table, earlier
    )

    assert asked == ["b", "d", "e"]
    assert found.earlier_rows.tolist() == [0, 1, 3, -1]
    assert found.is_same.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(found.embeddings, [stored[0], others[0], stored[3], others[2]])
