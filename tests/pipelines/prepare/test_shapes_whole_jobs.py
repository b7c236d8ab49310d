"""A log in other shapes gives the same prepared folder as in plain CSV, by whole jobs."""

import gzip
import json

import pytest

from tests.pipelines.conftest import World

CONFIG = {
    "columns": {"query_id": "user", "candidate_id": "item", "timestamp": "when"},
    "features": {
        "query": {"user_id": {"kind": "id"}, "history": {"kind": "history", "length": 3}},
        "candidate": {"item_id": {"kind": "id"}},
        "context": {"price": {"kind": "number"}},
    },
}
ROWS = [(f"u{n % 7}", f"é{n * n % 11}", 1_714_521_600 + n * 3600, n / 4) for n in range(120)]
NESTED = [
    {"user": {"id": user}, "item": item, "when": when, "price": price}
    for user, item, when, price in ROWS
]


def text(separator=",", header=True, decimal=".", factor=1):
    lines = [separator.join(("user", "item", "when", "price"))] if header else []
    lines += [
        separator.join((user, item, str(when * factor), str(price).replace(".", decimal)))
        for user, item, when, price in ROWS
    ]
    return "\n".join(lines).encode()


def digests_of(folder, name, data, **sections):
    folder.mkdir()
    world = World(folder)
    (world.dataset / name).parent.mkdir(parents=True, exist_ok=True)
    world.write(name, data)
    columns = CONFIG["columns"] | sections.pop("columns", {})
    manifest = world.prepare(json.dumps(CONFIG | sections | {"columns": columns}))
    assert manifest["counts"]["read"] == len(ROWS)
    return manifest["digests"]


@pytest.mark.slow
def test_whole_jobs_write_the_same_records_for_any_shape(tmp_path):
    header = {"interactions": ["user", "item", "when", "price"]}
    plain = digests_of(tmp_path / "plain", "interactions.csv", text())

    shapes = {
        "german": ("interactions.csv", text(";", decimal=",").decode().encode("cp1252"),
                   {"files": {"decimal": ",", "encoding": "cp1252"}}),
        "headless": ("dt=2024-05-01/interactions.tsv.gz",
                     gzip.compress(text("\t", header=False, factor=10**9)),
                     {"files": {"header": header}, "columns": {"time_format": "nanoseconds"}}),
        "nested": ("interactions.json", json.dumps(NESTED).encode(),
                   {"columns": {"query_id": "user.id"}}),
    }  # fmt: skip
    for shape, (name, data, sections) in shapes.items():
        assert digests_of(tmp_path / shape, name, data, **sections) == plain, shape
