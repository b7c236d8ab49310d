"""Memory is forecast, and what does not fit is refused."""

import pytest

from tfrs_twotower.index import memory
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.index import Index


def test_an_exact_index_takes_three_copies():
    # 1,000 candidates of 8 dimensions: 32,000 bytes a copy.
    assert memory.exact_bytes(1000, 8) == 96_000


def test_inverted_lists_take_their_slots_three_times_and_what_measures_them():
    measuring = 6 * 4 * 16_000_000

    # A copy, and three times two slots a candidate.
    assert memory.ivf_bytes(1000, 8, Index()) == 7 * 32_000 + measuring
    assert memory.ivf_bytes(1000, 8, Index(leaf_dtype="bfloat16")) == 4 * 32_000 + measuring


def test_a_tree_takes_its_codes_as_well():
    # Seven copies, twice a byte for each of four blocks, and 1,000 scores of each of 31 leaves.
    assert memory.scann_bytes(1000, 8, Index()) == 224_000 + 8_000 + 124_000


def test_tuning_takes_the_scores_of_a_sample_with_the_most_leaves_that_it_tries():
    tuned = Index(target_recall=0.9)
    fixed = Index(target_recall=0.9, num_leaves=100)

    # A byte for each of eight blocks. Four times the root of 160,000, of 100,000 candidates.
    of_all = 7 * 5_120_000 + 2 * 160_000 * 8
    assert memory.scann_bytes(160_000, 8, tuned) == of_all + 4 * 100_000 * 1600
    assert memory.scann_bytes(160_000, 8, fixed) == of_all + 4 * 100_000 * 100


def test_what_is_not_free_is_refused_with_what_helps(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 50_000_000)

    memory.check_free(50_000_000, "it takes 50 MB", "take less")
    with pytest.raises(UserError, match="it takes 51 MB, 50 MB are free: take less"):
        memory.check_free(51_000_000, "it takes 51 MB", "take less")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [pytest.param("3000000", 1_000_000, id="limited"), pytest.param("max", 8_192_000, id="free")],
)
def test_the_limit_of_a_container_counts(limit, expected, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 16000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "max").write_text(limit)
    (tmp_path / "current").write_text("2000000")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP_LIMIT", tmp_path / "max")
    monkeypatch.setattr(memory, "CGROUP_USAGE", tmp_path / "current")

    assert memory.available_bytes() == expected


def test_a_system_that_does_not_tell_refuses_nothing(tmp_path, monkeypatch):
    for name in ("MEMINFO", "CGROUP_LIMIT", "CGROUP_USAGE"):
        monkeypatch.setattr(memory, name, tmp_path / "none")

    assert memory.available_bytes() is None
    memory.check_free(10**15, "more than there is", "nothing")
