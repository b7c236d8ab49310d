"""A small world whose truth is known: which user takes which item, when, how probably.

Users and items have latent vectors around the centres of genres. At a moment, a user takes an
item that is on sale and that the user did not take before, with a probability in proportion to

    (1 - BROWSING) * softmax_i(TASTE * <user, item> + log popularity + language + price + hour)
        + BROWSING * popularity

With drift, tastes move in a straight line from one vector to another, and items age: more of them
come during the log, and their popularity halves every `HALF_LIFE_DAYS`, down to a rest.

Everything follows from one seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tfrs_twotower.datasets.sample_titles import NOUNS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Strings = npt.NDArray[np.str_]

NUM_QUERIES, NUM_CANDIDATES, NUM_EVENTS = 5_000, 2_000, 200_000
START_S, NUM_DAYS = 1_704_067_200, 90  # 1 January 2024, 00:00 UTC
DAY_S, HOUR_S = 86_400, 3_600
END_S = START_S + NUM_DAYS * DAY_S
LATENT_DIM = 16

GENRES = tuple(NOUNS)
# Genres of the morning (1) and of the evening (-1).
HOUR_OF_GENRE = {
    **dict.fromkeys(("cooking", "documentary", "music", "sport"), 1.0),
    **dict.fromkeys(("crime", "fantasy", "horror", "romance"), -1.0),
}
LANGUAGES = {"en": 0.45, "fr": 0.2, "de": 0.2, "es": 0.15}
COUNTRIES = {"GB": "en", "IE": "en", "FR": "fr", "BE": "fr", "DE": "de", "AT": "de", "ES": "es"}
AGE_BANDS = ("under 18", "18-24", "25-34", "35-49", "50 and over")
PRICE_AVERSION = np.array([0.5, 0.4, 0.2, 0.0, 0.0])  # By age band.
# Parts of the day: first hour (UTC), and how much they are morning (1) or evening (-1).
PART_HOURS, PART_SIGNS = np.array([6, 12, 18]), np.array([1.0, 0.0, -1.0])
HOURS_A_PART = 6
VIEW, CLICK, PURCHASE = "view", "click", "purchase"

TASTE = 10.0
BROWSING = 0.03
POPULARITY_EXPONENT, POPULARITY_OFFSET = 0.7, 10.0
LANGUAGE_MATCH = 3.0
TIME_OF_DAY = 0.7
FURTHER_GENRES = (0.6, 0.2)  # Share of candidates with a second genre; of those, with a third.
FURTHER_WEIGHT = 0.6
ITEM_NOISE, USER_NOISE, VECTOR_NOISE = 0.3, 0.2, 0.25
ACTIVITY_SPREAD = 0.4
NEW_SHARE, NEW_FROM_DAY, NEW_TO_DAY = 0.05, 72, 88
JOINING_SHARE = 0.2  # Of the users; they come later than the first day.
THUMBS_SHARE = 0.06
# Of drift: the share of candidates that come during the log, and how fast what is new wears off.
COMING_SHARE, HALF_LIFE_DAYS, EVERGREEN = 0.6, 15.0, 0.05
ERA_DAYS = 9  # In which a drifting world stands still.
QUERIES_A_CHUNK = 1_000


@dataclass(frozen=True)
class World:
    """Users and items; arrays with one entry a query, or one a candidate."""

    genres: list[list[str]]  # By candidate; the first weighs most.
    languages: Strings
    prices: Floats
    candidate_latent: Floats  # [num_candidates, LATENT_DIM], length 1
    vectors: npt.NDArray[np.float32]  # The same turned and blurred: what the data set shows.
    popularity: Floats  # Sums to 1.
    available_from_s: Ints
    hours: Floats  # From -1 (evening) to 1 (morning).

    age_bands: Ints  # By query; positions in AGE_BANDS.
    countries: Strings
    query_latent: Floats  # [num_queries, LATENT_DIM], length 1
    part_shares: Floats  # [num_queries, 3], how a query's events fall on the parts of the day
    joined_day: Ints
    activity: Floats  # Sums to 1.

    later_latent: Floats | None = None  # Where `query_latent` moves to; None: there is no drift.


@dataclass(frozen=True)
class Log:
    """What happened, ordered by (time, query, candidate); arrays with one entry an event.

    Rows are positions in the arrays of the world.
    """

    query_rows: Ints
    candidate_rows: Ints
    timestamps_s: Ints
    events: Strings
    thumbs: Ints  # -1, 1, 2; 0 where none was given

    def __len__(self) -> int:
        """Number of events."""
        return len(self.timestamps_s)


def make_world(rng: np.random.Generator) -> World:
    """Draws users and items."""
    n, num_genres = NUM_CANDIDATES, len(GENRES)
    centres = np.linalg.qr(rng.normal(size=[LATENT_DIM, num_genres]))[0].T
    genre_weights = _draw_genres(rng)
    latent = _unit(genre_weights @ centres + _noise(n, ITEM_NOISE, rng))
    rotation = np.linalg.qr(rng.normal(size=[LATENT_DIM, LATENT_DIM]))[0]
    popularity = (rng.permutation(n) + 1 + POPULARITY_OFFSET) ** -POPULARITY_EXPONENT
    is_new = rng.permutation(n) < NEW_SHARE * n
    new_day = rng.integers(NEW_FROM_DAY, NEW_TO_DAY, n)
    available_day = np.where(is_new, new_day, rng.integers(-3 * 365, 1, n))

    m = NUM_QUERIES
    age_bands = rng.choice(len(AGE_BANDS), m, p=[0.1, 0.2, 0.3, 0.25, 0.15])
    genre_of_age = rng.dirichlet(np.full(num_genres, 1.5), len(AGE_BANDS))
    tastes = np.stack([rng.dirichlet(3.0 * genre_of_age[age] + 0.02) for age in age_bands])
    joins = rng.random(m) < JOINING_SHARE
    joined_day = np.where(joins, rng.integers(0, NUM_DAYS - 1, m), 0)
    activity = rng.lognormal(0.0, ACTIVITY_SPREAD, m) * (NUM_DAYS - joined_day)
    return World(
        genres=[[GENRES[g] for g in np.argsort(-row, kind="stable")[: np.count_nonzero(row)]]
                for row in genre_weights],
        languages=rng.choice(list(LANGUAGES), n, p=list(LANGUAGES.values())),
        prices=np.maximum(np.round(rng.lognormal(1.9, 0.6, n)), 1.0) - 0.01,
        candidate_latent=latent,
        vectors=_unit(latent @ rotation + _noise(n, VECTOR_NOISE, rng)).astype(np.float32),
        popularity=popularity / popularity.sum(),
        available_from_s=START_S + available_day * DAY_S,
        hours=genre_weights @ [HOUR_OF_GENRE.get(g, 0.0) for g in GENRES] / genre_weights.sum(1),
        age_bands=age_bands,
        countries=rng.choice(list(COUNTRIES), m),
        query_latent=_unit(np.sqrt(tastes) @ centres + _noise(m, USER_NOISE, rng)),
        part_shares=rng.dirichlet([1.0, 1.0, 1.5], m),
        joined_day=joined_day,
        activity=activity / activity.sum(),
    )  # fmt: skip


def with_drift(world: World, rng: np.random.Generator) -> World:
    """The same world, whose tastes move and whose items come, and age, during the log."""
    comes = rng.random(NUM_CANDIDATES) < COMING_SHARE
    coming_s = START_S + rng.integers(0, NUM_DAYS, NUM_CANDIDATES) * DAY_S
    return replace(
        world,
        available_from_s=np.where(comes, coming_s, world.available_from_s),
        later_latent=world.query_latent[rng.permutation(NUM_QUERIES)],
    )


def at_moment(world: World, moment_s: float) -> World:
    """The world with the tastes and the popularity of a moment; itself where nothing drifts."""
    if world.later_latent is None:
        return world
    share = (moment_s - START_S) / (END_S - START_S)
    age_days = np.maximum(moment_s - world.available_from_s, 0.0) / DAY_S
    fresh = EVERGREEN + (1.0 - EVERGREEN) * 0.5 ** (age_days / HALF_LIFE_DAYS)
    popularity = world.popularity * fresh
    return replace(
        world,
        query_latent=_unit((1.0 - share) * world.query_latent + share * world.later_latent),
        popularity=popularity / popularity.sum(),
    )


def draw_log(world: World, rng: np.random.Generator) -> Log:
    """Lets every user take one item after the other."""
    # Every user has an event at least.
    num_events = 1 + rng.multinomial(NUM_EVENTS - NUM_QUERIES, world.activity)
    query_rows = np.repeat(np.arange(NUM_QUERIES), num_events)
    parts = _draw(_lifted(world.part_shares), len(PART_HOURS), query_rows, rng)
    first_day = world.joined_day[query_rows]
    day = first_day + (rng.random(NUM_EVENTS) * (NUM_DAYS - first_day)).astype(np.int64)
    second = rng.integers(0, HOURS_A_PART * HOUR_S, NUM_EVENTS)
    timestamps_s = START_S + day * DAY_S + PART_HOURS[parts] * HOUR_S + second
    order = np.lexsort((timestamps_s, query_rows))
    parts, timestamps_s = parts[order], timestamps_s[order]
    candidate_rows = np.full(NUM_EVENTS, -1)
    liking = np.zeros(NUM_EVENTS)
    for queries, chunk in _chunks(num_events):
        taken = np.zeros([len(queries), NUM_CANDIDATES], bool)
        for now, chosen in _eras(world, timestamps_s[chunk]):
            positions = chunk.start + chosen
            rows = query_rows[positions]
            found = _take(now, queries, rows, parts[positions], timestamps_s[positions], taken, rng)
            candidate_rows[positions] = found
            liking[positions] = np.sum(now.query_latent[rows] * now.candidate_latent[found], 1)
    events, thumbs = _react(liking, rng)
    order = np.lexsort((candidate_rows, query_rows, timestamps_s))
    return Log(
        query_rows[order], candidate_rows[order], timestamps_s[order], events[order], thumbs[order]
    )


def _eras(world: World, timestamps_s: Ints) -> Iterator[tuple[World, Ints]]:
    """The world as it is in turn, and the positions of the events of that time."""
    if world.later_latent is None:
        yield world, np.arange(len(timestamps_s))
        return
    length_s = ERA_DAYS * DAY_S
    for start_s in range(START_S, END_S, length_s):
        end_s = start_s + length_s
        now = at_moment(world, (start_s + end_s) / 2)
        # They would be drawn in vain again and again.
        is_to_come = world.available_from_s >= end_s
        popularity = np.where(is_to_come, np.finfo(np.float64).tiny, now.popularity)
        in_era = (timestamps_s >= start_s) & (timestamps_s < end_s)
        yield replace(now, popularity=popularity), np.flatnonzero(in_era)


def oracle(world: World, log: Log, start_s: int, k: int) -> Ints:
    """The best possible ranking of each query for what comes from a moment on.

    Args:
        world: The truth.
        log: What each query took before the moment, and so will not take again.
        start_s: The moment, Unix seconds; the end is `END_S`.
        k: Length of the rankings.

    Returns:
        `[num_queries, k]` candidate rows, most probable first.
    """
    on_sale_s = END_S - np.maximum(world.available_from_s, start_s)
    on_sale = np.clip(on_sale_s / (END_S - start_s), 0.0, 1.0)
    before = log.timestamps_s < start_s
    taken = np.zeros([NUM_QUERIES, NUM_CANDIDATES], bool)
    taken[log.query_rows[before], log.candidate_rows[before]] = True
    best = []
    for start in range(0, NUM_QUERIES, QUERIES_A_CHUNK):
        queries = np.arange(start, min(start + QUERIES_A_CHUNK, NUM_QUERIES))
        by_part = _choices(world, queries) * ~taken[queries, np.newaxis] * on_sale
        by_part /= by_part.sum(axis=2, keepdims=True)
        probability = np.einsum("qpc,qp->qc", by_part, world.part_shares[queries])
        best.append(np.argsort(-probability, axis=1, kind="stable")[:, :k])
    return np.concatenate(best)


def _choices(world: World, queries: Ints) -> Floats:
    """`[len(queries), 3, num_candidates]` probabilities, were everything on sale and new."""
    log_popularity = np.log(world.popularity)
    languages = np.array([COUNTRIES[country] for country in world.countries[queries]])
    log_prices = np.log(world.prices)
    prices = (log_prices - log_prices.mean()) / log_prices.std()
    logits = (
        TASTE * world.query_latent[queries] @ world.candidate_latent.T
        + log_popularity
        + LANGUAGE_MATCH * (languages[:, np.newaxis] == world.languages)
        - PRICE_AVERSION[world.age_bands[queries], np.newaxis] * prices
    )
    by_part = logits[:, np.newaxis] + TIME_OF_DAY * PART_SIGNS[:, np.newaxis] * world.hours
    weights = np.exp(by_part - by_part.max(axis=2, keepdims=True))
    tasteful = weights / weights.sum(axis=2, keepdims=True)
    return (1.0 - BROWSING) * tasteful + BROWSING * world.popularity


def _take(
    world: World,
    queries: Ints,
    query_rows: Ints,
    parts: Ints,
    timestamps_s: Ints,
    taken: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> Ints:
    """Candidate rows of events, which are ordered by (query, time).

    Args:
        world: As it is at the time of the events.
        queries: Whose events they are, ascending without a gap.
        query_rows: `[num_events]` the query of each event.
        parts: `[num_events]` of the day.
        timestamps_s: `[num_events]`.
        taken: `[len(queries), NUM_CANDIDATES]` what each query took before; is added to.
        rng: Of the draws.
    """
    num_events = np.bincount(query_rows - queries[0], minlength=len(queries))
    lifted = _lifted(_choices(world, queries).reshape(-1, NUM_CANDIDATES))
    candidate_rows = np.full(len(parts), -1)
    first_event = np.cumsum(num_events) - num_events
    for step in range(num_events.max()):
        open_rows = np.flatnonzero(num_events > step)
        while len(open_rows):
            events = first_event[open_rows] + step
            choices = open_rows * len(PART_HOURS) + parts[events]
            drawn = _draw(lifted, NUM_CANDIDATES, choices, rng)
            is_on_sale = world.available_from_s[drawn] <= timestamps_s[events]
            is_accepted = is_on_sale & ~taken[open_rows, drawn]
            candidate_rows[events[is_accepted]] = drawn[is_accepted]
            taken[open_rows[is_accepted], drawn[is_accepted]] = True
            open_rows = open_rows[~is_accepted]
    return candidate_rows


def _react(liking: Floats, rng: np.random.Generator) -> tuple[Strings, Ints]:
    """Event types and thumbs: the better liked, the further a user goes."""
    interest = 1.0 / (1.0 + np.exp(-5.0 * (liking - 0.45)))
    goes_on, buys, approves, insists, says_so = rng.random([5, len(liking)])
    clicked = goes_on < 0.7 * interest
    bought = clicked & (buys < 0.4 * interest)
    events = np.where(bought, PURCHASE, np.where(clicked, CLICK, VIEW))
    thumb = np.where(approves >= interest, -1, np.where(insists < 0.5 * interest, 2, 1))
    return events, np.where(says_so < THUMBS_SHARE, thumb, 0)


def _chunks(num_events: Ints) -> Iterator[tuple[Ints, slice]]:
    """Query rows, a chunk at a time, with the slice of their events."""
    ends = np.concatenate([[0], np.cumsum(num_events)])
    for start in range(0, len(num_events), QUERIES_A_CHUNK):
        end = min(start + QUERIES_A_CHUNK, len(num_events))
        yield np.arange(start, end), slice(ends[start], ends[end])


def _lifted(probabilities: Floats) -> Floats:
    """Cumulative probabilities of each row, row i from i to i + 1: one ascending array."""
    cumulative = np.cumsum(probabilities, axis=1)
    cumulative /= cumulative[:, -1:]
    return (cumulative + np.arange(len(cumulative))[:, np.newaxis]).ravel()


def _draw(lifted: Floats, width: int, rows: Ints, rng: np.random.Generator) -> Ints:
    """One position, 0 to width - 1, for each of `rows`, by the probabilities of that row."""
    found = np.searchsorted(lifted, rows + rng.random(len(rows)), side="right") - rows * width
    return np.minimum(found, width - 1)


def _draw_genres(rng: np.random.Generator) -> Floats:
    """`[NUM_CANDIDATES, len(GENRES)]`: 1 for the first genre, less for further ones, else 0."""
    sizes = rng.dirichlet(np.full(len(GENRES), 8.0))
    # The first k of a row by these keys are k distinct genres drawn by size.
    keys = rng.exponential(size=[NUM_CANDIDATES, len(GENRES)]) / sizes
    order = np.argsort(keys, axis=1)
    draws = rng.random(NUM_CANDIDATES)
    second, third = FURTHER_GENRES
    weights = np.zeros_like(keys)
    np.put_along_axis(weights, order[:, :1], 1.0, axis=1)
    np.put_along_axis(weights, order[:, 1:2], FURTHER_WEIGHT * (draws < second)[:, None], axis=1)
    np.put_along_axis(
        weights, order[:, 2:3], FURTHER_WEIGHT * (draws < second * third)[:, None], axis=1
    )
    return weights


def _noise(rows: int, length: float, rng: np.random.Generator) -> Floats:
    """`[rows, LATENT_DIM]` normal vectors of about the given length."""
    return rng.normal(scale=length / np.sqrt(LATENT_DIM), size=[rows, LATENT_DIM])


def _unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
