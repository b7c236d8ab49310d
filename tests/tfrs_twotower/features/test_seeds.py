"""Seeds of names."""

from tfrs_twotower.features.seeds import seed_of


def test_a_seed_is_a_function_of_the_seed_and_the_name():
    # printf 42/query_tower | sha256sum begins with these digits.
    assert seed_of(42, "query_tower") == 0x11A48DA8 >> 1


def test_names_and_seeds_do_not_collide():
    seeds = {seed_of(seed, f"hidden/{number}") for seed in range(100) for number in range(100)}

    # Of 10,000 draws of 31 bits 0.02 pairs are expected to be equal.
    assert len(seeds) == 10_000
    assert 0 <= min(seeds) < max(seeds) < 2**31
