"""Who meets the canary."""

import pytest

from serving.traffic import label_of
from tfrs_twotower.schema import UsageError

IDS = [f"user-{number}" for number in range(10_000)]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_the_canary_meets_its_share_of_the_ids(share):
    met = sum(label_of(name, share) == "canary" for name in IDS)

    # Four standard deviations of a binomial distribution are at most 200.
    assert met == pytest.approx(share * len(IDS), abs=200 if 0 < share < 1 else 0)


def test_an_id_has_the_same_label_in_every_process():
    """Python's own `hash` has not: these places are those of BLAKE2b, 0.17, 0.60, 0.27, 0.89."""
    labels = [label_of(f"user-{number}", 0.5) for number in range(4)]

    assert labels == ["canary", "stable", "canary", "stable"]
    assert [label_of("user-0", share) for share in (0.171, 0.172)] == ["stable", "canary"]


def test_who_is_in_a_small_share_stays_in_a_larger_one():
    small = {name for name in IDS if label_of(name, 0.05) == "canary"}
    large = {name for name in IDS if label_of(name, 0.2) == "canary"}

    assert small < large


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(UsageError, match="between 0 and 1"):
        label_of("ann", share)
