"""Invented titles, so that a person can read what the sample recommends."""

from collections.abc import Sequence

import numpy as np

# By genre: nouns that give a title away.
NOUNS = {
    "adventure": "Expedition Caravan Compass Island Summit Treasure River Voyage Jungle Map",
    "comedy": "Wedding Neighbour Holiday Uncle Mistake Parrot Reunion Landlord Picnic Disguise",
    "cooking": "Kitchen Recipe Bakery Table Harvest Chef Market Supper Orchard Pepper",
    "crime": "Alibi Witness Heist Verdict Detective Ransom Fingerprint Motive Informer Suspect",
    "documentary": "Glacier Migration Archive Factory Reef Border Portrait Census Antenna Desert",
    "fantasy": "Dragon Sorcerer Crown Oracle Spell Citadel Griffin Prophecy Amulet Realm",
    "history": "Empire Siege Treaty Dynasty Parliament Armada Chronicle Legion Abbey Revolt",
    "horror": "Cellar Scream Crypt Shadow Asylum Curse Mirror Graveyard Whisper Phantom",
    "music": "Orchestra Ballad Encore Rhythm Soloist Chorus Vinyl Overture Violin Festival",
    "romance": "Kiss Letter Promise Sunset Bouquet Waltz Sweetheart Rendezvous Heart Serenade",
    "science fiction": "Starship Android Colony Galaxy Signal Reactor Orbit Clone Nebula Airlock",
    "sport": "Champion Marathon Penalty Stadium Coach Sprint Trophy Final League Captain",
}
ADJECTIVES = (
    "Amber Bitter Blue Borrowed Brave Broken Burning Copper Crooked Distant Early Electric Empty "
    "Endless Faded Familiar Fearless First Forgotten Frozen Gentle Golden Grand Hidden Hollow "
    "Honest Iron Last Late Little Lonely Lost Lucky Midnight Missing Northern Old Painted Paper "
    "Perfect Quiet Restless Sacred Scarlet Second Secret Seventh Silent Silver Simple Sleeping "
    "Stolen Strange Summer Sunken Sweet Tender Thirteenth Unknown Velvet Wandering White Wild "
    "Winter Wooden Young"
)


def invent_titles(genres: Sequence[str], rng: np.random.Generator) -> list[str]:
    """One title a candidate, all distinct.

    Args:
        genres: The first genre of each candidate, a key of `NOUNS`; up to 750 of each.
        rng: Of the choice.
    """
    unused = {
        genre: iter(rng.permutation(_titles(nouns.split())).tolist())
        for genre, nouns in NOUNS.items()
    }
    return [next(unused[genre]) for genre in genres]


def _titles(nouns: Sequence[str]) -> list[str]:
    described = [f"The {adjective} {noun}" for adjective in ADJECTIVES.split() for noun in nouns]
    return described + [f"{noun} of the {of}" for noun in nouns for of in nouns if of != noun]
