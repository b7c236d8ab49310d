"""The rules of a request, against their definition in NumPy, on both backends."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_twotower.features.encoding import Encoder
from tfrs_twotower.index import ExactIndex, IndexParameters, IvfIndex, IvfParameters, ScannIndex
from tfrs_twotower.keras import tf
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.retrieval.retriever import Retriever, ServedTower
from tfrs_twotower.retrieval.rules import plan as plan_module
from tfrs_twotower.schema.features import Vector
from tfrs_twotower.schema.index import Index
from tfrs_twotower.schema.rules import Rules

DIMENSION = 4
MAX_K = 40
LOWEST = np.finfo(np.float32).min
LEAST, MOST = np.finfo(np.float64).min, np.finfo(np.float64).max
NOW_S = 1000
GENRES = ("crime", "drama", "comedy", "war", "music")
LANGUAGES = ("en", "fr", "de", "")
RULES = Rules(
    filters=["genres", "language"],
    ranges=["price", "year"],
    available_from="starts",
    available_until="ends",
    category="language",
    timestamp="born",
)

BACKENDS = [
    pytest.param("exact", 1, id="exact-1", marks=pytest.mark.slow),
    pytest.param("exact", 30, id="exact-30", marks=pytest.mark.slow),
    pytest.param("exact", 300, id="exact-300"),
    pytest.param("scann", 1, id="scann-1", marks=pytest.mark.slow),
    pytest.param("scann", 30, id="scann-30", marks=pytest.mark.slow),
    pytest.param("tree", 300, id="tree-300", marks=pytest.mark.slow),
    pytest.param("leaves", 300, id="leaves-300"),
]

Answer = dict[str, np.ndarray]


class Passing:
    """A tower that hands its one feature through: the test chooses the query embedding."""

    variables = ()

    def __call__(self, encoded: dict[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        return encoded["taste"]


class Corpus:
    """Candidates whose cosines and ages are multiples of powers of two: arithmetic is exact."""

    def __init__(self, size: int) -> None:
        draw = np.random.default_rng(size)
        self.ids = sorted(f"id-{number}" for number in range(size))
        self.embeddings = draw.choice([-0.5, 0.5], [size, DIMENSION]).astype(np.float32)
        self.genres = [
            sorted(draw.choice(GENRES[:4], draw.integers(0, 3), replace=False).tolist())
            for _ in range(size)
        ]
        self.language = draw.choice(LANGUAGES, size, p=[0.6, 0.2, 0.1, 0.1]).tolist()
        self.born = draw.choice([600, 700, 800, 900, 1100], size).tolist()
        self.price = draw.choice([0.1, 0.2, 0.3, np.nan], size).tolist()
        self.year = [None if row % 5 == 4 else 1990 + row % 20 for row in range(size)]
        # At both ends of the moment that requests are of, and missing.
        self.starts = [(None, NOW_S, NOW_S + 1, 0)[row % 4] for row in range(size)]
        self.ends = [(None, NOW_S - 1, NOW_S)[row % 3] for row in range(size)]
        # Without a time: as old as the oldest.
        self.known_born = [None if row % 7 == 6 else born for row, born in enumerate(self.born)]
        oldest = min(born for born in self.known_born if born is not None)
        self.born = [oldest if born is None else born for born in self.known_born]

    @property
    def table(self) -> pa.Table:
        return pa.table(
            {
                "genres": self.genres,
                "language": self.language,
                "price": pa.array(self.price, pa.float32()),
                "year": self.year,
                "starts": self.starts,
                "ends": self.ends,
                "born": self.known_born,
            }
        )


@functools.cache
def corpus_of(size: int) -> Corpus:
    return Corpus(size)


def retriever(corpus: Corpus, backend: str, rules: Rules = RULES) -> Retriever:
    index = ExactIndex(corpus.embeddings)
    if backend == "leaves":
        parameters = IvfParameters(num_leaves=20, leaf_size=20, leaves_to_search=2, at=10)
        index = IvfIndex(corpus.embeddings, parameters)
    elif backend != "exact":
        limit = 0 if backend == "tree" else 20_000
        config = Index(brute_force_below=limit, leaves_to_search=1)
        index = ScannIndex(
            corpus.embeddings, IndexParameters.from_config(config, len(corpus.embeddings))
        )
    tower = ServedTower(Encoder({"taste": Vector(dimension=DIMENSION)}, "unused"), Passing())
    attributes = CandidateAttributes(rules, corpus.table)
    return Retriever(tower, index, corpus.ids, default_k=3, max_k=MAX_K, attributes=attributes)


@functools.cache
def recommend(backend: str, size: int) -> Callable[..., Answer]:
    """The signature as a graph; optional inputs may be left out."""
    signature = retriever(corpus_of(size), backend).signatures()["recommend"]
    function = tf.function(signature.function, [dict(signature.inputs)])
    with pytest.MonkeyPatch.context() as patch:
        if backend == "leaves":
            # As in a corpus in which every list is long.
            patch.setattr(plan_module, "LARGEST_POOL", 0)
            patch.setattr(plan_module, "LARGEST_POOL_BESIDE_LEAVES", 0)
        function.get_concrete_function()

    def call(**inputs: Any) -> Answer:
        given = {name: tf.constant(v, signature.inputs[name].dtype) for name, v in inputs.items()}
        return {
            name: value.numpy() for name, value in function({**signature.defaults, **given}).items()
        }

    return call


def best_by_definition(
    corpus: Corpus, taste: Any, rules: dict[str, Any]
) -> list[tuple[str, float]]:
    """What `tfrs_twotower.retrieval.rules` says, one candidate at a time."""
    scores = corpus.embeddings @ np.array(taste, np.float32)
    wanted_ids = set(rules["allow_ids"]) - {""}
    eligible = []
    for row, name in enumerate(corpus.ids):
        if name in rules["exclude_ids"] or (wanted_ids and name not in wanted_ids):
            continue
        values_of = {"genres": set(corpus.genres[row]), "language": {corpus.language[row]}}
        is_passed = True
        for attribute, values in values_of.items():
            any_of = set(rules[f"filter_{attribute}_any"]) - {""}
            none_of = set(rules[f"filter_{attribute}_none"]) - {""}
            is_passed &= (not any_of or bool(any_of & values)) and not none_of & values
        for attribute, number in {"price": corpus.price[row], "year": corpus.year[row]}.items():
            least, most = rules[f"filter_{attribute}_min"], rules[f"filter_{attribute}_max"]
            is_bounded = least > LEAST or most < MOST
            number = np.nan if number is None else number
            is_passed &= not is_bounded or least <= number <= most
        if rules["now_s"]:
            starts, ends = corpus.starts[row], corpus.ends[row]
            is_passed &= starts is None or starts <= rules["now_s"]
            is_passed &= ends is None or ends >= rules["now_s"]
        if not is_passed:
            continue
        score = float(scores[row])
        if rules["half_life_s"]:
            age = max(NOW_S - corpus.born[row], 0)
            score = (1 + score) * 2 ** (-age / rules["half_life_s"]) - 1
        if score >= rules["min_score"]:
            eligible.append((score, row))
    eligible.sort(key=lambda pair: (-pair[0], pair[1]))
    kept, seen = [], dict.fromkeys(LANGUAGES, 0)
    for score, row in eligible:
        language = corpus.language[row]
        if rules["max_per_category"] and language and seen[language] >= rules["max_per_category"]:
            continue
        seen[language] += 1
        kept.append((score, row))
    k, weight = rules["k"], rules["mmr_lambda"]
    chosen: list[tuple[float, int]] = []
    if weight == 1:
        chosen = kept[:k]
    else:
        left = kept[: max(min(10 * k, 1000), k)]
        while left and len(chosen) < k:
            nearest = [
                max((corpus.embeddings[row] @ corpus.embeddings[c] for _, c in chosen), default=0)
                for _, row in left
            ]
            values = [
                weight * score - (1 - weight) * near
                for (score, _), near in zip(left, nearest, strict=True)
            ]
            chosen.append(left.pop(int(np.argmax(values))))
    return [(corpus.ids[row], score) for score, row in chosen]


def padded(lists: list[list[str]]) -> list[list[str]]:
    width = max(len(texts) for texts in lists)
    return [texts + [""] * (width - len(texts)) for texts in lists]


NEUTRAL = {
    "exclude_ids": [],
    "allow_ids": [],
    "filter_genres_any": [],
    "filter_genres_none": [],
    "filter_language_any": [],
    "filter_language_none": [],
    "filter_price_min": LEAST,
    "filter_price_max": MOST,
    "filter_year_min": LEAST,
    "filter_year_max": MOST,
    "now_s": 0,
    "half_life_s": 0.0,
    "max_per_category": 0,
    "mmr_lambda": 1.0,
    "min_score": LOWEST,
}


@st.composite
def queries(draw: st.DrawFn, size: int) -> dict[str, Any]:
    """One query: each rule is off half of the time, so that rules also come alone."""
    some_ids = st.lists(st.sampled_from([*corpus_of(size).ids, "", "unknown"]), max_size=40)
    values = {
        "exclude_ids": some_ids,
        "allow_ids": some_ids,
        "filter_genres_any": st.lists(st.sampled_from([*GENRES, "", "?"]), max_size=3),
        "filter_genres_none": st.lists(st.sampled_from([*GENRES, "", "?"]), max_size=3),
        "filter_language_any": st.lists(st.sampled_from([*LANGUAGES, "?"]), max_size=2),
        "filter_language_none": st.lists(st.sampled_from([*LANGUAGES, "?"]), max_size=2),
        "filter_price_min": st.sampled_from([0.1, 0.15, 0.3, 1.0]),
        "filter_price_max": st.sampled_from([0.0, 0.1, 0.25, 1.0]),
        "filter_year_min": st.sampled_from([1990, 1995.5, 2009, 2010]),
        "filter_year_max": st.sampled_from([1989, 1990, 2000.5, 2009]),
        "now_s": st.just(NOW_S),
        "half_life_s": st.sampled_from([50.0, 100.0]),
        "max_per_category": st.integers(1, 4),
        "mmr_lambda": st.sampled_from([0.0, 0.25, 0.5, 0.75]),
        "min_score": st.sampled_from([-1.0, -0.5, 0.0, 0.5, 2.0]),
    }
    rules = {
        name: draw(value) if draw(st.booleans()) else NEUTRAL[name]
        for name, value in values.items()
    }
    return {
        "taste": draw(st.lists(st.sampled_from([-0.5, 0.5]), min_size=4, max_size=4)),
        "k": draw(st.integers(1, 35)),
        **rules,
        "now_s": NOW_S if rules["half_life_s"] else rules["now_s"],
    }


def ask(backend: str, size: int, rows: list[dict[str, Any]]) -> Answer:
    inputs = {name: [row[name] for row in rows] for name in rows[0]}
    inputs = {
        name: padded(value) if isinstance(value[0], list) and name != "taste" else value
        for name, value in inputs.items()
    }
    return recommend(backend, size)(**inputs)


@pytest.mark.parametrize(("backend", "size"), BACKENDS)
@settings(max_examples=25)
@given(data=st.data())
def test_the_promise_holds_under_every_rule(backend, size, data):
    corpus = corpus_of(size)
    rows = data.draw(st.lists(queries(size), min_size=1, max_size=3))

    answer = ask(backend, size, rows)

    assert answer["scores"].shape == (len(rows), max(row["k"] for row in rows))
    for number, row in enumerate(rows):
        best = best_by_definition(corpus, row["taste"], row)
        count = answer["valid_count"][number]
        names = [name.decode() for name in answer["candidate_ids"][number]]
        scores = answer["scores"][number]
        assert count == len(best)
        assert names[count:] == [""] * (len(names) - count)
        assert (scores[count:] == LOWEST).all()
        of_rule_1 = {"min_score": LOWEST, "half_life_s": 0.0, "max_per_category": 0}
        everyone = {**row, **of_rule_1, "k": size, "mmr_lambda": 1.0}
        num_eligible = len(best_by_definition(corpus, row["taste"], everyone))
        assert count <= answer["pool_size"][number] <= num_eligible
        if backend == "exact":
            assert names[:count] == [name for name, _ in best]
            np.testing.assert_array_equal(scores[:count], np.array([s for _, s in best], "f4"))
            continue
        # ScaNN may find another one of equal candidates, and a tree misses some.
        everyone = {**row, "k": size, "mmr_lambda": 1.0, "max_per_category": 0}
        eligible = dict(best_by_definition(corpus, row["taste"], everyone))
        assert len(set(names[:count])) == count
        assert set(names[:count]) <= set(eligible)
        assert scores[:count].tolist() == [eligible[name] for name in names[:count]]
        if row["mmr_lambda"] == 1:
            assert names[:count] == sorted(
                names[:count], key=lambda name: (-eligible[name], corpus.ids.index(name))
            )
            if backend == "scann":
                assert scores[:count].tolist() == [score for _, score in best]


def one(backend: str = "exact", size: int = 300, **rules: Any) -> list[str]:
    row = {**NEUTRAL, "taste": [0.5, 0.5, -0.5, 0.5], "k": 10, **rules}
    answer = ask(backend, size, [row])
    return [name.decode() for name in answer["candidate_ids"][0] if name]


@pytest.mark.parametrize("backend", ["exact", "tree"])
def test_a_filter_that_few_pass_finds_them_all(backend):
    corpus = corpus_of(300)
    rare = {"filter_genres_any": ["war"], "filter_language_any": ["de"]}

    found = one(backend, k=35, **rare)

    passing = [
        name
        for name, genres, language in zip(corpus.ids, corpus.genres, corpus.language, strict=True)
        if "war" in genres and language == "de"
    ]
    assert 0 < len(passing) < 35
    assert set(found) == set(passing)


def test_a_value_that_no_candidate_has_leaves_nobody():
    assert one(filter_genres_any=["music"]) == []
    assert one(filter_genres_any=["?", ""]) == []


def test_bounds_are_rounded_as_the_numbers_are():
    corpus = corpus_of(300)

    found = one(k=40, filter_price_min=0.1, filter_price_max=0.1, filter_year_max=1991)

    passing = {
        name
        for name, price, year in zip(corpus.ids, corpus.price, corpus.year, strict=True)
        if price == 0.1 and year in (1990, 1991)
    }
    assert 0 < len(passing) < 40
    assert set(found) == passing


def test_a_candidate_appears_and_disappears_by_the_moment_of_the_request():
    corpus = corpus_of(300)
    is_late = {"allow_ids": [corpus.ids[2], corpus.ids[14]]}  # From NOW_S + 1 on, to NOW_S.

    assert corpus.ids[2] not in one(**is_late, now_s=NOW_S)
    assert set(one(**is_late, now_s=NOW_S + 1)) == set()
    assert set(one(**is_late)) == set(is_late["allow_ids"])


def test_no_answer_scores_below_the_minimum():
    corpus = corpus_of(300)

    found = one(k=40, min_score=0.75)

    scores = corpus.embeddings @ np.array([0.5, 0.5, -0.5, 0.5], np.float32)
    assert set(found) == {corpus.ids[row] for row in np.flatnonzero(scores >= 0.75)}


def pool_size(backend: str = "exact", **rules: Any) -> int:
    row = {**NEUTRAL, "taste": [0.5, 0.5, -0.5, 0.5], "k": 10, **rules}
    return int(ask(backend, 300, [row])["pool_size"][0])


@pytest.mark.parametrize("backend", ["exact", "tree"])
def test_the_pool_counts_the_eligible_candidates_that_were_ranked(backend):
    corpus = corpus_of(300)
    scores = corpus.embeddings @ np.array([0.5, 0.5, -0.5, 0.5], np.float32)
    best, worst = corpus.ids[int(np.argmax(scores))], corpus.ids[int(np.argmin(scores))]

    assert pool_size(backend) == 10
    # For each that is excluded, one more is looked for.
    assert pool_size(backend, exclude_ids=[worst]) == 11
    assert pool_size(backend, allow_ids=[best, worst, "unknown"]) == 2
    assert pool_size(backend, allow_ids=[best, worst], exclude_ids=[best]) == 1
    # Of a value that no candidate has, none is ranked.
    assert pool_size(backend, filter_genres_any=["music"]) == 0


@pytest.mark.parametrize("backend", ["exact", "tree"])
def test_beside_leaves_a_short_list_is_ranked_whole_in_place_of_a_wide_pool(backend, monkeypatch):
    monkeypatch.setattr(plan_module, "LARGEST_POOL_BESIDE_LEAVES", 20)
    taste, language = [[0.5, 0.5, -0.5, 0.5]], LANGUAGES[0]
    num_eligible = corpus_of(300).language.count(language)

    answer = recommend.__wrapped__(backend, 300)(
        taste=taste, k=[10], filter_language_any=padded([[language]])
    )

    # One and a half times as many as hold ten eligible ones on average.
    wide = math.ceil(1.5 * 10 * 300 / num_eligible)
    assert 20 < wide < num_eligible
    found = answer["pool_size"][0]
    assert found == num_eligible if backend == "tree" else found < wide


def test_the_pool_counts_what_the_later_rules_leave_out():
    best = one(k=1)

    assert pool_size(exclude_ids=best, min_score=2.0) == 10
    assert one(exclude_ids=best, min_score=2.0) == []
    # Four times as many are looked at where a rule reorders them.
    assert pool_size(k=5, max_per_category=3) == 20


def test_the_pool_is_all_that_are_eligible_where_what_was_found_is_too_few():
    # All without a language and one of each are 33 or so; the 160 best hold half of the former.
    assert pool_size(k=40, max_per_category=1) == 300


def test_queries_that_are_answered_together_share_the_widest_pool():
    row = {**NEUTRAL, "taste": [0.5, 0.5, -0.5, 0.5]}

    without_rules = ask("exact", 300, [{**row, "k": k} for k in (3, 10)])["pool_size"]
    under_rules = [{**row, "k": 3, "min_score": -1.0}, {**row, "k": 5, "max_per_category": 3}]

    assert without_rules.tolist() == [10, 10]
    assert ask("exact", 300, under_rules)["pool_size"].tolist() == [20, 20]


def test_a_short_half_life_puts_the_newest_first():
    corpus = corpus_of(300)

    found = one(k=5, half_life_s=1.0, now_s=NOW_S)

    newest = max(
        born
        for born, starts, ends in zip(corpus.born, corpus.starts, corpus.ends, strict=True)
        if (starts is None or starts <= NOW_S) and (ends is None or ends >= NOW_S)
    )
    assert {corpus.born[corpus.ids.index(name)] for name in found} == {newest}


def test_a_category_takes_at_most_its_places():
    corpus = corpus_of(300)

    found = one(k=40, max_per_category=3)

    languages = [corpus.language[corpus.ids.index(name)] for name in found]
    counts = {language: languages.count(language) for language in ("en", "fr", "de")}
    assert counts == {"en": 3, "fr": 3, "de": 3}
    # Candidates without a language are not limited.
    assert languages.count("") == corpus.language.count("")


def test_variety_alone_chooses_opposites():
    corpus = corpus_of(300)

    first, second = one(k=2, mmr_lambda=0.0)

    vectors = [corpus.embeddings[corpus.ids.index(name)] for name in (first, second)]
    # Among the 20 nearest the second is one that is not the same as the first.
    assert vectors[0] @ vectors[1] < 1.0


def test_one_row_of_a_rule_stands_for_the_whole_batch():
    tastes = [[0.5, 0.5, 0.5, 0.5], [-0.5, 0.5, 0.5, 0.5], [-0.5, -0.5, 0.5, 0.5]]
    rules = {
        "k": [6],
        "filter_genres_any": [["crime", "war"]],
        "half_life_s": [100.0],
        "now_s": [NOW_S],
        "max_per_category": [2],
        "mmr_lambda": [0.5],
        "min_score": [-0.9],
    }

    answer = recommend("exact", 300)(taste=tastes, **rules)

    repeated = {name: value * 3 for name, value in rules.items()}
    for name, value in recommend("exact", 300)(taste=tastes, **repeated).items():
        np.testing.assert_array_equal(answer[name], value)


def test_what_a_query_gets_does_not_depend_on_the_rules_of_others():
    row = {**NEUTRAL, "taste": [0.5, 0.5, -0.5, 0.5], "k": 5, "now_s": NOW_S}
    others = [
        {**row, "k": 30, "mmr_lambda": 0.5},
        {**row, "filter_genres_any": ["war"], "max_per_category": 1},
        {**row, "half_life_s": 50.0, "allow_ids": corpus_of(300).ids[:40]},
    ]

    alone = [ask("exact", 300, [one])["candidate_ids"][0] for one in [row, *others]]
    together = ask("exact", 300, [row, *others])["candidate_ids"]

    for number, names in enumerate(alone):
        np.testing.assert_array_equal(together[number, : len(names)], names)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        pytest.param({"mmr_lambda": [1.5]}, "`mmr_lambda` must be between 0 and 1", id="lambda"),
        pytest.param({"mmr_lambda": [np.nan]}, "`mmr_lambda` must be", id="lambda-nan"),
        pytest.param({"half_life_s": [-1.0], "now_s": [9]}, "`half_life_s` must be", id="half"),
        pytest.param({"half_life_s": [60.0]}, "`now_s` .* must be given", id="no-now"),
        pytest.param({"max_per_category": [-1]}, "`max_per_category` must be", id="places"),
        pytest.param({"min_score": [np.nan]}, "`min_score` must be a number", id="minimum"),
        pytest.param(
            {"filter_genres_any": [["war"], ["war"]]}, "must have one row or one a query", id="rows"
        ),
    ],
)
def test_a_rule_out_of_range_is_refused(rules, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        recommend("exact", 30)(taste=[[0.5] * 4] * 3, **rules)


def test_a_corpus_without_attributes_has_no_inputs_for_them():
    corpus = corpus_of(30)
    inputs = retriever(corpus, "exact", Rules()).signatures()["recommend"].inputs

    assert set(inputs) == {"taste", "k", "exclude_ids", "allow_ids", "mmr_lambda", "min_score"}


def test_empty_batches_and_lists_without_columns_are_answered():
    answer = recommend("exact", 30)(
        taste=np.zeros((0, 4)), k=np.zeros(0), filter_genres_any=np.zeros((0, 0), str)
    )

    assert answer["scores"].shape == (0, 1)
    assert answer["pool_size"].shape == (0,)
