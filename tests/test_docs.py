"""The README and the code name the same commands, make targets and packages."""

import ast
import configparser
import re
from pathlib import Path

import pytest
import typer

import tfrs_twotower
from tfrs_twotower import __version__
from tfrs_twotower.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands
OPTIONS = {
    name: {option for parameter in command.params for option in parameter.opts}
    for name, command in COMMANDS.items()
}


def test_every_command_is_in_the_readme():
    missing = {name for name in COMMANDS if f"twotower {name}" not in README}

    assert missing == set()


def test_the_readme_names_no_command_that_does_not_exist():
    named = set(re.findall(r"\btwotower ([a-z][a-z-]*)", README))

    assert named - COMMANDS.keys() == set()


def test_the_readme_gives_commands_no_option_that_they_do_not_have():
    """Commands that pass their options on to a module have none of their own."""
    wrong = [
        f"{name} {option}"
        for name, rest in re.findall(r"\btwotower ([a-z][a-z-]*)([^\n`#]*)", README)
        for option in re.findall(r"--[a-z_-]+", rest)
        if (own := OPTIONS.get(name)) and option not in own
    ]

    assert wrong == []


def test_the_readme_names_no_make_target_that_does_not_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"make ([a-z-]+)\b", README)) & {"demo", "test"} == {"demo", "test"}
    assert set(re.findall(r"`make ([a-z-]+)`", README)) <= targets


def test_every_benchmark_is_in_the_readme():
    scripts = {path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")}

    assert {name for name in scripts if f"benchmarks/{name}" not in README} == set()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_blocks_of_the_readme_import_what_exists(block):
    imports = [node for node in ast.parse(block).body if isinstance(node, ast.ImportFrom)]

    for node in imports:
        exec(compile(ast.Module([node], type_ignores=[]), "README", "exec"), {})


def test_the_readme_names_nothing_that_the_package_does_not_offer():
    named = set(re.findall(r"\btt\.(\w+)", README))

    assert {"prepare", "recommend"} <= named
    assert named - set(tfrs_twotower.__all__) == set()


def test_the_lock_holds_every_package_that_the_distribution_asks_for():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"] + config["options.extras_require"]["dev"]
    names = {_canonical(re.split(r"[\[=<>]", line)[0]) for line in wanted.split()}
    locked = {
        _canonical(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }

    assert names - locked == set()


def test_the_changelog_leads_to_the_version():
    heading = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert heading is not None
    assert heading[1].split()[0] in {"Unreleased", __version__}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
