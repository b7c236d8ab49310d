"""Which version is the newest, and which of its models is preferred."""

import pytest

from tfrs_twotower.schema.models_layout import newest_whole_version, preferred_model


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["retrieval_exact", "query_tower", "retrieval"], "retrieval", id="both"),
        pytest.param(["query_tower", "retrieval_exact"], "retrieval_exact", id="exact alone"),
        pytest.param([], "retrieval_exact", id="none"),
    ],
)
def test_retrieval_is_preferred_where_it_is_there(names, expected):
    assert preferred_model(names) == expected


@pytest.mark.parametrize(
    ("with_retrieval", "exact", "wanting", "expected"),
    [
        pytest.param([1, 2, 10], [1, 2, 10], {1, 2, 10}, 10, id="by number, not by text"),
        pytest.param([], [1, 2], set(), 2, id="none wants it"),
        pytest.param([1], [1, 2], {1}, 2, id="the newer wants none"),
        pytest.param([2], [1, 2], {2}, 2, id="the older wants none"),
        pytest.param([1], [1, 2], {1, 2}, 1, id="the newer is half published"),
        pytest.param([], [1], {1}, None, id="half published alone"),
        pytest.param([3], [], {3}, 3, id="copied without the exact one"),
        pytest.param([], [], set(), None, id="nothing"),
    ],
)
def test_the_newest_whole_version_is_found(with_retrieval, exact, wanting, expected):
    found = {"retrieval": with_retrieval, "retrieval_exact": exact}

    assert newest_whole_version(found, lambda version: version in wanting) == expected
