"""`twotower init`: from somebody's files to a config that loads."""

import json

import numpy as np
import pandas as pd
import pytest

from tfrs_twotower.datasets.inspect import inspect_dataset, write_config
from tfrs_twotower.schema import UsageError, UserError, load_config, parse_config
from tfrs_twotower.schema.features import (
    Boolean,
    Categorical,
    History,
    Id,
    MultiCategorical,
    Number,
    Text,
    Vector,
)
from tfrs_twotower.schema.training import Training

JANUARY = 1_704_067_200  # 1 January 2024, 00:00 UTC


def write_csv(folder, name, **columns):
    folder.mkdir(exist_ok=True)
    pd.DataFrame(columns).to_csv(folder / name, index=False)


@pytest.fixture
def shop(tmp_path):
    """A log of 100 rows, 10 users and 20 products, with everything that can be guessed."""
    rows = np.arange(100)
    write_csv(
        tmp_path,
        "interactions.csv",
        customer_id=[f"c{row % 10}" for row in rows],
        product_id=[f"p{row % 20}" for row in rows],
        event_time=JANUARY + 60 * rows,
        action=["view"] * 70 + ["like"] * 20 + ["purchase"] * 9 + ["dislike"],
        device=["phone", "desk"] * 50,
    )
    products = pd.DataFrame(
        {
            "product_id": [f"p{row}" for row in range(20)],
            "name": [f"Thing number {row}" for row in range(20)],
            "tags": ["red|round", "round", "red|flat", "flat"] * 5,
            "price": [1.5, 2.5, 3.5, 4.5] * 5,
            "in_stock": [True, False] * 10,
            "embedding": [[float(row), 1.0, 2.0] for row in range(20)],
            "url": [f"https://shop/{row}" for row in range(20)],
            "published_at": [JANUARY - 86_400 * row for row in range(20)],
        }
    )
    products.to_parquet(tmp_path / "candidates.parquet")
    people = [{"customer_id": f"c{row}", "city": "AB"[row % 2]} for row in range(10)]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, people)))
    return tmp_path


def test_the_draft_trains_as_a_config_that_says_nothing_of_training(shop):
    assert inspect_dataset(shop).config.training == Training()


def test_a_column_whose_name_is_a_word_of_python_gets_another_feature_name(tmp_path):
    rows = np.arange(20)
    write_csv(tmp_path, "interactions.csv", user=rows % 5, item=rows % 10, ts=JANUARY + rows)
    write_csv(tmp_path, "candidates.csv", item=range(10), **{"class": ["a", "b"] * 5})

    candidate = inspect_dataset(tmp_path).config.features.candidate

    assert candidate["f_class"] == Categorical(column="class")


def test_roles_are_found_by_name_and_content(shop):
    columns = inspect_dataset(shop).config.columns

    assert columns.query_id == "customer_id"
    assert columns.candidate_id == "product_id"
    assert columns.timestamp == "event_time"
    assert columns.event == "action"
    assert columns.title == "name"
    assert columns.available_from == "published_at"
    assert columns.value is columns.split is columns.order is None


def test_features_are_found_by_content(shop):
    features = inspect_dataset(shop).config.features

    assert {name: type(feature) for name, feature in features.query.items()} == {
        "customer_id": Id,
        "city": Categorical,
        "history": History,
    }
    assert {name: type(feature) for name, feature in features.candidate.items()} == {
        "product_id": Id,
        "name": Text,
        "tags": MultiCategorical,
        "price": Number,
        "in_stock": Boolean,
        "embedding": Vector,
    }
    assert features.candidate["embedding"].dimension == 3
    assert features.candidate["tags"].separator == "|"
    assert not features.context


def test_what_is_known_at_the_moment_of_the_query_is_offered_and_not_used(shop):
    text = inspect_dataset(shop).config_text

    offered = text.replace("  # context:", "  context:").replace("    # clock:", "    clock:")
    assert list(parse_config(offered, "the draft").features.context) == ["clock"]


def test_columns_that_are_not_used_are_named_with_the_reason(shop):
    text = inspect_dataset(shop).config_text

    assert "# url: not used (20 different values, an id or a link)" in text
    assert "# device: {kind: categorical}" in text


def test_labels_are_previewed_by_event(shop):
    labels = inspect_dataset(shop).labels

    assert [(row.value, row.rows, row.label, row.weight) for row in labels] == [
        ("view", 70, 1, 0.5),
        ("like", 20, 1, 1.0),
        ("purchase", 9, 1, 2.0),
        ("dislike", 1, 0, 1.0),
    ]


def test_the_split_is_previewed_with_its_times(shop):
    splits = inspect_dataset(shop).splits

    assert [(part.split, part.rows, part.first_s, part.last_s) for part in splits] == [
        ("train", 80, JANUARY, JANUARY + 79 * 60),
        ("validation", 10, JANUARY + 80 * 60, JANUARY + 89 * 60),
        ("test", 10, JANUARY + 90 * 60, JANUARY + 99 * 60),
    ]


def test_only_the_head_of_a_long_log_is_read(shop):
    inspection = inspect_dataset(shop, max_rows=30)

    assert inspection.num_rows == 30
    assert not inspection.is_whole_log
    assert inspect_dataset(shop).is_whole_log


def test_the_first_rows_are_shown_as_text(shop):
    first = inspect_dataset(shop).first_rows

    assert len(first) == 5
    assert first[1] == {
        "customer_id": "c1",
        "product_id": "p1",
        "event_time": str(JANUARY + 60),
        "action": "view",
        "device": "desk",
    }


def test_the_written_config_loads_as_it_was_previewed(shop):
    inspection = inspect_dataset(shop)

    path = write_config(shop, inspection)

    assert path == shop / "twotower.yaml"
    assert load_config(path) == inspection.config


def test_a_config_that_is_there_is_not_overwritten(shop):
    inspection = inspect_dataset(shop)
    (shop / "twotower.yaml").write_text("mine")

    with pytest.raises(UsageError, match=r"twotower\.yaml exists already: pass `overwrite=True`"):
        write_config(shop, inspection)
    assert (shop / "twotower.yaml").read_text() == "mine"

    write_config(shop, inspection, overwrite=True)
    assert load_config(shop / "twotower.yaml") == inspection.config


def test_a_log_alone_is_enough(tmp_path):
    write_csv(tmp_path, "interactions.csv", user=["a", "b", "c"], item=["x", "y", "x"])

    inspection = inspect_dataset(tmp_path)

    assert list(inspection.config.features.query) == ["user", "history"]
    assert list(inspection.config.features.candidate) == ["item"]
    assert inspection.config.split.by == "random"
    assert [(row.value, row.rows, row.label) for row in inspection.labels] == [("every row", 3, 1)]
    assert any("times" in warning for warning in inspection.warnings)


def test_ids_are_found_as_keys_of_the_other_files(tmp_path):
    """Names say nothing; the columns are unique in candidates and in queries."""
    write_csv(tmp_path, "interactions.csv", kunde=["a", "b", "a"], ware=["x", "y", "z"])
    write_csv(tmp_path, "candidates.csv", ware=["x", "y", "z"], farbe=["rot", "rot", "rot"])
    write_csv(tmp_path, "queries.csv", kunde=["a", "b"])

    columns = inspect_dataset(tmp_path).config.columns

    assert (columns.query_id, columns.candidate_id) == ("kunde", "ware")


def test_candidates_that_are_newer_than_train_are_told_where_no_file_lists_them(tmp_path):
    # A tenth of the rows each is validation and test: of those twenty, fifteen are of new ones.
    items = [f"i{n % 7}" for n in range(85)] + [f"new{n}" for n in range(15)]
    users = [f"u{n % 9}" for n in range(100)]
    seconds = [1_700_000_000 + 60 * n for n in range(100)]
    write_csv(tmp_path, "interactions.csv", user_id=users, item_id=items, timestamp=seconds)

    [warning] = [text for text in inspect_dataset(tmp_path).warnings if "left out" in text]

    assert warning.startswith("75% of the rows read that come after train")
    assert "`split.corpus: log`" in warning
    write_csv(tmp_path, "candidates.csv", item_id=sorted(set(items)))
    assert not any("left out" in text for text in inspect_dataset(tmp_path).warnings)


@pytest.mark.parametrize(
    ("times", "time_format"),
    [
        pytest.param([JANUARY + n for n in range(3)], None, id="seconds"),
        pytest.param([1000 * (JANUARY + n) for n in range(3)], "milliseconds", id="milliseconds"),
        pytest.param(["01/01/2024", "13/01/2024", "14/01/2024"], "%d/%m/%Y", id="day first"),
        pytest.param(["01/01/2024", "01/13/2024", "01/14/2024"], "%m/%d/%Y", id="month first"),
    ],
)
def test_the_draft_says_how_times_are_written(tmp_path, times, time_format):
    write_csv(tmp_path, "interactions.csv", user_id=list("aba"), item_id=list("xyz"), time=times)

    inspection = inspect_dataset(tmp_path)

    assert inspection.config.columns.timestamp == "time"
    assert inspection.config.columns.time_format == time_format
    assert inspection.config.split.by == "time"
    assert inspection.splits[0].first_s == JANUARY
    assert not inspection.warnings


def test_ratings_are_positives_and_the_way_to_the_liked_ones_is_shown(tmp_path):
    write_csv(
        tmp_path,
        "interactions.csv",
        user_id=list("abcde"),
        item_id=list("vwxyz"),
        rating=[1, 2, 3, 4, 5],
    )

    inspection = inspect_dataset(tmp_path)

    assert inspection.config.columns.value == "rating"
    assert inspection.config.labels.positive_from is None
    assert "# positive_from: 4" in inspection.config_text
    assert [(row.value, row.label) for row in inspection.labels] == [
        (rating, 1) for rating in "12345"
    ]


def test_thumbs_get_a_rule_each_and_a_rare_mistake_none(tmp_path):
    write_csv(
        tmp_path,
        "interactions.csv",
        user_id=["a"] * 2000,
        item_id=["x"] * 2000,
        thumbs=[1] * 1000 + [-1] * 500 + [2] * 499 + [7],
    )

    labels = inspect_dataset(tmp_path).labels

    assert [(row.value, row.rows, row.label, row.weight) for row in labels] == [
        ("-1", 500, 0, 1.0),
        ("1", 1000, 1, 1.0),
        ("2", 499, 1, 2.0),
        ("7", 1, None, 0.0),
    ]


def test_a_split_column_is_followed(tmp_path):
    write_csv(
        tmp_path,
        "interactions.csv",
        user_id=["a"] * 25,
        item_id=["x"] * 25,
        split=["train"] * 20 + ["test"] * 5,
    )

    inspection = inspect_dataset(tmp_path)

    assert inspection.config.split.by == "column"
    assert inspection.config.split.hold_out == 0.1
    assert [part.rows for part in inspection.splits] == [18, 2, 5]


def test_an_order_within_the_user_leaves_the_last_one_out(tmp_path):
    write_csv(
        tmp_path,
        "interactions.csv",
        user_id=["a", "a", "a", "a", "b", "b", "b", "c", "c"],
        item_id=list("stuvwxyzs"),
        position=[4, 1, 2, 3, 1, 2, 3, 1, 2],
    )

    inspection = inspect_dataset(tmp_path)

    # a: two train; b: one; c has fewer than three events: both train.
    assert inspection.config.columns.order == "position"
    assert inspection.config.split.by == "leave_last_out"
    assert [part.rows for part in inspection.splits] == [5, 2, 2]


def test_candidates_that_the_file_does_not_list_are_told(tmp_path):
    write_csv(tmp_path, "interactions.csv", user_id=list("abc"), item_id=["x", "y", "gone"])
    write_csv(tmp_path, "candidates.csv", item_id=["x", "y"])

    warnings = inspect_dataset(tmp_path).warnings

    assert any(
        warning.startswith("1 of the rows read name a candidate that candidates.csv")
        for warning in warnings
    )


@pytest.mark.parametrize(
    "column",
    ["query_id", "history", "clock", "2nd", "a b", "k", "filter_x", "größe", "naïve: {yes}", "#"],
)
def test_any_name_of_a_column_gives_a_config_that_loads(tmp_path, column):
    users = [f"u{row}" for row in range(20)]
    write_csv(tmp_path, "interactions.csv", user_id=users, item_id=["x", "y"] * 10)
    write_csv(tmp_path, "queries.csv", **{"user_id": users, column: ["blue", "red"] * 10})

    features = inspect_dataset(tmp_path).config.features.query

    assert column in [feature.column or name for name, feature in features.items()]


@pytest.mark.slow
def test_the_sample_is_understood(sample_folder):
    """Nearly what its author wrote."""
    inspection = inspect_dataset(sample_folder)
    written = load_config(sample_folder / "twotower.yaml")

    assert inspection.config.columns == written.columns
    assert inspection.config.labels == written.labels
    assert inspection.config.split == written.split
    assert inspection.num_unreadable > 0
    kinds = {name: f.kind for name, f in inspection.config.features.candidate.items()}
    assert kinds.items() >= {n: f.kind for n, f in written.features.candidate.items()}.items()


def test_a_folder_without_a_log_is_told_what_is_expected(tmp_path):
    (tmp_path / "candidates.csv").write_text("item_id\nx\n")

    with pytest.raises(UserError, match=r"no interactions in .*: expected interactions\* as \.csv"):
        inspect_dataset(tmp_path)


def test_no_folder_is_told(tmp_path):
    with pytest.raises(UsageError, match="no folder .*nowhere"):
        inspect_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "user_id,item_id\n"], ids=["no-line", "header-alone"])
def test_an_empty_log_is_told(tmp_path, content):
    (tmp_path / "interactions.csv").write_text(content)

    with pytest.raises(UserError, match=r"interactions\.csv has no rows"):
        inspect_dataset(tmp_path)


def test_ids_that_cannot_be_told_are_asked_for(tmp_path):
    write_csv(tmp_path, "interactions.csv", a=["1", "2"], b=["3", "4"])

    with pytest.raises(UserError, match=r"cannot tell which column .* the user \(a, b\)") as caught:
        inspect_dataset(tmp_path)

    assert "\n" not in str(caught.value)


def test_dates_are_times_as_they_are(tmp_path):
    times = ["2024-01-01", "2024-01-02", "2024-01-03T10:00:00+02:00"]
    write_csv(tmp_path, "interactions.csv", user_id=list("aba"), item_id=list("xyz"), time=times)

    inspection = inspect_dataset(tmp_path)

    assert inspection.config.columns.timestamp == "time"
    assert inspection.config.split.by == "time"
    assert inspection.splits[0].first_s == JANUARY
    assert not inspection.warnings


@pytest.mark.parametrize("text", ["31/01/24", "1.2.2024 um 10", "Jan the 5th, 2024"])
def test_dates_of_an_unknown_format_are_refused_not_split_at_random(tmp_path, text):
    write_csv(tmp_path, "interactions.csv", user_id=["a"], item_id=["x"], when=[text])

    with pytest.raises(
        UserError, match=rf"`when` holds dates such as '{text}', .*columns.time_format"
    ):
        inspect_dataset(tmp_path)


def two_ids(folder):
    write_csv(
        folder,
        "interactions.csv",
        sessionId=["s", "t", "u"],
        personId=["a", "b", "a"],
        contentId=["x", "y", "z"],
        timestamp=[JANUARY, JANUARY + 1, JANUARY + 2],
    )


def test_a_person_goes_before_a_session_which_is_told(tmp_path):
    two_ids(tmp_path)

    inspection = inspect_dataset(tmp_path)

    assert inspection.config.columns.query_id == "personId"
    assert inspection.config.columns.candidate_id == "contentId"
    assert inspection.warnings[0].startswith(
        "`columns.query_id` is `personId` (2 different values); `sessionId` (3) may be meant"
    )


@pytest.mark.parametrize("client", [["shop"] * 4, ["1", "2", "3", "4"]])
def test_a_column_that_never_recurs_or_never_changes_is_no_id(tmp_path, client):
    write_csv(
        tmp_path,
        "interactions.csv",
        client_id=client,
        visitor_id=["a", "b", "a", "b"],
        item_id=["x", "y", "y", "z"],
        timestamp=[JANUARY + second for second in range(4)],
    )

    assert inspect_dataset(tmp_path).config.columns.query_id == "visitor_id"


def test_named_columns_are_not_guessed(tmp_path):
    two_ids(tmp_path)

    inspection = inspect_dataset(tmp_path, roles={"query_id": "sessionId"})

    assert inspection.config.columns.query_id == "sessionId"
    assert not any("query_id" in warning for warning in inspection.warnings)
    with pytest.raises(UsageError, match=r"`event`: no column `kind`.*sessionId, personId"):
        inspect_dataset(tmp_path, roles={"event": "kind"})


def test_ids_inside_objects_are_found_by_their_path(tmp_path):
    line = '{"user": {"id": 1, "age": 2}, "item": {"id": "x"}, "tags": [{"a": 1}]}'
    (tmp_path / "interactions.jsonl").write_text(f"{line}\n")

    columns = inspect_dataset(tmp_path).config.columns

    assert (columns.query_id, columns.candidate_id) == ("user.id", "item.id")


def test_a_known_format_of_times_is_not_guessed(tmp_path):
    write_csv(tmp_path, "interactions.csv", user=["a"], item=["x"], when=["5th of 01 2024"])

    inspection = inspect_dataset(tmp_path, time_format="%dth of %m %Y")

    assert inspection.config.columns.time_format == "%dth of %m %Y"
    assert inspection.config.split.by == "time"


LOG = [f"ü{n % 7};i{n % 5};{JANUARY + n};{n % 3},5" for n in range(70)]
LOG_TEXT = "\n".join(["user;item;time;rating", *LOG])


@pytest.mark.parametrize(
    ("name", "data", "files", "warned"),
    [
        pytest.param("interactions.csv", LOG_TEXT.encode(), {"decimal": ","}, [], id="semicolon"),
        pytest.param(
            "interactions.csv",
            LOG_TEXT.encode("utf-16"),
            {"decimal": ",", "encoding": "utf-16"},
            [],
            id="utf-16",
        ),
        pytest.param(
            "interactions.csv",
            LOG_TEXT.encode("cp1252"),
            {"decimal": ",", "encoding": "cp1252"},
            ["interactions.csv is not UTF-8: cp1252 is assumed"],
            id="cp1252",
        ),
        pytest.param(
            "dt=2024-01-01/interactions.tsv",
            LOG_TEXT.replace(",", ".").replace(";", "\t").encode(),
            {},
            [],
            id="tsv-in-a-dated-folder",
        ),
        pytest.param(
            "interactions.json",
            json.dumps([{"user": "ü", "item": "i", "time": JANUARY}]).encode(),
            {},
            [],
            id="json-array",
        ),
    ],
)
def test_how_files_are_written_is_drafted(tmp_path, name, data, files, warned):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)

    inspection = inspect_dataset(tmp_path)

    assert inspection.config.files.model_dump(exclude_defaults=True) == files
    assert inspection.config.columns.query_id == "user"
    assert inspection.config.columns.candidate_id == "item"
    assert inspection.config.columns.timestamp == "time"
    assert inspection.first_rows[0]["user"].startswith("ü")
    assert len(inspection.warnings) == len(warned)
    for warning, start in zip(inspection.warnings, warned, strict=True):
        assert warning.startswith(start)


def test_columns_without_a_header_are_numbered_and_drafted(tmp_path):
    (tmp_path / "interactions.csv").write_text("\n".join(LOG))

    with pytest.raises(
        UserError, match=r"interactions\.csv, which has no header,.*column_1 such as 'ü0'"
    ):
        inspect_dataset(tmp_path)
    roles = {"query_id": "column_1", "candidate_id": "column_2"}
    inspection = inspect_dataset(tmp_path, roles=roles)

    assert inspection.config.files.header == {
        "interactions": ["column_1", "column_2", "column_3", "column_4"]
    }
    assert inspection.config.columns.timestamp == "column_3"
    assert inspection.num_rows == 70
    assert any("has no header" in warning for warning in inspection.warnings)
