"""The extras of the parts, and the line that names them."""

import configparser
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tfrs_twotower.cli import main
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.extras import need

ROOT = Path(__file__).parents[3]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
EXTRAS = {name: set(text.split()) for name, text in SETUP["options.extras_require"].items()}
REQUIREMENTS = set(SETUP["options"]["install_requires"].split())
PARTS = ["client", "serving", "pipelines", "train"]


def test_without_an_extra_there_are_the_clients():
    assert {"grpcio", "numpy>=2", "protobuf"} == REQUIREMENTS == EXTRAS["client"]


def test_the_parts_agree_on_versions():
    names = [Requirement(text) for part in PARTS for text in EXTRAS[part]]
    versions = {(one.name, str(one.specifier)) for one in names}

    assert len(versions) == len({name for name, _ in versions})


def test_the_server_needs_what_its_image_has():
    lines = (ROOT / "serving/requirements.txt").read_text().splitlines()

    assert EXTRAS["serving"] == {line for line in lines if not line.startswith("#")}
    assert EXTRAS["client"] < EXTRAS["serving"]


def test_all_is_what_the_commands_can_use():
    [everything] = EXTRAS["all"]

    assert Requirement(everything).extras == {
        "explore", "mongodb", "pipelines", "serving", "train", "tune"
    }  # fmt: skip


def test_what_is_missing_is_told_with_the_extra_that_has_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)

    need("serving", "grpc")
    with pytest.raises(UserError, match=r"not installed: uvloop; pip install 'tfrs-twotower\[serv"):
        need("serving", "grpc", "uvloop")


def test_a_command_without_its_packages_ends_with_the_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)

    assert main(["serve", "--help"]) == 1
    said = capsys.readouterr().err
    assert "tensorflow_serving; pip install 'tfrs-twotower[serving]'" in said.replace("\n", " ")


def test_without_what_every_command_needs_there_is_a_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)

    assert main(["--help"]) == 1
    assert capsys.readouterr().err == (
        "error: not installed: typer; pip install 'tfrs-twotower[all]'\n"
    )
