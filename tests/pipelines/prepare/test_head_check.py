"""Mistakes that spoil most rows are told from the heads of the files."""

import gzip

import pytest

from pipelines.prepare import dataset_files, head_check
from pipelines.prepare.dataset_files import open_dataset
from pipelines.prepare.head_check import check_heads
from tfrs_twotower.schema import UserError, parse_config

CONFIG = parse_config("columns: {timestamp: t, title: name}\n", "c")
HEADER = "user_id,item_id,t\n"


def check(world, max_rejected_share=0.01):
    check_heads(open_dataset(str(world.dataset), CONFIG), CONFIG, max_rejected_share)


def write(world, rows, name="interactions.csv"):
    text = (HEADER + "".join(rows)).encode()
    world.write(name, gzip.compress(text) if name.endswith("gz") else text)
    world.write("candidates.csv", "item_id,name\ni,one\n")


@pytest.mark.parametrize("name", ["interactions.csv", "interactions-1.csv.gz"])
def test_milliseconds_are_told_with_the_first_of_them(world, name):
    write(world, ["u,i,1700000000123\n"] * 4 + ["u,i,5\n"], name)

    with pytest.raises(UserError) as caught:
        check(world)

    assert str(caught.value) == (
        "4 of the first 5 records of the interactions cannot be used, most as "
        "`timestamp_not_seconds`: times are neither Unix seconds nor ISO 8601: say how they are "
        "written in `columns.time_format` (milliseconds, '%d/%m/%Y', ...)\n"
        f"The first of them in {name}: u,i,1700000000123"
    )


@pytest.mark.parametrize(
    ("rows", "share"),
    [
        pytest.param(["u,i,x\n"] * 5 + ["u,i,5\n"] * 5, 0.01, id="half-of-them"),
        pytest.param(["u,i,x\n"] * 9 + ["u,i,5\n"], 0.9, id="as-many-as-may-be"),
        pytest.param([], 0.01, id="none"),
    ],
)
def test_a_head_that_may_not_be_like_the_rest_passes(world, rows, share):
    write(world, rows)

    check(world, share)


def test_no_more_than_the_head_is_read(world, monkeypatch):
    monkeypatch.setattr(dataset_files, "HEAD_BYTES", 100)
    monkeypatch.setattr("pipelines.prepare.parsing.HEAD_BYTES", 100)
    good, bad = ["u,i,5\n"] * 20, ["u,i,x\n"] * 1000
    write(world, good + bad)
    check(world)

    write(world, ["u,i,x\n"] * 20 + ["u,i,5\n"] * 1000)
    # 18 bytes of header; what is left of a hundred holds 13 lines and a part of another.
    with pytest.raises(UserError, match="13 of the first 13 records"):
        check(world)


def test_quoted_line_breaks_that_the_head_may_cut_are_not_judged(world, monkeypatch):
    monkeypatch.setattr("pipelines.prepare.parsing.HEAD_BYTES", 40)
    monkeypatch.setattr(dataset_files, "HEAD_BYTES", 40)
    write(world, ["u,i,5\n"])
    world.write("candidates.csv", 'item_id,name\ni,"one\ntwo\nthree\nfour\nfive\nsix\nseven"\n')

    check(world)


def test_a_few_files_stand_for_many(world, monkeypatch):
    monkeypatch.setattr(head_check, "SAMPLED_FILES", 3)
    for number in range(9):
        write(
            world, ["u,i,x\n" if number in (0, 4, 8) else "u,i,5\n"], f"interactions-{number}.csv"
        )

    with pytest.raises(UserError, match="3 of the first 3 records"):
        check(world)
