"""The blocks of a page run in its order, commands and Python, on the log of a small shop."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from serving.client import RetrievalClient
from serving.model_config import ModelConfig, VersionPolicy
from serving.server import ModelServer, ServerOptions
from tests import small_shop
from tfrs_twotower.cli import main
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.schema import load_config

# The commands train, export and answer, one after the other.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = {
    page.stem: page.read_text(encoding="utf-8")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
}
# What does not run here, by a part of the command or block, and why, or what runs it.
ELSEWHERE = {
    "twotower init": "the fixture runs it, once for all pages",
    "twotower run": "the fixture runs it, once for all pages",
    "twotower backtest": "trains for minutes: tests/tfrs_twotower/training/test_backtest.py",
    "twotower serve": "lasts until it is ended: tests/serving/test_server_process.py",
    "twotower explore": "lasts until it is ended: "
    "tests/tfrs_twotower/evaluation/explore/test_in_a_browser.py",
    "tt.explore": "needs a notebook: tests/tfrs_twotower/evaluation/explore/test_in_a_browser.py",
    "twotower impressions": "needs the log of a server: tests/test_learning_loop.py",
    "twotower click-through": "needs the log of a server: tests/test_learning_loop.py",
    "--requests LOGS": "needs the log of a server: tests/tfrs_twotower/evaluation/test_drift.py",
    "--wait_for": "needs servers that follow a config: tests/serving/test_rollout.py",
    'model="similarity"': "takes other inputs where features are context: "
    "tests/tfrs_twotower/publishing/test_similarity_export.py",
    "milvus:http": "needs a server of Milvus",
    "MilvusClient": "takes no history: tests/tfrs_twotower/publishing/test_milvus.py runs it",
    "gs://": "needs a bucket of Google Cloud",
    "--runner=PortableRunner": "needs a cluster: tests/pipelines/prepare/test_runners.py",
    "twotower dataset movielens-1m": "needs public data: "
    "tests/tfrs_twotower/datasets/test_movielens.py",
    '"$today"': "steps of a script with shell variables: tests/tfrs_twotower/cli/test_steps.py",
    "promote  --models models": "a step of the same script",
}
# What the pages take as given, in the folder of the shop.
GIVEN = {
    **dict.fromkeys(("shop", "log"), ""),
    "twotower.yaml": "twotower.yaml",
    **dict.fromkeys(
        ("PREPARED", "PREPARED_A", "PREPARED_B", "prepared-of-the-served-model"), "work/prepared"
    ),
    **dict.fromkeys(("RUN", "RUN_A", "RUN_B"), "work/run"),
    **dict.fromkeys(("MODELS", "models"), "work/models"),
}
# What a page makes itself.
MADE = {
    "README": "models",
    "index-and-export": "MODELS",
    "tfrs-code": "models",
    "training": "RUN",
}
FILES = {"score": "shop/queries.csv", "refresh": "shop/candidates.csv"}
# What `...` stands for.
MORE = {
    "explain": """--query '{"user_id": "42"}' --candidate i01""",
    "promote": "--force",
    "prepare": "--config twotower.yaml --dataset log --output prepared-by-workers",
    "evaluate": "--run RUN --data PREPARED",
}
# Without a version that was stable before there is nothing to go back to.
BEFORE = {"rollback": "promote --models MODELS --version 1 --force"}


def blocks(page: str) -> list[tuple[bool, str]]:
    """The commands of a page, and its blocks of Python (True), in its order; all that may run."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.M | re.S):
        if language == "python":
            found.append((True, block))
        elif not language and "▼" not in block:
            lines = block.replace("\\\n", " ").splitlines()
            commands = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
            found += [(False, one) for one in commands if re.match(r"twotower [a-z]", one)]
    return found


def runs_here(block: str) -> bool:
    return not any(part in block for part in ELSEWHERE)


def arguments(command: str, number: int) -> list[str]:
    """The words of the command of this number on its page."""
    command = re.sub(r"\[[^\]]*\]", "", command)  # What may be left out.
    command = re.split(r" (?:>|\|\|) ", command)[0]
    name = command.split()[1]
    words = shlex.split(command.replace("...", MORE.get(name, "")))[1:]
    given = {"FILE": FILES.get(name, "FILE"), "DIR": f"DIR-{number}"}
    return [given.get(word, word) for word in words]


def write_shop(folder: Path) -> None:
    """The log of the small shop as a user of the pages has it."""
    written = small_shop.write_dataset(folder.parent / "written")
    names = {"user": "user_id", "item": "item_id", "ts": "timestamp", "shelf": "genres"}
    folder.mkdir()
    for kind, read in (("interactions", pd.read_csv), ("candidates", pd.read_parquet)):
        [file] = written.glob(f"{kind}.*")
        rows = read(file).rename(columns=names)
        if kind == "candidates":
            rows["price"] = np.arange(len(rows))
        if "user_id" in rows:
            rows["user_id"] = rows["user_id"].str.removeprefix("u").astype(int)
        rows.to_csv(folder / f"{kind}.csv", index=False)
    users = pd.DataFrame({"user_id": range(small_shop.NUM_USERS)})
    users.to_csv(folder / "queries.csv", index=False)


def complete(config: Path) -> None:
    """The clock that a comment proposes, in a mode that embeds users ahead, and rules."""
    text = config.read_text(encoding="utf-8")
    text = text.replace("  # context:", "  context:").replace("    # clock:", "    clock:")
    text += "\ntowers: {context_mode: trilinear}\n"
    text += "rules: {filters: [genres], ranges: [price], category: genres}\n"
    config.write_text(re.sub(r"epochs: \d+", "epochs: 2", text), encoding="utf-8")


class Tower(keras.Model):
    """`user_id` -> an embedding of length 1."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._row_of = keras.layers.StringLookup(vocabulary=["42", "43"])
        self._table = keras.layers.Embedding(3, size)

    def call(self, inputs):
        return tf.math.l2_normalize(self._table(self._row_of(inputs["user_id"])), axis=-1)


def names_given(client: RetrievalClient) -> dict[str, object]:
    """What the Python of the pages takes as given."""
    draw = np.random.default_rng(1)
    users, items = (draw.normal(size=[n, 8]).astype(np.float32) for n in (200, 600))
    users, items = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (users, items))
    return {
        "client": client,
        "query": {"user_id": "42"},
        "seen": ["i01"],
        "end_of_the_log_s": small_shop.FIRST_DAY + 90 * 86_400,
        "config": load_config("shop/twotower.yaml"),
        "events": pd.read_csv("shop/interactions.csv"),
        "items": pd.read_csv("shop/candidates.csv"),
        "users": pd.read_csv("shop/queries.csv"),
        "user_vectors": users,
        "item_vectors": items,
        "in_test": [[number] for number in range(len(users))],
        "in_train": [[number + 1] for number in range(len(users))],
        "queries": users,
        "embeddings": items,
        "ids": [f"i{number:03}" for number in range(len(items))],
        "your_keras_tower": Tower(8),
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The folder of a shop to which what the README says of one's own log has been done."""
    folder = tmp_path_factory.mktemp("own") / "shop"
    write_shop(folder)
    assert main(["init", str(folder)]) == 0
    complete(folder / "twotower.yaml")
    assert main(["run", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def address(shop):
    """Of a server in which both labels are those of the first version."""
    policy = VersionPolicy(latest=None, specific=frozenset({1}))
    models = shop / "work" / "models" / "retrieval"
    served = ModelConfig("retrieval", models, policy, {"stable": 1, "canary": 1})
    with ModelServer([served], rest_port=None, options=ServerOptions(optimize=False)) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture
def client(address):
    with RetrievalClient(address, timeout_s=60) as client:
        client.wait_until_ready(60)
        yield client


def run_blocks(page: str, names: dict[str, object], here: dict[str, str]) -> None:
    """Runs them in a folder of the page, with the addresses of this machine for those it names."""
    for number, (is_python, block) in enumerate(blocks(page)):
        if not runs_here(block):
            continue
        for named, address in here.items():
            block = block.replace(named, address)
        if is_python:
            exec(compile(block, f"{page}.md", "exec"), names)
            continue
        words = arguments(block, number)
        if words[0] in BEFORE:
            assert main(shlex.split(BEFORE[words[0]])) == 0
        assert main(words) == 0, block


@pytest.fixture
def folder(shop, tmp_path, monkeypatch, request):
    """The page's own, in which is what it takes as given."""
    page = request.node.callspec.params.get("page")
    for name, target in GIVEN.items():
        if name != MADE.get(page):
            (tmp_path / name).symlink_to(shop / target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:not given, so taken as missing. clock:UserWarning")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(runs_here(one) for _, one in blocks(page))],
)
def test_the_blocks_of_a_page_run(page, folder, client, address, request):
    here = {"127.0.0.1:8500": address, "timeout_s=0.5": "timeout_s=60", '"i7"': '"i07"'}
    if page == "mongodb":
        database = request.getfixturevalue("database")
        here |= dict.fromkeys(("mongodb://HOST/DATABASE", "mongodb://127.0.0.1/shop"), database)
    names = names_given(client)
    run_blocks(page, names, here)
    opened = [names["database"].client] if page == "mongodb" else names.get("clients", {}).values()
    for one in opened:
        one.close()


@pytest.mark.parametrize(("part", "reason"), ELSEWHERE.items(), ids=ELSEWHERE)
def test_what_does_not_run_here_is_on_a_page(part, reason):
    assert any(part in block for page in PAGES for _, block in blocks(page))
    for path in re.findall(r"tests/[\w/]+\.py", reason):
        assert (ROOT / path).exists()
