"""The same log in the shapes that people have: the same events, or a message with cause and key."""

import csv
import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prepare.dataset_files import INTERACTIONS, needed_columns, open_dataset
from pipelines.prepare.head_check import check_heads
from pipelines.prepare.parsing import read_chunk
from pipelines.prepare.validate import REASONS, numeric_columns, validate_events
from tfrs_twotower.schema import UserError, parse_config

COLUMNS = ("user", "item", "when", "price")
# Ids that are numbers for careless readers, in several alphabets; whole days, for dates.
DAYS = (1_714_521_600, 1_717_200_000, 1_719_792_000)
ROWS = (
    ("007", "9007199254740993", DAYS[0], 1.5),
    ("Zoë", "ナイフ", DAYS[1], 0.25),
    ("007", "a b", DAYS[1], 1234.0),
    ("1e5", "tea", DAYS[2], 12.0),
)
DATES = {DAYS[0]: "2024-05-01", DAYS[1]: "2024-06-01", DAYS[2]: "2024-07-01"}
KEYS = {"query_id": "user", "candidate_id": "item", "timestamp": "when"}


def text(rows=ROWS, header=COLUMNS, separator=",", end="\n", quoting=csv.QUOTE_MINIMAL):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([*([header] if header else []), *rows])
    return out.getvalue()


def times(write):
    return text([(*row[:2], write(row[2]), row[3]) for row in ROWS])


def records(**changes):
    """Objects of JSON; changes replace values."""
    found = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    return [row | {key: change(row) for key, change in changes.items()} for row in found]


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def nested():
    return [
        {
            "user": {"id": user, "tags": ["x"]},
            "item": {"id": item},
            "at": {"when": when, "where": {"price": price}},
        }
        for user, item, when, price in ROWS
    ]


NESTED = {"query_id": "user.id", "candidate_id": "item.id", "timestamp": "at.when"}
NESTED_PRICE = {"kind": "number", "column": "at.where.price"}


def parquet(columns=None, **arrays):
    plain = {
        name: list(values) for name, values in zip(COLUMNS, zip(*ROWS, strict=True), strict=True)
    }
    out = io.BytesIO()
    pq.write_table(pa.table(columns or plain | arrays), out)
    return out.getvalue()


def moments(unit, zone=None):
    of_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    return pa.array([row[2] * of_second for row in ROWS], pa.timestamp(unit, zone))


def config_of(files=None, price=None, **columns):
    return parse_config(
        json.dumps(
            {
                "columns": KEYS | columns,
                "files": files or {},
                "features": {
                    "query": {"user_id": {"kind": "id"}},
                    "candidate": {"item_id": {"kind": "id"}},
                    "context": {"price": price or {"kind": "number"}},
                },
            }
        ),
        "twotower.yaml",
    )


def events_of(folder, config):
    """What the job reads, without Beam: the sound events, and the reasons of the others."""
    dataset = open_dataset(str(folder), config)
    check_heads(dataset, config, 0.0)
    columns = list(needed_columns(config, INTERACTIONS))
    events, reasons = [], []
    for chunk in dataset.of(INTERACTIONS):
        for batch in read_chunk(chunk, columns, numeric_columns(config)):
            valid = validate_events(batch.table, config, None)
            table = valid.table.select(["query_id", "candidate_id", "timestamp_s", "feature:price"])
            events += [tuple(row.values()) for row in table.to_pylist()]
            reasons += [reject.reason for reject in batch.rejects]
            reasons += [REASONS[code] for code in valid.reasons[valid.reasons >= 0]]
    return sorted(events), sorted(reasons)


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)


def shape(name, data, rejected=(), **config):
    """Files of a shape, the reasons of what is rejected, and what the config says of them."""
    data = data if isinstance(data, dict) else {"interactions.csv": data}
    return pytest.param(data, list(rejected), config, id=name)


COMMA = [(*row[:3], str(row[3]).replace(".", ",")) for row in ROWS]
RENAMED = {"query_id": "user.id", "candidate_id": "item name", "timestamp": "at (s)"}
SAME = [
    shape("comma", text()),
    shape("semicolon", text(separator=";")),
    shape("bar", text(separator="|")),
    shape("tab-in-csv", text(separator="\t")),
    shape("tsv", {"interactions.tsv": text(separator="\t")}),
    shape("tsv-gz", {"interactions.tsv.gz": gzip.compress(text(separator="\t").encode())}),
    shape("stated-separator", text(separator="^"), files={"separator": "^"}),
    shape(
        "decimal-comma", text(COMMA, separator=";"), files={"decimal": ","}
    ),
    shape("quoted-decimal-comma", text(COMMA), files={"decimal": ","}),
    shape("no-header", text(header=None), files={"header": {"interactions": [*COLUMNS]}}),
    shape(
        "no-header-semicolon",
        text(header=None, separator=";"),
        files={"header": {"interactions": [*COLUMNS]}},
    ),
    shape("all-quoted", text(quoting=csv.QUOTE_ALL)),
    shape("all-quoted-semicolon", text(separator=";", quoting=csv.QUOTE_ALL)),
    shape("crlf", text(end="\r\n")),
    shape("blank-lines", text().replace("\n", "\n\n") + "  \n"),
    shape("header-twice", text([COLUMNS, *ROWS]), rejected=["bad_timestamp"]),
    shape("no-last-line-break", text().rstrip("\n")),
    shape("byte-order-mark", b"\xef\xbb\xbf" + text().encode()),
    shape("byte-order-mark-quoted", b"\xef\xbb\xbf" + text(quoting=csv.QUOTE_ALL).encode()),
    shape("utf-8-sig", text().encode("utf-8-sig"), files={"encoding": "utf-8-sig"}),
    shape("utf-16", text(separator="\t").encode("utf-16"), files={"encoding": "utf-16"}),
    shape("gb18030", text().encode("gb18030"), files={"encoding": "gb18030"}),
    shape("more-columns", text([(*row, "x, y") for row in ROWS], (*COLUMNS, "note"))),
    shape("other-order", text([row[::-1] for row in ROWS], COLUMNS[::-1])),
    shape(
        "names-with-dots-and-spaces",
        text(header=("user.id", "item name", "at (s)", "price")),
        **RENAMED,
    ),
    shape("csv-gz", {"interactions.csv.gz": gzip.compress(text().encode())}),
    shape("milliseconds", times(lambda s: s * 10**3), time_format="milliseconds"),
    shape("microseconds", times(lambda s: s * 10**6), time_format="microseconds"),
    shape("nanoseconds", times(lambda s: s * 10**9), time_format="nanoseconds"),
    shape("float-seconds", times(lambda s: f"{s}.0")),
    shape("dates", times(DATES.get)),
    shape("iso-without-zone", times(lambda s: f"{DATES[s]} 00:00:00")),
    shape("iso-utc", times(lambda s: f"{DATES[s]}T00:00:00Z")),
    shape("iso-fraction", times(lambda s: f"{DATES[s]}T00:00:00.250Z")),
    shape("iso-with-zone", times(lambda s: f"{DATES[s]}T02:00:00+02:00")),
    shape(
        "day-month-year",
        times(lambda s: "/".join(DATES[s].split("-")[::-1])),
        time_format="%d/%m/%Y",
    ),
    shape(
        "named-month",
        times({d: m + " 1 2024" for d, m in zip(DAYS, ("May", "Jun", "Jul"), strict=True)}.get),
        time_format="%b %d %Y",
    ),
    shape("json-lines", {"interactions.jsonl": json_lines(records())}),
    shape("ndjson", {"interactions.ndjson": json_lines(records())}),
    shape("json-lines-called-json", {"interactions.json": json_lines(records())}),
    shape("json-array", {"interactions.json": json.dumps(records())}),
    shape("json-array-of-many-lines", {"interactions.json": json.dumps(records(), indent=2)}),
    shape("json-array-gz", {"interactions.json.gz": gzip.compress(json.dumps(records()).encode())}),
    shape(
        "json-array-utf-16",
        {"interactions.json": json.dumps(records(), ensure_ascii=False).encode("utf-16")},
        files={"encoding": "utf-16"},
    ),
    shape(
        "json-text-of-numbers",
        {"interactions.jsonl": json_lines(records(price=lambda row: str(row["price"])))},
    ),
    shape(
        "json-mixed-numbers",
        {
            "interactions.jsonl": json_lines(
                records(when=lambda r: r["when"] if r["item"] == "tea" else str(r["when"]))
            )
        },
    ),
    shape(
        "json-keys-with-dots",
        {"interactions.jsonl": json_lines([{"a.b": r["user"], **r} for r in records()])},
        query_id="a.b",
    ),
    shape(
        "nested-json", {"interactions.jsonl": json_lines(nested())}, price=NESTED_PRICE, **NESTED
    ),
    shape(
        "nested-json-array", {"interactions.json": json.dumps(nested())}, price=NESTED_PRICE,
        **NESTED,
    ),
    shape(
        "nested-json-record-by-record",
        {"interactions.jsonl": json_lines([*nested(), {"user": 5, "at": None}])},
        price=NESTED_PRICE, rejected=["missing_id"], **NESTED,
    ),
    shape(
        "nested-parquet",
        {"interactions.parquet": parquet(pa.Table.from_pylist(nested()))},
        price=NESTED_PRICE, **NESTED,
    ),
    shape("parquet", {"interactions.parquet": parquet()}),
    shape(
        "parquet-dictionaries",
        {
            "interactions.parquet": parquet(
                user=pa.array([row[0] for row in ROWS]).dictionary_encode(),
                item=pa.array([row[1] for row in ROWS]).dictionary_encode(),
            )
        },
    ),
    *(
        shape(f"parquet-{unit}", {"interactions.parquet": parquet(when=moments(unit))})
        for unit in ("s", "ms", "us", "ns")
    ),
    shape("parquet-zone", {"interactions.parquet": parquet(when=moments("us", "Asia/Tokyo"))}),
    shape(
        "parquet-dates", {"interactions.parquet": parquet(when=moments("s").cast(pa.date32()))}
    ),
    shape(
        "parquet-decimals",
        {
            "interactions.parquet": parquet(
                price=pa.array([row[3] for row in ROWS]).cast(pa.decimal128(8, 2))
            )
        },
    ),
    shape(
        "several-files",
        {
            "interactions-1.csv": text(ROWS[:2]),
            "interactions-2.tsv": text(ROWS[2:], separator="\t"),
        },
    ),
    shape(
        "hive-folders",
        {
            f"when={DATES[day]}/interactions.csv": text(
                [(*row[:2], row[3]) for row in ROWS if row[2] == day], ("user", "item", "price")
            )
            for day in DAYS
        },
    ),
    shape(
        "hive-table",
        {
            f"interactions/when={DATES[day]}/part-0.parquet": parquet(
                {
                    name: [row[place] for row in ROWS if row[2] == day]
                    for name, place in (("user", 0), ("item", 1), ("price", 3))
                }
            )
            for day in DAYS
        }
        | {"interactions/_SUCCESS": b"", "interactions/_temporary/0.parquet": b"half"},
    ),
    shape("folder", {"interactions.csv/part-0.csv": text(), "interactions.csv/.x.crc": b""}),
    shape(
        "pattern",
        {"logs/2024/05/events.csv": text(ROWS[:2]), "logs/events.csv": text(ROWS[2:])},
        files={"paths": {"interactions": "logs/**/events*"}},
    ),
    shape("ragged-row", text() + "u,i\n", rejected=["malformed_line"]),
    shape("row-of-no-utf8", text().encode() + b"caf\xe9,i,1,1\n", rejected=["invalid_utf8"]),
    shape("no-id", text([*ROWS, ("", "i", DAYS[0], 1)]), rejected=["missing_id"]),
    shape("no-time", text([*ROWS, ("u", "i", "", 1)]), rejected=["bad_timestamp"]),
    shape(
        "comma-and-point",
        text([*COMMA, ("u", "i", DAYS[0], "1.234")], separator=";"),
        files={"decimal": ","}, rejected=["bad_feature"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data", "rejected", "config"), SAME)
def test_a_log_gives_the_same_events_in_any_shape(tmp_path, data, rejected, config):
    write(tmp_path, data)

    events, reasons = events_of(tmp_path, config_of(**config))

    assert events == sorted((*row[:3], np.float32(row[3])) for row in ROWS)
    assert reasons == rejected


@pytest.mark.parametrize(
    ("files", "config", "told"),
    [
        pytest.param(text(header=None), {}, "no header.*`files.header.interactions`", id="header"),
        pytest.param(
            text(),
            {"files": {"header": {"interactions": [*COLUMNS]}}},
            "has a header: take `files.header.interactions` out",
            id="header-all-the-same",
        ),
        pytest.param(
            text(header=None),
            {"files": {"header": {"interactions": ["user", "item"]}}},
            "names 2 columns, but the first line has 4 fields",
            id="too-few-names",
        ),
        pytest.param(text(separator="^"), {}, "has no column `user`", id="rare-separator"),
        pytest.param(
            text().replace(",", "::"), {"files": {"header": {"interactions": [*COLUMNS]}}},
            "names 4 columns, but the first line has 1 fields", id="two-colons",
        ),
        pytest.param(
            text().encode("utf-16"), {}, "state `files.encoding: utf-16`", id="utf-16"
        ),
        pytest.param(
            text(header=("usé", *COLUMNS[1:])).encode("cp1252", "replace"), {},
            "first line is not UTF-8: state `files.encoding`", id="header-in-cp1252",
        ),
        pytest.param(
            text([("é", "è", 1, 1)]).encode("cp1252"), {},
            "`invalid_utf8`.*state `files.encoding`", id="rows-in-cp1252",
        ),
        pytest.param(
            text(COMMA[:2], separator=";"), {}, "`bad_feature`.*`files.decimal: ','`", id="decimals"
        ),
        pytest.param(
            times(lambda s: s * 1000), {}, "`columns.time_format`.*milliseconds", id="milliseconds"
        ),
        pytest.param(
            times(lambda s: s * 10**9), {}, "`columns.time_format`", id="nanoseconds"
        ),
        pytest.param(times(lambda s: "01/05/2024"), {}, "`columns.time_format`", id="dd-mm-yyyy"),
        pytest.param(times(lambda s: "Jan 5 2024"), {}, "`columns.time_format`", id="named-month"),
        pytest.param(
            {"interactions.jsonl": json_lines(nested())},
            {"timestamp": "at.when", "price": NESTED_PRICE},
            r"`user`, named by `columns.query_id`, holds objects.*\(user.id, user.tags\)",
            id="objects",
        ),
        pytest.param(
            {"interactions.parquet": parquet(pa.Table.from_pylist(nested()))},
            {"timestamp": "at.when", "price": NESTED_PRICE},
            r"`user`, named by `columns.query_id`, holds objects.*\(user.id", id="structs",
        ),
        pytest.param(
            {"interactions.jsonl": json_lines(records(price=lambda row: {"eur": 1}))}, {},
            "`price`, named by `features.context.price`, holds objects.*price.eur", id="object",
        ),
        pytest.param(
            {"interactions.json": '{\n"events": [\n' + json.dumps(records()) + "\n]}"}, {},
            "`malformed_line`.*no JSON objects", id="one-object",
        ),
        pytest.param(
            {"interactions.json": json.dumps(records())[:-9]}, {}, "broken JSON array", id="cut",
        ),
        pytest.param(
            text(header=("user", "item", "when", "price", "item"), rows=[(*r, "x") for r in ROWS]),
            {}, "two columns `item`: rename one", id="twice",
        ),
        pytest.param("\n" + text(), {}, "begins with a blank line", id="blank-first"),
        pytest.param(
            text(header=("User", *COLUMNS[1:])), {}, "did you mean `User`", id="other-case"
        ),
        pytest.param(
            text(header=("user", " item", *COLUMNS[2:])), {}, "did you mean ` item`", id="spaces"
        ),
        pytest.param(
            {"interactions.xlsx": b"PK"}, {}, "interactions.xlsx is none of these", id="excel"
        ),
        pytest.param(
            {"events.csv": text()}, {"files": {"paths": {"interactions": "log*.csv"}}},
            r"expected log\*.csv \(`files.paths.interactions`\)", id="pattern-without-files",
        ),
        pytest.param(
            {"interactions.csv": text(), "dt=2024-05-01/interactions.csv": text()}, {},
            r"in several places \(interactions.csv, dt=2024-05-01/interactions.csv\)", id="places",
        ),
        pytest.param({"interactions.parquet.gz": b"PAR1"}, {}, "unpack the .gz", id="parquet-gz"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_so_is_told_with_its_cause_and_key(tmp_path, files, config, told):
    write(tmp_path, files if isinstance(files, dict) else {"interactions.csv": files})

    with pytest.raises(UserError, match=f"(?s){told}"):
        events_of(tmp_path, config_of(**config))


@pytest.mark.parametrize("data", ["", text(rows=[])], ids=["empty", "header-alone"])
def test_a_file_without_rows_has_no_events(tmp_path, data):
    write(tmp_path, {"interactions.csv": data})

    assert events_of(tmp_path, config_of()) == ([], [])


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("encoding", "klingon", "is no encoding"),
        ("encoding", "hex", "is no encoding"),
        ("separator", "::", "expected one character"),
        ("header", {"interactions": ["a", "a"]}, "all different"),
    ],
)
def test_ways_to_write_files_that_there_are_not_are_refused(key, value, told):
    with pytest.raises(UserError, match=told):
        config_of(files={key: value})
