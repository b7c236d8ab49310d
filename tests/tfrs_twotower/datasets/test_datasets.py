"""What holds for every data set: names, sources, folders, configs."""

import json
from pathlib import Path

import pytest

from tests.tfrs_twotower.datasets import originals
from tfrs_twotower.datasets import DATASETS, write_dataset
from tfrs_twotower.datasets.heads import read_head
from tfrs_twotower.schema import UsageError, UserError, load_config
from tfrs_twotower.schema.features import History, Id

SOURCES = {
    "movielens-100k": originals.write_100k,
    "movielens-1m": originals.write_1m,
    "ngcf": originals.write_ngcf,
    "sasrec": originals.write_sasrec,
    "ncf": originals.write_ncf,
}


@pytest.fixture(scope="module", params=[*SOURCES, "sample"])
def folder(request, tmp_path_factory, sample_folder) -> Path:
    if request.param == "sample":
        return sample_folder
    root = tmp_path_factory.mktemp(request.param)
    write_dataset(request.param, root / "out", SOURCES[request.param](root / "source"))
    return root / "out"


def test_every_name_has_a_line_of_help():
    assert set(DATASETS) == {*SOURCES, "sample"}
    assert all(0 < len(line) <= 85 and "\n" not in line for line in DATASETS.values())


def test_the_config_names_columns_that_the_files_have(folder):
    config = load_config(folder / "twotower.yaml")
    columns, split = config.columns, config.split
    log = {columns.query_id, columns.candidate_id, columns.timestamp, columns.order}
    log |= {columns.event, columns.value, columns.split if split.by == "column" else None}
    wanted = {
        "interactions": log,
        "candidates": {columns.candidate_id, columns.title, columns.available_from}
        | set(config.export.attributes),
        "queries": set(),
    }
    for side, kind in (
        ("query", "queries"),
        ("context", "interactions"),
        ("candidate", "candidates"),
    ):
        for name, feature in getattr(config.features, side).items():
            if not isinstance(feature, Id | History):
                wanted[kind].add(config.column_of(side, name))

    for kind, names in wanted.items():
        head = read_head(folder, kind, 10)
        present = set(head.rows.columns) if head is not None else set()
        assert names - {None} <= present, kind


def test_the_config_explains_itself(folder):
    text = (folder / "twotower.yaml").read_text("utf-8")

    assert sum("#" in line for line in text.splitlines()) >= 5


def test_the_manifest_says_what_was_written(folder):
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))

    assert manifest["kind"] == "dataset"
    assert manifest["name"] in DATASETS
    assert manifest["counts"]["interactions"] > 0


def test_an_unknown_name_is_told_the_names(tmp_path):
    with pytest.raises(UsageError, match="no data set 'movielens': expected one of sample, movie"):
        write_dataset("movielens", tmp_path / "out")


def test_a_public_data_set_is_not_made_to_drift(tmp_path):
    with pytest.raises(UsageError, match=r"`drift=True`: ncf is as it is, only the sample drifts"):
        write_dataset("ncf", tmp_path / "out", tmp_path, drift=True)


@pytest.mark.parametrize("name", SOURCES)
def test_a_public_data_set_needs_its_source(tmp_path, name):
    with pytest.raises(UsageError, match=f"{name} is made from its original files.*`source`"):
        write_dataset(name, tmp_path / "out")


@pytest.mark.parametrize("name", SOURCES)
def test_a_folder_without_the_files_is_told_what_is_missing(tmp_path, name):
    (tmp_path / "empty").mkdir()

    with pytest.raises(UsageError, match=r"empty has no .* is it the folder of the original"):
        write_dataset(name, tmp_path / "out", tmp_path / "empty")


def test_a_source_that_is_no_folder_is_told_so(tmp_path):
    with pytest.raises(UsageError, match="no folder .*nowhere: expected the folder"):
        write_dataset("ngcf", tmp_path / "out", tmp_path / "nowhere")


def test_two_files_that_fit_are_one_too_many(tmp_path):
    source = originals.write_sasrec(tmp_path / "source")
    (source / "sasrec_other.txt").write_text("1 1\n")

    with pytest.raises(UsageError, match=r"several files sasrec_\*\.txt"):
        write_dataset("sasrec", tmp_path / "out", source)


def test_a_finished_folder_is_replaced_only_when_asked(tmp_path):
    source = originals.write_sasrec(tmp_path / "source")
    write_dataset("sasrec", tmp_path / "out", source)
    before = (tmp_path / "out" / "interactions.parquet").read_bytes()
    (source / "sasrec_tiny.txt").write_text("5 30\n")

    with pytest.raises(UsageError, match="pass `overwrite=True`"):
        write_dataset("sasrec", tmp_path / "out", source)
    assert (tmp_path / "out" / "interactions.parquet").read_bytes() == before

    counts = write_dataset("sasrec", tmp_path / "out", source, overwrite=True)
    assert counts["interactions"] == 1


def test_a_bad_source_leaves_the_folder_that_was_to_be_replaced(tmp_path):
    source = originals.write_sasrec(tmp_path / "source")
    write_dataset("sasrec", tmp_path / "out", source)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (source / "sasrec_tiny.txt").write_text("5 30\n6\n")

    with pytest.raises(UserError, match="sasrec_tiny"):
        write_dataset("sasrec", tmp_path / "out", source, overwrite=True)

    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_failed_attempt_leaves_nothing_that_looks_finished(tmp_path):
    source = originals.write_sasrec(tmp_path / "source")
    (tmp_path / "empty").mkdir()

    with pytest.raises(UsageError):
        write_dataset("sasrec", tmp_path / "out", tmp_path / "empty")
    assert not (tmp_path / "out" / "manifest.json").exists()

    assert write_dataset("sasrec", tmp_path / "out", source)["interactions"] == 4
