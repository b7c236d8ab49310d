"""The promise of the retrieval signatures, against a definition in NumPy."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_twotower.features.encoding import Encoder
from tfrs_twotower.index import ExactIndex, IndexParameters, ScannIndex
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.retrieval.input_checks import MAX_CELLS
from tfrs_twotower.retrieval.retriever import CandidateIds, Retriever, ServedTower, Signature
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.features import History, Id, Number, Vector
from tfrs_twotower.schema.index import Index

DIMENSION = 4
MAX_K = 50
LOWEST = np.finfo(np.float32).min
SIZES = (1, 2, 30)

BACKENDS = [pytest.param("exact", id="exact"), pytest.param("scann", id="scann")]


class Passing:
    """A tower that hands its one feature through: the test chooses the query embedding."""

    variables = ()

    def __call__(self, encoded: dict[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        return encoded["taste"]


def ids_of(size: int) -> list[str]:
    return sorted(f"id-{number}" for number in range(size))


@functools.cache
def embeddings_of(size: int) -> np.ndarray:
    """Small whole numbers: scores are exact, and many are equal."""
    whole = np.random.default_rng(size).integers(-2, 3, [size, DIMENSION])
    return whole.astype(np.float32)


def retriever(embeddings: np.ndarray, backend: str = "exact", default_k: int = 3) -> Retriever:
    index = ExactIndex(embeddings)
    if backend != "exact":
        limit = 0 if backend == "tree" else 20_000
        config = Index(brute_force_below=limit, leaves_to_search=1)
        index = ScannIndex(embeddings, IndexParameters.from_config(config, len(embeddings)))
    tower = ServedTower(Encoder({"taste": Vector(dimension=DIMENSION)}, "unused"), Passing())
    ids = ids_of(len(embeddings))
    return Retriever(tower, index, ids, default_k=default_k, max_k=MAX_K)


def compiled(signature: Signature) -> Callable[..., dict[str, np.ndarray]]:
    """The signature as a graph; optional inputs may be left out."""
    function = tf.function(signature.function, [dict(signature.inputs)])

    def call(**inputs: Any) -> dict[str, np.ndarray]:
        given = {name: tf.constant(v, signature.inputs[name].dtype) for name, v in inputs.items()}
        answer = function({**signature.defaults, **given})
        return {name: value.numpy() for name, value in answer.items()}

    return call


@functools.cache
def recommend(backend: str, size: int) -> Callable[..., dict[str, np.ndarray]]:
    return compiled(retriever(embeddings_of(size), backend).signatures()["recommend"])


def true_scores(taste: Iterable[float], size: int) -> dict[str, float]:
    scores = embeddings_of(size) @ np.array(taste, np.float32)
    return dict(zip(ids_of(size), scores.tolist(), strict=True))


def padded(lists: list[list[str]]) -> list[list[str]]:
    width = max(len(texts) for texts in lists)
    return [texts + [""] * (width - len(texts)) for texts in lists]


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    size = draw(st.sampled_from(SIZES))
    num_queries = draw(st.integers(1, 3))
    some_id = st.sampled_from([*ids_of(size), "", "unknown", "id-"])
    each = {"min_size": num_queries, "max_size": num_queries}
    lists = st.lists(st.lists(some_id, max_size=40), **each)
    no_list = st.just([[]] * num_queries)
    return {
        "size": size,
        "taste": draw(st.lists(st.lists(st.integers(-2, 2), min_size=4, max_size=4), **each)),
        "k": draw(st.lists(st.integers(1, 35), **each)),
        "exclude_ids": draw(lists | no_list),
        "allow_ids": draw(lists | no_list),
    }


@pytest.mark.parametrize(
    "backend", [pytest.param("exact", marks=pytest.mark.slow), pytest.param("scann")]
)
@settings(max_examples=30)
@given(request=requests())
def test_the_promise_holds(backend, request):
    size, lists = request["size"], {k: padded(request[k]) for k in ("exclude_ids", "allow_ids")}

    answer = recommend(backend, size)(taste=request["taste"], k=request["k"], **lists)

    assert answer["candidate_ids"].shape == answer["scores"].shape
    assert answer["scores"].shape == (len(request["k"]), max(request["k"]))
    for row, (taste, k, excluded, allowed) in enumerate(
        zip(*(request[name] for name in ("taste", "k", "exclude_ids", "allow_ids")), strict=True)
    ):
        scores = true_scores(taste, size)
        eligible = set(scores) - set(excluded)
        if set(allowed) - {""}:
            eligible &= set(allowed)
        best = sorted(eligible, key=lambda name: (-scores[name], name))[:k]
        found = [name.decode() for name in answer["candidate_ids"][row]]
        assert answer["valid_count"][row] == len(best)
        # ScaNN may choose another one of equal candidates at the end of the list.
        chosen = found[: len(best)] if backend == "scann" else best
        assert len(set(chosen)) == len(best)
        assert set(chosen) <= eligible
        assert chosen == sorted(chosen, key=lambda name: (-scores[name], name))
        assert found == chosen + [""] * (max(request["k"]) - len(best))
        expected = [scores[name] for name in best] + [LOWEST] * (max(request["k"]) - len(best))
        np.testing.assert_array_equal(answer["scores"][row], np.array(expected, np.float32))


def test_a_tree_that_looks_into_one_leaf_still_keeps_the_count():
    embeddings = np.random.default_rng(0).normal(size=(400, DIMENSION)).astype(np.float32)
    ids = ids_of(400)
    find = compiled(retriever(embeddings, "tree").signatures()["recommend"])

    answer = find(taste=[[1, 2, -1, 0]], k=[50], exclude_ids=[ids[:350]])

    assert answer["valid_count"] == [50]
    assert {name.decode() for name in answer["candidate_ids"][0]} == set(ids[350:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_row_of_an_optional_input_stands_for_the_whole_batch(backend):
    tastes = [[1, 0, 0, 2], [0, -1, 2, 1], [0, 0, 1, 0]]
    one = {"k": [4], "exclude_ids": [["id-3", "id-9"]], "allow_ids": [ids_of(12)]}

    answer = recommend(backend, 30)(taste=tastes, **one)

    repeated = {name: value * 3 for name, value in one.items()}
    expected = recommend(backend, 30)(taste=tastes, **repeated)
    for name, value in expected.items():
        np.testing.assert_array_equal(answer[name], value)


def test_an_allow_list_of_unknown_ids_leaves_nothing():
    answer = recommend("exact", 30)(taste=[[1, 0, 0, 0]], k=[2], allow_ids=[["unknown"]])

    assert answer["valid_count"].tolist() == [0]
    assert answer["candidate_ids"].tolist() == [[b"", b""]]
    assert answer["scores"].tolist() == [[LOWEST, LOWEST]]


def test_queries_with_and_without_an_allow_list_share_a_batch():
    taste = [[1.0, 0.5, 0.0, 0.0]] * 2
    scores = true_scores(taste[0], 30)

    answer = recommend("exact", 30)(taste=taste, k=[1], allow_ids=[[""], ["id-7"]])

    best = min(scores, key=lambda name: (-scores[name], name))
    assert answer["candidate_ids"].tolist() == [[best.encode()], [b"id-7"]]


def test_everything_excluded_is_an_answer_without_candidates():
    answer = recommend("scann", 30)(taste=[[1, 0, 0, 0]], exclude_ids=[ids_of(30)])

    assert answer["valid_count"].tolist() == [0]


def test_lists_may_have_no_columns_and_batches_no_rows():
    answer = recommend("scann", 30)(
        taste=np.zeros([0, 4]), k=[2], exclude_ids=np.zeros([1, 0], str).tolist()
    )

    assert answer["candidate_ids"].shape == (0, 2)
    assert answer["valid_count"].shape == (0,)


@pytest.mark.parametrize("k", [0, -1, MAX_K + 1])
def test_a_k_out_of_range_is_refused(k):
    with pytest.raises(tf.errors.InvalidArgumentError, match="`k` must be between 1 and 50 "):
        recommend("exact", 2)(taste=[[1, 0, 0, 0]] * 2, k=[1, k])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        pytest.param("exclude_ids", [["a"], ["b"], ["c"]], id="rule"),
        pytest.param("exclude_ids", [[""], [""], [""]], id="no-rule"),
        pytest.param("min_score", [tf.float32.min] * 3, id="neutral-number"),
        pytest.param("k", [1, 1, 1], id="k"),
    ],
)
def test_an_optional_input_of_another_batch_size_is_refused(name, values):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"`{name}` must have one row"):
        recommend("exact", 2)(taste=[[1, 0, 0, 0]] * 2, **{name: values})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rule_that_changes_nothing_changes_no_answer(backend):
    ask = recommend(backend, 30)
    asked = {"taste": np.random.default_rng(0).normal(size=(5, 4)), "k": [40, 1, 2, 30, 29]}

    under_rules = ask(**asked, exclude_ids=[["nobody's"]])

    for name, value in ask(**asked).items():
        np.testing.assert_array_equal(under_rules[name], value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_serving_default_is_recommend_without_options(backend):
    signatures = retriever(embeddings_of(30), backend).signatures()
    taste = np.random.default_rng(0).normal(size=(5, 4))

    answer = compiled(signatures["serving_default"])(taste=taste)

    expected = compiled(signatures["recommend"])(taste=taste)
    assert answer.keys() == expected.keys() - {"pool_size"}
    for name, value in answer.items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_serving_default_keeps_its_width_for_a_smaller_corpus(backend):
    signatures = retriever(embeddings_of(2), backend, default_k=5).signatures()

    answer = compiled(signatures["serving_default"])(taste=[[1, 0, 0, 0]])

    assert answer["candidate_ids"].shape == (1, 5)
    assert answer["valid_count"].tolist() == [2]
    assert answer["candidate_ids"][0, 2:].tolist() == [b"", b"", b""]


def test_score_gives_the_scores_of_recommend_and_the_minimum_for_unknown_ids():
    signatures = retriever(embeddings_of(30)).signatures()
    taste = np.random.default_rng(0).normal(size=(2, 4))
    found = compiled(signatures["recommend"])(taste=taste, k=[6])

    names = np.insert(found["candidate_ids"], 2, b"unknown", axis=1)
    scores = compiled(signatures["score"])(taste=taste, candidate_ids=names)["scores"]

    assert scores[:, 2].tolist() == [LOWEST, LOWEST]
    np.testing.assert_array_equal(np.delete(scores, 2, axis=1), found["scores"])


def test_one_list_of_candidates_is_scored_for_every_query():
    score = compiled(retriever(embeddings_of(30)).signatures()["score"])

    scores = score(taste=[[1, 0, 0, 0], [0, 2, 0, 0]], candidate_ids=[["id-4", ""]])["scores"]

    row = ids_of(30).index("id-4")
    first, second = embeddings_of(30)[row, :2]
    assert scores.tolist() == [[first, LOWEST], [2 * second, LOWEST]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_query_that_is_not_finite_is_one_of_which_nothing_is_known(value):
    answer = recommend("exact", 30)(taste=[[value, 0, 0, 0]], k=[2])

    assert answer["scores"].tolist() == [[0.0, 0.0]]
    assert answer["candidate_ids"].tolist() == [[b"id-0", b"id-1"]]


def test_a_retriever_wants_an_id_for_each_row_of_the_index():
    tower = ServedTower(Encoder({"taste": Vector(dimension=DIMENSION)}, "unused"), Passing())

    with pytest.raises(ValueError, match="expected 30, got 2"):
        Retriever(tower, ExactIndex(embeddings_of(30)), ["a", "b"], default_k=1, max_k=1)


class TestCandidateIds:
    STRANGE = sorted(["a\nb", "  ", "Ü", "🎬", "7", "07", "x" * 300], key=str.encode)

    def test_rows_are_positions_and_lead_back_to_the_ids(self):
        ids = CandidateIds(self.STRANGE)

        rows = ids.rows(tf.constant([self.STRANGE[::-1]]))

        assert rows.numpy().tolist() == [[6, 5, 4, 3, 2, 1, 0]]
        assert ids.texts(rows).numpy().tolist() == [[name.encode() for name in self.STRANGE[::-1]]]

    def test_unknown_ids_have_no_row(self):
        rows = CandidateIds(["b"]).rows(tf.constant(["a", "b", "", "c", "B"]))

        assert rows.numpy().tolist() == [-1, 0, -1, -1, -1]

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            pytest.param(["a", "b", "b"], "'b' occurs twice", id="twice"),
            pytest.param(["", "a"], "empty", id="empty"),
        ],
    )
    def test_ids_that_cannot_be_told_apart_are_refused(self, ids, message):
        with pytest.raises(UserError, match=message):
            CandidateIds(ids)

    def test_ids_must_be_sorted(self):
        with pytest.raises(ValueError, match="sorted"):
            CandidateIds(["b", "a"])


class TestServedTower:
    @pytest.fixture
    def tower(self, tmp_path) -> ServedTower:
        (tmp_path / "user_id.txt").write_text("ann\nbob\n")
        (tmp_path / "item_id.txt").write_text("i1\ni2\ni3\n")
        features = {"user_id": Id(), "history": History(length=2), "age": Number()}
        encoder = Encoder(features, tmp_path, ("item_id", Id()))
        return ServedTower(encoder, Embedding())

    def test_unknown_users_and_empty_histories_are_normal(self, tower):
        raw = {"user_id": [""], "history": [[""]], "age": [float("nan")]}

        embedding = tower({name: tf.constant(value) for name, value in raw.items()})

        assert embedding.shape == (1, 3)
        assert np.isfinite(embedding).all()

    def test_embeds_as_in_inference(self, tower):
        raw = {"user_id": ["bob"] * 50, "history": [["i2"]] * 50, "age": [3.0] * 50}

        embeddings = tower({name: tf.constant(value) for name, value in raw.items()})

        # Dropout would change some of them by far more than rounding does.
        np.testing.assert_allclose(embeddings, np.repeat(embeddings[:1], 50, axis=0), atol=1e-6)

    def test_an_infinite_number_gives_the_vector_zero(self, tower):
        raw = {"user_id": ["bob"], "history": [["i2"]], "age": [float("inf")]}

        embedding = tower({name: tf.constant(value) for name, value in raw.items()})

        np.testing.assert_array_equal(embedding, np.zeros((1, 3)))


class Embedding(keras.Model):
    """A small Keras tower with dropout, which must be off when it serves."""

    def __init__(self) -> None:
        super().__init__()
        self._table = keras.layers.Embedding(9, 3)
        self._dropout = keras.layers.Dropout(0.5)

    def call(self, encoded: dict[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        known = tf.math.multiply_no_nan(encoded["age"], tf.cast(encoded["age"] > 0, tf.float32))
        vectors = self._table(encoded["user_id"]) + known[:, tf.newaxis]
        vectors += tf.reduce_sum(self._table(encoded["history"]), axis=1)
        return tf.math.l2_normalize(self._dropout(vectors, training=training), axis=-1)


@pytest.mark.parametrize("name", ["exclude_ids", "allow_ids"])
def test_a_list_that_is_spread_over_too_many_queries_is_refused(name):
    num_queries = 4
    wide = tf.fill([1, MAX_CELLS // num_queries + 1], "unknown")

    with pytest.raises(tf.errors.InvalidArgumentError, match=f"`{name}` makes more than"):
        recommend("exact", 2)(taste=np.ones([num_queries, DIMENSION]), **{name: wide})
