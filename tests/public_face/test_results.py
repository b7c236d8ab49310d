"""What the steps return shows itself, and gives its table."""

from pathlib import Path

import pandas as pd
import pytest

import tfrs_twotower as tt
from tfrs_twotower.publishing.release import Check

MANIFEST = {
    "counts": {
        "read": 12,
        "rejected": {"missing_id": 2},
        "examples": {
            "train": {"positives": 7, "negatives": 1},
            "validation": {"positives": 0, "negatives": 0},
            "test": {"positives": 2, "negatives": 0},
        },
    },
    "time_ranges": {"train": [0, 86_400], "test": [172_800, 172_800]},
    "warm_cold": {
        split: {"warm_queries": 1, "cold_queries": 0, "warm_candidates": 2, "cold_candidates": 3}
        for split in ("train", "validation", "test")
    },
    "num_queries": 4,
    "corpus_size": 5,
}
MODELS = {
    "retrieval": {
        "memory_bytes": 2_500_000,
        "custom_ops": ["Scann>ScannSearch"],
        "corpus_size": 1000,
        "recall": {"mean": 0.97, "at": 100},
    },
    "query_tower": {"memory_bytes": 500_000, "custom_ops": []},
}


def version(number: int, *labels: str) -> tt.Version:
    return tt.Version(number, labels, "export", 1000, 0.97, 3_000_000, "digest")


@pytest.mark.parametrize(
    ("result", "title", "shape"),
    [
        pytest.param(
            tt.Prepared("out", MANIFEST),
            "prepared folder out: 4 queries, 5 candidates, 2 of 12 interactions rejected",
            (3, 8),
            id="prepared",
        ),
        pytest.param(
            tt.Export(Path("models"), 2, MODELS),
            "version 2 in models: 1,000 candidates, the index finds 0.9700 of the exact 100 best",
            (2, 2),
            id="export",
        ),
        pytest.param(
            tt.Refresh(Path("models"), 3, 2, 10, 1, 2, 3, MODELS),
            "version 3 in models, refreshed from 2",
            (4, 1),
            id="refresh",
        ),
        pytest.param(
            tt.Gate(3, 2, [Check("memory", "", "1", "")]), "version 3: go", (1, 3), id="go"
        ),
        pytest.param(
            tt.Gate(3, 2, [Check("memory", "", "1", "too much")]),
            "version 3: no-go: too much",
            (1, 3),
            id="no-go",
        ),
        pytest.param(
            tt.Versions([version(1, "stable"), version(2)]), "2 versions", (2, 6), id="versions"
        ),
        pytest.param(
            tt.Recommendations(["b", "a"], [0.5, 0.25], 7, 1200),
            "2 candidates, 1,200 excluded, model version 7",
            (2, 2),
            id="recommendations",
        ),
    ],
)
def test_a_result_shows_its_title_above_its_table(result, title, shape):
    assert repr(result).splitlines()[0] == title
    assert result.to_frame().shape == shape
    assert title in result._repr_html_()
    assert "<table" in result._repr_html_()


def test_the_times_of_a_prepared_folder_are_utc_and_missing_where_a_split_is_empty():
    table = tt.Prepared("out", MANIFEST).to_frame()

    assert table["positives"].to_dict() == {"train": 7, "validation": 0, "test": 2}
    assert table.loc["train", "last"] == pd.Timestamp("1970-01-02", tz="UTC")
    assert table["first"].isna().to_dict() == {"train": False, "validation": True, "test": False}


def test_data_without_times_have_no_columns_of_times():
    table = tt.Prepared("out", {**MANIFEST, "time_ranges": {}}).to_frame()

    assert "first" not in table


def test_ranks_of_recommendations_begin_at_one():
    table = tt.Recommendations(["b", "a"], [0.5, 0.25], 7).to_frame()

    assert table.index.to_list() == [1, 2]
    assert table.loc[1].to_dict() == {"candidate_id": "b", "score": 0.5}
