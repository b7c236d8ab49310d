"""Requests merged as TF Serving merges them: each is answered as it is alone, or refused."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tfrs_twotower.features.encoding import Encoder
from tfrs_twotower.index import ExactIndex
from tfrs_twotower.keras import tf
from tfrs_twotower.models.two_tower import TwoTowerModel
from tfrs_twotower.publishing.halves import JoinedTower
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.retrieval.padding import CANDIDATE_IDS, refusing_filled_lists
from tfrs_twotower.retrieval.retriever import Retriever, ServedTower, Signature
from tfrs_twotower.schema import parse_config
from tfrs_twotower.schema.rules import Rules

ITEMS = [f"i{number}" for number in range(8)]
CONFIG = """
columns: {{timestamp: ts}}
features:
  query: {{user: {{kind: id}}, recent: {{kind: history, length: 4, encoder: {encoder}}}}}
  context: {{likes: {{kind: multi_categorical, max_length: 3}}}}
  candidate: {{item: {{kind: id}}, genres: {{kind: multi_categorical}}}}
towers: {{embedding_dim: 4, context_mode: trilinear}}
"""
VOCABULARIES = {"user": ["ann"], "likes": ITEMS, "item": ITEMS, "genres": ITEMS}

Call = Callable[[Mapping[str, Any]], dict[str, np.ndarray]]
Request = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabularies")
    for name, tokens in VOCABULARIES.items():
        (folder / f"{name}.txt").write_text("\n".join(tokens) + "\n")
    return folder


def signatures(encoder: str, vocabularies: Path) -> dict[str, Signature]:
    """All that an export has, of a model as if it had learned something."""
    config = parse_config(CONFIG.format(encoder=encoder), "test.yaml")
    rows = {name: 2 + len(tokens) for name, tokens in VOCABULARIES.items()}
    model = TwoTowerModel.from_config(config, rows, {})
    of_query = Encoder(config.query_features, vocabularies, config.candidate_id)
    of_candidate = Encoder(config.candidate_features, vocabularies)
    query_tower = ServedTower(of_query, model.query_tower)
    candidate_tower = ServedTower(of_candidate, model.candidate_tower)
    draw = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign_add(draw.normal(size=variable.shape, scale=0.5).astype(np.float32))
    joined = JoinedTower(of_query, model.query_tower, config)
    retriever = Retriever(
        query_tower,
        ExactIndex(draw.normal(size=[len(ITEMS), 4]).astype(np.float32)),
        ITEMS,
        default_k=3,
        max_k=5,
        attributes=CandidateAttributes(
            Rules(filters=["genre"]), pa.table({"genre": ["a", "b"] * 4})
        ),
        joined_tower=joined,
    )
    return {
        "candidate_tower": candidate_tower.signatures("candidate_embedding")["serving_default"],
        **joined.signatures(),
        **retriever.signatures(),
    }


def compiled(function: Callable[..., Any], inputs: Mapping[str, tf.TensorSpec]) -> Call:
    graph = tf.function(function, [dict(inputs)])

    def call(given: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in graph(dict(given)).items()}

    return call


def merged(requests: Sequence[Request]) -> Request:
    """TF Serving's `pad_variable_length_inputs`."""

    def filled(name: str) -> np.ndarray:
        width = max(one[name].shape[-1] for one in requests)
        return np.concatenate([to_width(one[name], width) for one in requests])

    return {name: filled(name) for name in requests[0]}


def to_width(array: np.ndarray, width: int) -> np.ndarray:
    if array.ndim == 1:
        return array
    missing = [(0, 0), (0, width - array.shape[1])]
    return np.pad(array, missing, constant_values=array.flat[0])


def drawn(signature: Signature, draw: np.random.Generator, start: Sequence[str]) -> Request:
    """A request of one to three rows, with every input; its lists begin with `start`."""
    num_rows = draw.integers(1, 4)
    request = {}
    for name, spec in signature.inputs.items():
        if spec.shape.rank == 1 and spec.dtype == tf.string:
            request[name] = draw.choice(["ann", "bob", ""], num_rows).astype(object)
        elif spec.dtype == tf.string:
            few = ["a", "b"] if name.startswith("filter") else ITEMS
            of_score = name == CANDIDATE_IDS
            counts = draw.integers(1, 6, num_rows)
            lists = [[*([] if of_score else start), *draw.choice(few, n)] for n in counts]
            request[name] = np.array(list(itertools.zip_longest(*lists, fillvalue="")), object).T
        elif name in signature.defaults:
            request[name] = np.repeat(signature.defaults[name].numpy(), num_rows)
        else:
            request[name] = draw.normal(size=[num_rows, spec.shape[1]]).astype(np.float32)
    return request


def answers(call: Call, requests: Sequence[Request]) -> list[dict[str, np.ndarray]]:
    """What each request is told of a merged run."""
    outputs = call(merged(requests))
    ends = np.cumsum([len(next(iter(one.values()))) for one in requests])[:-1]
    parts = {name: np.split(array, ends) for name, array in outputs.items()}
    return [{name: parts[name][place] for name in parts} for place in range(len(requests))]


def is_same(found: dict[str, np.ndarray], alone: dict[str, np.ndarray]) -> bool:
    """Whether the answer holds what is told to the request alone, in its first columns."""

    def like(name: str) -> bool:
        own = found[name][:, : alone[name].shape[1]] if alone[name].ndim > 1 else found[name]
        if own.dtype == object:
            return own.tolist() == alone[name].tolist()
        return np.allclose(own, alone[name], atol=1e-5)

    return all(like(name) for name in alone)


def outcomes(call: Call, alone: Call, signature: Signature, start: Sequence[str]) -> list[str]:
    found = []
    for seed in range(12):
        draw = np.random.default_rng(seed)
        requests = [drawn(signature, draw, start) for _ in range(3)]
        expected = [alone(request) for request in requests]
        try:
            together = answers(call, requests)
        except tf.errors.InvalidArgumentError as error:
            refused = "may have filled it up" in error.message
            found.append("refused" if refused else error.message)
        else:
            same = all(map(is_same, together, expected))
            found.append("right" if same else "wrong")
    return found


# What differs by encoder is the embedding: for the rest, one of them is enough.
@pytest.mark.parametrize(
    ("encoder", "names"),
    [
        pytest.param("mean", ["user", "candidate_tower"], marks=pytest.mark.slow, id="mean"),
        pytest.param("gru", ["user"], id="gru"),
        pytest.param("attention", ["user", "join"], marks=pytest.mark.slow, id="attention"),
        pytest.param(
            "attention",
            ["serving_default", "recommend", "score", "recommend_joined"],
            marks=pytest.mark.slow,
            id="retrieval",
        ),
    ],
)
def test_merged_requests_are_answered_as_alone_or_refused(encoder, names, vocabularies):
    found = signatures(encoder, vocabularies)
    was_wrong = set()
    for name in names:
        one = found[name]
        unchecked = compiled(one.function, one.inputs)
        check = refusing_filled_lists(lambda given: given, one.inputs)

        def checked(given, check=check, unchecked=unchecked):
            return unchecked(check({name: tf.constant(value) for name, value in given.items()}))

        assert set(outcomes(checked, unchecked, one, [""])) == {"right"}, name
        assert set(outcomes(checked, unchecked, one, [])) <= {"right", "refused"}, name
        if "wrong" in outcomes(unchecked, unchecked, one, []):
            was_wrong.add(name)

    assert was_wrong == set(names)  # Or the imitation would prove nothing.


def refuses(rows: list[list[str]]) -> bool:
    spec = {"words": tf.TensorSpec([None, None], tf.string, "words")}
    call = refusing_filled_lists(lambda given: given, spec)
    try:
        echoed = call({"words": tf.constant(rows, tf.string)})["words"]
    except tf.errors.InvalidArgumentError as error:
        return "words" in error.message
    assert echoed.numpy().tolist() == [[word.encode() for word in row] for row in rows]
    return False


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([["a", "b", "a"]], False, id="one query alone"),
        pytest.param([["a", "b", "a"], ["x", "y", "z"]], True, id="ends as it begins"),
        pytest.param([["a", "b"], ["c", "a"]], True, id="ends as an earlier row begins"),
        pytest.param([["a", "b"], ["b", "c"]], False, id="ends as a later row begins"),
        pytest.param([["", "a", "b"], ["", "c", "a"]], False, id='starts with ""'),
        pytest.param([["a", "b"], ["c", ""]], False, id='ends with ""'),
        pytest.param([["a"], ["a"]], False, id="one column"),
        pytest.param([[], []], False, id="no column"),
        pytest.param([], False, id="no row"),
    ],
)
def test_what_may_have_been_filled_up_is_refused(rows, expected):
    if not rows:
        assert refusing_filled_lists(
            lambda given: given, {"words": tf.TensorSpec([None, None], tf.string)}
        )({"words": tf.zeros([0, 2], tf.string)})["words"].shape == (0, 2)
        return
    assert refuses(rows) == expected


def test_other_inputs_are_left_alone():
    spec = {"taste": tf.TensorSpec([None, 3], tf.float32), "user": tf.TensorSpec([None], tf.string)}

    def function(given):
        return dict(given)

    assert refusing_filled_lists(function, spec) is function
