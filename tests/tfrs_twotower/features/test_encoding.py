"""Raw values become rows and numbers, the same in a graph as outside, for every kind."""

import subprocess
import sys
import zoneinfo
from datetime import UTC, datetime

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tfrs_twotower.features.encoding import Encoder, Vocabulary, missing_value
from tfrs_twotower.schema.features import (
    Boolean,
    Categorical,
    Feature,
    Fill,
    History,
    Id,
    MultiCategorical,
    Number,
    Text,
    Timestamp,
    Vector,
)

NAN = float("nan")
# One out-of-vocabulary bucket: 0 missing, 1 unknown, then these.
TOKENS = ["red", "green", "blue", "à la carte"]
RED, GREEN, BLUE = 2, 3, 4


@pytest.fixture(scope="module")
def vocabulary_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabularies")
    (folder / "feature.txt").write_text("".join(f"{t}\n" for t in TOKENS), encoding="utf-8")
    # The candidate ids, which a history refers to, in another order.
    (folder / "item.txt").write_text("blue\nred\n", encoding="utf-8")
    (folder / "empty.txt").write_text("")
    return folder


@pytest.fixture(scope="module")
def encode(vocabulary_dir):
    """Encodes a batch eagerly and in a graph of unknown batch size, and compares."""

    def encoded(feature: Feature, raw: object, *, name: str = "feature") -> np.ndarray:
        encoder = Encoder({name: feature}, vocabulary_dir, ("item", Id()))
        spec = encoder.raw_specs[name]
        values = tf.constant(raw, spec.dtype)
        eagerly = encoder({name: values})[name]
        in_graph = tf.function(lambda values: encoder({name: values}), input_signature=[spec])
        np.testing.assert_array_equal(in_graph(values)[name], eagerly)
        assert encoder.encoded_specs[name].is_compatible_with(eagerly)
        return eagerly.numpy()

    return encoded


# --- vocabularies ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Id, Categorical])
def test_a_token_is_its_line_after_the_padding_and_the_unknown_row(encode, kind):
    rows = encode(kind(), ["green", "red", "à la carte"])

    assert rows.tolist() == [3, 2, 5]


@pytest.mark.parametrize("kind", [Id, Categorical])
def test_a_missing_token_is_row_zero_and_an_unknown_one_is_not(encode, kind):
    assert encode(kind(), ["", "mauve", " "]).tolist() == [0, 1, 1]


def test_tokens_are_compared_byte_by_byte(encode):
    assert encode(Id(), ["Red", "red ", "red\t", "ré"]).tolist() == [1, 1, 1, 1]


def test_unknown_tokens_share_the_buckets_before_the_vocabulary(encode):
    unknown = [f"unknown-{number}" for number in range(200)]

    rows = encode(Id(oov_buckets=3), [*unknown, "red"])

    assert rows[-1] == 1 + 3  # after padding and three buckets
    assert set(rows[:-1]) == {1, 2, 3}


@pytest.mark.slow
def test_an_unknown_token_has_the_same_bucket_in_every_process(vocabulary_dir):
    script = (
        "import sys, tensorflow as tf\n"
        "from tfrs_twotower.features.encoding import Vocabulary\n"
        "print(Vocabulary(sys.argv[1], 1000)(tf.constant(['ghost', 'phantom'])).numpy().tolist())\n"
    )
    path = str(vocabulary_dir / "feature.txt")

    printed = subprocess.run(
        [sys.executable, "-c", script, path], check=True, capture_output=True, text=True
    ).stdout

    here = Vocabulary(path, 1000)(tf.constant(["ghost", "phantom"])).numpy().tolist()
    assert printed.split("\n")[0] == str(here)


def test_a_vocabulary_counts_padding_buckets_and_tokens(vocabulary_dir):
    encoder = Encoder(
        {"feature": Categorical(oov_buckets=3), "words": Text(buckets=50)}, vocabulary_dir
    )

    assert encoder.num_rows("feature") == 1 + 3 + len(TOKENS)
    assert encoder.num_rows("words") == 1 + 50


def test_an_empty_vocabulary_knows_only_missing_and_unknown(encode, vocabulary_dir):
    assert encode(Categorical(), ["red", ""], name="empty").tolist() == [1, 0]
    assert Encoder({"empty": Categorical()}, vocabulary_dir).num_rows("empty") == 2


def test_an_empty_vocabulary_survives_in_a_saved_model(vocabulary_dir, tmp_path):
    module = tf.Module()
    module.encoder = Encoder({"empty": Categorical()}, vocabulary_dir)
    spec = module.encoder.raw_specs["empty"]
    module.encode = tf.function(lambda values: module.encoder({"empty": values}), [spec])

    tf.saved_model.save(module, str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))

    assert loaded.encode(tf.constant(["red", ""]))["empty"].numpy().tolist() == [1, 0]


def test_a_saved_encoder_carries_its_vocabulary(vocabulary_dir, tmp_path):
    copied = tmp_path / "vocabularies"
    copied.mkdir()
    (copied / "feature.txt").write_bytes((vocabulary_dir / "feature.txt").read_bytes())
    module = tf.Module()
    module.encoder = Encoder({"feature": Id()}, copied)
    spec = module.encoder.raw_specs["feature"]
    module.encode = tf.function(lambda values: module.encoder({"feature": values}), [spec])

    tf.saved_model.save(module, str(tmp_path / "saved"))
    (copied / "feature.txt").unlink()
    loaded = tf.saved_model.load(str(tmp_path / "saved"))

    assert loaded.encode(tf.constant(["blue"]))["feature"].numpy().tolist() == [BLUE]


def test_a_token_missing_is_filled_before_the_look_up(encode):
    assert encode(Categorical(missing=Fill(fill="blue")), ["", "red"]).tolist() == [BLUE, RED]


def test_a_fill_that_the_vocabulary_does_not_know_is_unknown(encode):
    assert encode(Categorical(missing=Fill(fill="mauve")), [""]).tolist() == [1]


# --- lists ----------------------------------------------------------------------------------


def test_tokens_of_a_list_move_to_the_front_in_their_order(encode):
    rows = encode(
        MultiCategorical(max_length=4), [["", "blue", "", "red", "mauve"], [""] * 5, ["red"] * 5]
    )

    assert rows.tolist() == [[BLUE, RED, 1, 0], [0, 0, 0, 0], [RED, RED, RED, RED]]


def test_a_list_keeps_its_first_tokens_and_a_history_its_last(encode):
    tokens = [["red", "", "green", "blue", ""]]

    assert encode(MultiCategorical(max_length=2), tokens).tolist() == [[RED, GREEN]]
    # A history has the candidate ids' rows: blue 2, red 3; green is unknown there.
    assert encode(History(length=2), tokens).tolist() == [[1, 2]]


def test_a_short_history_is_padded_at_its_end(encode):
    histories = [["red", "", ""], ["", "", "blue"], ["", "", ""]]

    assert encode(History(length=5), histories).tolist() == [
        [3, 0, 0, 0, 0],
        [2, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_a_history_hashes_unknown_candidates_into_the_candidates_buckets(vocabulary_dir):
    encoder = Encoder({"recent": History(length=1)}, vocabulary_dir, ("item", Id(oov_buckets=7)))
    histories = [[f"unknown-{number}"] for number in range(100)] + [["blue"]]

    rows = encoder({"recent": tf.constant(histories)})["recent"].numpy()[:, 0]

    assert rows[-1] == 1 + 7
    assert set(rows[:-1]) == set(range(1, 8))


def test_a_history_needs_to_know_the_candidates_id(vocabulary_dir):
    with pytest.raises(ValueError, match="history needs `candidate_id`"):
        Encoder({"recent": History()}, vocabulary_dir)


def test_an_empty_list_is_filled_and_others_are_left_alone(encode):
    rows = encode(
        MultiCategorical(max_length=3, missing=Fill(fill="blue")),
        [["", ""], ["", "red"], ["green", "red"]],
    )

    assert rows.tolist() == [[BLUE, 0, 0], [RED, 0, 0], [GREEN, RED, 0]]


@pytest.mark.parametrize(
    "feature",
    [MultiCategorical(max_length=3), MultiCategorical(missing=Fill(fill="red")), History(length=3)],
    ids=["list", "filled-list", "history"],
)
@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (2, 0)])
def test_lists_may_have_no_entries_and_batches_no_rows(encode, feature, shape):
    rows = encode(feature, np.full(shape, "", object))

    filled = isinstance(feature.missing, Fill)
    assert rows.shape[0] == shape[0]
    assert np.count_nonzero(rows) == (shape[0] if filled else 0)


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.sampled_from(["", *TOKENS]), min_size=6, max_size=6), max_size=4),
    st.integers(1, 8),
)
def test_lists_and_histories_are_what_plain_python_makes_of_them(vocabulary_dir, batch, length):
    features = {"feature": MultiCategorical(max_length=length), "recent": History(length=length)}
    encoder = Encoder(features, vocabulary_dir, ("feature", Id()))
    raw = tf.constant(batch, tf.string, [len(batch), 6])

    encoded = encoder({"feature": raw, "recent": raw})

    row_of = {token: 2 + line for line, token in enumerate(TOKENS)}
    rows = [[row_of[token] for token in tokens if token] for tokens in batch]
    padding = [0] * length
    first = [(tokens + padding)[:length] for tokens in rows]
    last = [(tokens[-length:] + padding)[:length] for tokens in rows]
    assert encoded["feature"].numpy().tolist() == first
    assert encoded["recent"].numpy().tolist() == last


# --- text -----------------------------------------------------------------------------------


def words_alike(encode, one: str, other: str) -> bool:
    first, second = encode(Text(buckets=1_000_000, max_length=8), [one, other])
    return bool((first == second).all())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Good, the Bad & the Ugly!", "the good the bad the ugly"),
        ("ÉCOLE Straße", "école straße"),
        ("ΣΟΦΙΑ Москва", "σοφια москва"),
        ("  toy\tstory\n(1995) ", "toy story 1995"),
        ("東京 物語", "東京、物語"),
        ("٣ أفلام", "٣... أفلام"),
    ],
    ids=["punctuation", "latin", "greek-cyrillic", "spaces", "han", "arabic"],
)
def test_words_are_letters_and_digits_of_any_script_in_lower_case(encode, one, other):
    assert words_alike(encode, one, other)


@pytest.mark.parametrize(
    ("text", "num_words"),
    [
        ("", 0),
        (" ?! ", 0),
        ("one", 1),
        ("one-two_three", 3),
        ("naïve café", 2),
        ("हिन्दी किताब", 2),  # vowel signs are marks within a word
        ("a b c d e f", 4),  # cut at the length
    ],
)
def test_a_text_has_one_row_a_word_and_padding_after_them(encode, text, num_words):
    (rows,) = encode(Text(max_length=4), [text])

    assert np.count_nonzero(rows) == num_words
    assert (rows[:num_words] > 0).all()


def test_words_are_hashed_after_row_zero_into_all_buckets(encode):
    texts = [f"word{number}" for number in range(100)]

    rows = encode(Text(buckets=5, max_length=1), texts)

    assert set(rows[:, 0]) == {1, 2, 3, 4, 5}


def test_the_same_word_has_the_same_row_wherever_it_stands(encode):
    ((first, _, third),) = encode(Text(max_length=3), ["so it so"])

    assert first == third


def test_a_missing_text_is_filled_and_one_without_words_is_not(encode):
    rows = encode(
        Text(missing=Fill(fill="untitled film"), max_length=3), ["", "untitled film", "!"]
    )

    assert rows[0].tolist() == rows[1].tolist()
    assert rows[2].tolist() == [0, 0, 0]


def test_bytes_that_are_no_unicode_do_not_stop_a_batch(encode):
    rows = encode(Text(max_length=2), [b"caf\xe9", b"\xff\xfe", b"fine"])

    assert rows[2, 0] > 0


def test_a_batch_of_no_texts_has_no_rows(encode):
    assert encode(Text(max_length=3), np.zeros(0, object)).shape == (0, 3)


@settings(max_examples=100)
@given(st.text(max_size=40))
@example("\x00")
@example("İstanbul")
def test_any_text_is_encoded_within_its_shape_and_buckets(vocabulary_dir, text):
    encoder = Encoder({"words": Text(buckets=7, max_length=5)}, vocabulary_dir)

    rows = encoder({"words": tf.constant([text])})["words"].numpy()

    assert rows.shape == (1, 5)
    assert rows.min() >= 0
    assert rows.max() <= 7


# --- numbers --------------------------------------------------------------------------------


def test_numbers_pass_and_missing_ones_stay_missing_for_the_tower(encode):
    values = encode(Number(), [1.5, NAN, -2.0, 0.0])

    np.testing.assert_array_equal(values, np.array([1.5, NAN, -2.0, 0.0], np.float32))


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        (Number(missing=Fill(fill=7.0)), [7.0, 3.0]),
        (Number(missing=Fill(fill=0.0)), [0.0, 3.0]),
        (Boolean(missing=Fill(fill=True)), [1.0, 3.0]),
        (Boolean(missing=Fill(fill=False)), [0.0, 3.0]),
    ],
    ids=["seven", "zero", "true", "false"],
)
def test_a_missing_number_is_filled_and_others_are_left_alone(encode, feature, expected):
    assert encode(feature, [NAN, 3.0]).tolist() == expected


def test_vectors_pass_whole(encode):
    values = [[1.0, -2.0, 0.5], [NAN, NAN, NAN]]

    np.testing.assert_array_equal(encode(Vector(dimension=3), values), np.float32(values))


@pytest.mark.parametrize("feature", [Number(), Boolean(), Vector(dimension=2)])
def test_batches_of_numbers_may_be_empty(encode, feature):
    shape = (0, 2) if isinstance(feature, Vector) else (0,)

    assert encode(feature, np.zeros(shape)).shape == shape


# --- timestamps -----------------------------------------------------------------------------


def by_zoneinfo(second: int, zone: str) -> list[int]:
    """1 + hour and 1 + weekday by Python's own calendar."""
    local = datetime.fromtimestamp(second, UTC).astimezone(zoneinfo.ZoneInfo(zone))
    return [1 + local.hour, 1 + local.weekday()]


def unix(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def test_the_parts_of_a_moment_in_utc(encode):
    # 2024-02-29, a Thursday, 23:59:59, and the second after it.
    moments = [unix("2024-02-29T23:59:59+00:00"), unix("2024-03-01T00:00:00+00:00")]

    assert encode(Timestamp(), moments).tolist() == [[24, 4], [1, 5]]


def test_parts_stand_in_the_order_of_the_config(encode):
    moment = [unix("2024-02-29T23:59:59+00:00")]

    assert encode(Timestamp(parts=("weekday", "hour")), moment).tolist() == [[4, 24]]
    assert encode(Timestamp(parts=("weekday",)), moment).tolist() == [[4]]


@pytest.mark.parametrize("second", [0, -1, -(2**40)])
def test_no_time_is_row_zero_in_every_zone(encode, second):
    for zone in ("UTC", "America/New_York", "Asia/Kolkata"):
        assert encode(Timestamp(time_zone=zone), [second]).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        # The second in which the clock changes, in UTC.
        ("Europe/Paris", "2024-03-31T01:00:00+00:00"),
        ("Europe/Paris", "2024-10-27T01:00:00+00:00"),
        ("America/New_York", "2024-03-10T07:00:00+00:00"),
        ("Australia/Lord_Howe", "2024-04-06T15:00:00+00:00"),  # half an hour
        ("Africa/Casablanca", "2024-04-14T02:00:00+00:00"),  # around Ramadan
        ("Pacific/Apia", "2011-12-30T10:00:00+00:00"),  # skips a whole day
        ("America/Sao_Paulo", "1999-10-03T03:00:00+00:00"),
        ("Asia/Kathmandu", "1985-12-31T18:30:00+00:00"),  # a quarter of an hour
    ],
)
def test_parts_follow_the_clock_of_the_zone_across_a_change(encode, zone, change):
    seconds = [
        unix(change) + offset for offset in (-86400, -3600, -1, 0, 1, 1800, 3599, 3600, 86400)
    ]
    before, after = (
        datetime.fromtimestamp(unix(change) + offset, UTC)
        .astimezone(zoneinfo.ZoneInfo(zone))
        .utcoffset()
        for offset in (-1, 0)
    )
    assert before != after, "the test names no change"

    rows = encode(Timestamp(time_zone=zone), seconds)

    assert rows.tolist() == [by_zoneinfo(second, zone) for second in seconds]


@pytest.fixture(scope="module")
def clocks(vocabulary_dir):
    zones = ("UTC", "Europe/Dublin", "America/St_Johns", "Asia/Tehran", "Pacific/Chatham")
    return {zone: Encoder({"moment": Timestamp(time_zone=zone)}, vocabulary_dir) for zone in zones}


@settings(max_examples=50)
@given(st.lists(st.integers(1, unix("2099-12-30T00:00:00+00:00")), min_size=1, max_size=50))
def test_parts_are_those_of_pythons_calendar_at_any_moment(clocks, seconds):
    for zone, encoder in clocks.items():
        rows = encoder({"moment": tf.constant(seconds, tf.int64)})["moment"].numpy()

        assert rows.tolist() == [by_zoneinfo(second, zone) for second in seconds]


def test_a_moment_beyond_the_known_changes_keeps_the_last_offset(encode):
    # New Year 2200 in Paris: winter time, an hour ahead of UTC; a Wednesday.
    moment = [unix("2199-12-31T23:30:00+00:00")]

    assert encode(Timestamp(time_zone="Europe/Paris"), moment).tolist() == [[1, 3]]


def test_a_batch_of_no_moments_has_no_rows(encode):
    assert encode(Timestamp(time_zone="Europe/Paris"), np.zeros(0, np.int64)).shape == (0, 2)


# --- all kinds together ---------------------------------------------------------------------

EVERY_KIND = {
    "who": Id(),
    "colour": Categorical(),
    "tags": MultiCategorical(max_length=2),
    "title": Text(max_length=3),
    "price": Number(),
    "new": Boolean(),
    "content": Vector(dimension=2),
    "moment": Timestamp(),
    "recent": History(length=2),
}


def test_what_stands_for_missing_is_encoded_as_missing_for_every_kind(vocabulary_dir, tmp_path):
    for name in ("who", "colour", "tags"):
        (tmp_path / f"{name}.txt").write_text("red\n")
    encoder = Encoder(EVERY_KIND, tmp_path, ("who", Id()))
    raw = {}
    for name, spec in encoder.raw_specs.items():
        shape = [1 if size is None else size for size in spec.shape]
        raw[name] = tf.fill(shape, tf.constant(missing_value(EVERY_KIND[name]), spec.dtype))

    encoded = {name: values.numpy().tolist() for name, values in encoder(raw).items()}

    assert {name: encoded[name] for name in ("who", "colour", "tags", "title")} == {
        "who": [0],
        "colour": [0],
        "tags": [[0, 0]],
        "title": [[0, 0, 0]],
    }
    assert encoded["moment"] == [[0, 0]]
    assert encoded["recent"] == [[0, 0]]
    assert np.isnan(encoded["price"] + encoded["new"] + encoded["content"][0]).all()


def test_an_encoder_reads_its_own_features_and_no_others(vocabulary_dir):
    encoder = Encoder({"feature": Id()}, vocabulary_dir)

    encoded = encoder({"feature": tf.constant(["red"]), "other": tf.constant([1.0])})

    assert list(encoded) == ["feature"]


def test_declared_shapes_and_types_are_those_of_the_values(tmp_path):
    for name in ("who", "colour", "tags"):
        (tmp_path / f"{name}.txt").write_text("red\n")
    encoder = Encoder(EVERY_KIND, tmp_path, ("who", Id()))
    encode = tf.function(lambda raw: encoder(raw), input_signature=[encoder.raw_specs])

    declared = encoder.encoded_specs
    traced = encode.get_concrete_function().structured_outputs

    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in declared.items()} == {
        name: (spec.shape.as_list(), spec.dtype) for name, spec in traced.items()
    }
