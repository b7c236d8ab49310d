"""The seeds of single draws, made of one seed and names."""

import hashlib


def seed_of(seed: int, name: str) -> int:
    """The seed of a named draw.

    Weights of equal shape that start with the same seed start equal. Offsets (`seed + 1`) collide
    where two parts count from the same number, and shift when a part is added; seeds of different
    names are unrelated, and each depends on its own name alone. A part with draws of its own
    derives their seeds from the seed that it is given, so that a name is local: the kernel of the
    query tower's first hidden layer has `seed_of(seed_of(seed, "query_tower"), "hidden/0")`.

    Args:
        seed: `training.seed`, or what this function has made of it.
        name: What is drawn.

    Returns:
        The first 31 bits of the SHA-256 of "seed/name": any of TensorFlow's generators takes them.

    Example:
        >>> seed_of(42, "query_tower") == seed_of(42, "candidate_tower")
        False
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
