"""The commands that the pages print run, on a small shop of one's own."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests import small_shop
from tfrs_twotower.cli import main

# The commands train, export and answer, one after the other.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
# What needs more than this machine, lasts until it is ended, or has tests with its own servers.
ELSEWHERE = (
    "twotower backtest",
    "twotower serve",
    "twotower explore",
    "twotower impressions",
    "twotower click-through",
    "--wait_for",
    "--requests",
    "gs://",
    "ml-1m/",
    "--runner=PortableRunner",
    "mongodb://",
    "milvus:http://",
    "$",
    "--dvc",
)
# Of words in capitals, and of names that the pages take as given; `...` is what each command needs.
NAMES = {
    "FOLDER": "shop",
    "shop/": "shop",
    "shop/work/models": "shop/work/models",
    "twotower.yaml": "shop/twotower.yaml",
    "log/": "shop",
    "PREPARED": "shop/work/prepared",
    "PREPARED_A": "shop/work/prepared",
    "PREPARED_B": "shop/work/prepared",
    "prepared-of-the-served-model": "shop/work/prepared",
    "RUN": "shop/work/run",
    "RUN_A": "shop/work/run",
    "RUN_B": "shop/work/run",
    "MODELS": "shop/work/models",
    "MODELS/candidate_tower": "shop/work/models/candidate_tower",
}
FILES = {"score": "shop/queries.csv", "refresh": "shop/candidates.csv"}
MORE = {
    "explain": """--query '{"user_id": "42"}' --candidate i01""",
    "promote": "--force",
    "prepare": "--config shop/twotower.yaml --dataset shop --output prepared-by-workers",
    "evaluate": "--run shop/work/run --data shop/work/prepared",
}
# Without a version that was stable before there is nothing to go back to.
BEFORE = {"rollback": "promote --models shop/work/models --version 1 --force"}


def commands(page: Path) -> Iterator[str]:
    """The command lines of the blocks of a page that have no language, without their comments."""
    for block in re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*", "", line).strip()
            is_run = not any(part in command for part in ELSEWHERE)
            if re.match(r"twotower [a-z]", command) and "▼" not in block and is_run:
                yield command


def arguments(command: str, place: str) -> list[str]:
    """The words of a command, with folders of the shop for those of the page."""
    command = re.sub(r"\[[^\]]*\]", "", command)  # What may be left out.
    command = re.split(r" (?:>|\|\|) ", command)[0]
    name = command.split()[1]
    words = shlex.split(command.replace("...", MORE.get(name, "")))[1:]
    given = {"RUN": f"run-{place}"} if name == "train" else {}
    given |= {"FILE": FILES.get(name, ""), "DIR": f"out-{place}", "STORE": f"store-{place}"}
    return [{**NAMES, **given}.get(word, word) for word in words]


def write_shop(folder: Path) -> None:
    """The log of the small shop as a user of the pages has it."""
    written = small_shop.write_dataset(folder.parent / "written")
    names = {"user": "user_id", "item": "item_id", "ts": "timestamp"}
    folder.mkdir()
    for kind, read in (("interactions", pd.read_csv), ("candidates", pd.read_parquet)):
        [file] = written.glob(f"{kind}.*")
        rows = read(file).rename(columns=names)
        if "user_id" in rows:
            rows["user_id"] = rows["user_id"].str.removeprefix("u").astype(int)
        rows.to_csv(folder / f"{kind}.csv", index=False)
    users = pd.DataFrame({"user_id": range(small_shop.NUM_USERS)})
    users.to_csv(folder / "queries.csv", index=False)


def use_the_clock(config: Path) -> None:
    """As its comment proposes, in a mode in which users can be embedded ahead."""
    text = config.read_text(encoding="utf-8")
    text = text.replace("  # context:", "  context:").replace("    # clock:", "    clock:")
    config.write_text(f"{text}\ntowers: {{context_mode: trilinear}}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a shop to which what the README says of one's own log has been done."""
    folder = tmp_path_factory.mktemp("own")
    write_shop(folder / "shop")
    with contextlib.chdir(folder):
        assert main(["init", "shop"]) == 0
        use_the_clock(folder / "shop" / "twotower.yaml")
        assert main(["run", "shop"]) == 0
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(commands(page))], ids=lambda page: page.stem
)
def test_the_commands_of_a_page_run(folder, monkeypatch, capsys, page):
    monkeypatch.chdir(folder)
    for number, command in enumerate(commands(page)):
        words = arguments(command, f"{page.stem}-{number}")
        if words in (["init", "shop"], ["run", "shop"]):
            continue
        if words[0] in BEFORE:
            assert main(shlex.split(BEFORE[words[0]])) == 0
        assert main(words) == 0, f"{command}\n{capsys.readouterr().err}"


def test_most_pages_have_commands():
    assert sum(bool(list(commands(page))) for page in PAGES) >= 9
