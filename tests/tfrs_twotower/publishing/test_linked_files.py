"""Files that hold the same bytes are one file, and go on without each other."""

import os
import shutil

import numpy as np
import pytest

from tfrs_twotower.keras import tf
from tfrs_twotower.publishing import saved_model_writer
from tfrs_twotower.publishing.linked_files import link, link_same
from tfrs_twotower.publishing.saved_model_writer import VARIABLES, save
from tfrs_twotower.retrieval.retriever import Signature

ROWS = 5000  # Of 64 float32: above `saved_model_writer.LARGE`.


class Summing(tf.Module):
    """Two matrices of one size; the small variable is another in each model."""

    def __init__(self, kept: float, changed: float) -> None:
        super().__init__()
        self.kept, self.changed = (
            tf.Variable(np.full([ROWS, 64], value, np.float32)) for value in (kept, changed)
        )
        self.small = tf.Variable(changed)

    def signatures(self) -> dict[str, Signature]:
        inputs = {"row": tf.TensorSpec([None], tf.int32, "row")}
        return {"serving_default": Signature(self.sums, inputs)}

    def sums(self, inputs):
        both = tf.gather(self.kept + self.changed, inputs["row"])
        return {"sum": tf.reduce_sum(both, axis=1) + self.small}


def names_of_same(first, second) -> set[str]:
    return {
        path.name
        for path in second.iterdir()
        if any(path.samefile(other) for other in first.iterdir())
    }


def test_a_large_variable_that_two_models_have_is_one_file(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    for folder, changed in ((first, 2.0), (second, 3.0)):
        model = Summing(1.0, changed)
        save(model, model.signatures(), folder, model_name="m", facts={})

    link_same((first / VARIABLES).iterdir(), second / VARIABLES)

    assert len(names_of_same(first / VARIABLES, second / VARIABLES)) == 1
    shutil.rmtree(first)
    loaded = tf.saved_model.load(str(second)).signatures["serving_default"]
    # 64 times 1 and 3, and 3.
    assert loaded(row=tf.constant([0, ROWS - 1]))["sum"].numpy().tolist() == [259.0, 259.0]


def test_files_of_the_same_size_with_other_bytes_stay_as_they_are(tmp_path):
    (tmp_path / "known").write_bytes(b"abc")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in {"same": b"abc", "other": b"abd", "longer": b"abcd"}.items():
        (folder / name).write_bytes(data)

    link_same([tmp_path / "known"], folder)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "same": b"abc",
        "other": b"abd",
        "longer": b"abcd",
    }
    assert [p.name for p in folder.iterdir() if p.samefile(tmp_path / "known")] == ["same"]


def test_without_hard_links_a_file_is_copied(tmp_path, monkeypatch):
    def refused(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "source").write_bytes(b"abc")

    link(tmp_path / "source", tmp_path / "target")
    link_same([tmp_path / "source"], tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
    assert (tmp_path / "target").read_bytes() == b"abc"
    assert not (tmp_path / "target").samefile(tmp_path / "source")


@pytest.mark.parametrize(
    ("num_bytes", "num_files"),
    [pytest.param(saved_model_writer.LARGE, 2, id="large"), pytest.param(1000, 1, id="small")],
)
def test_only_large_variables_have_files_of_their_own(tmp_path, num_bytes, num_files):
    model = tf.Module()
    model.variable = tf.Variable(np.zeros(num_bytes, np.int8))
    signature = Signature(
        lambda inputs: {"x": inputs["x"] + model.variable[0]},
        {"x": tf.TensorSpec([None], tf.int8, "x")},
    )

    save(model, {"serving_default": signature}, tmp_path / "1", model_name="m", facts={})

    files = (tmp_path / "1" / VARIABLES).glob("variables.data-*")
    assert len([*files]) == num_files
