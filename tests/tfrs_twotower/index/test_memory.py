"""Memory is forecast, and what does not fit is refused."""

import pytest

from tfrs_twotower.index import memory
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.index import Index


def test_an_index_by_brute_force_takes_three_copies():
    # 1,000 candidates of 8 dimensions: 32,000 bytes a copy.
    assert memory.build_bytes(1000, 8, Index()) == 96_000


def test_a_tree_takes_its_codes_as_well():
    tree = Index(brute_force_below=0)

    # Seven copies, twice a byte for each of four blocks, and 1,000 scores of each of 31 leaves.
    assert memory.build_bytes(1000, 8, tree) == 224_000 + 8_000 + 124_000


def test_tuning_takes_the_scores_of_a_sample_with_the_most_leaves_that_it_tries():
    tuned = Index(brute_force_below=0, target_recall=0.9)
    fixed = Index(brute_force_below=0, target_recall=0.9, num_leaves=100)

    # A byte for each of eight blocks. Four times the root of 160,000, of 100,000 candidates.
    of_all = 7 * 5_120_000 + 2 * 160_000 * 8
    assert memory.build_bytes(160_000, 8, tuned) == of_all + 4 * 100_000 * 1600
    assert memory.build_bytes(160_000, 8, fixed) == of_all + 4 * 100_000 * 100


def test_what_does_not_fit_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 50_000_000)

    with pytest.raises(UserError, match="1,000,000 candidates of 64 .* 50 MB are free"):
        memory.check_build(1_000_000, 64, Index())


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
    assert memory.check_build(10**9, 64, Index()) > 10**11
