"""`twotower demo`: every step as the command a user would type, then questions to a server."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
from rich.console import Console

from tfrs_twotower.cli.evaluation_tables import print_metrics
from tfrs_twotower.cli.output import print_table
from tfrs_twotower.datasets import DATASETS
from tfrs_twotower.models.run_folder import EVALUATION
from tfrs_twotower.publishing.models_folder import (
    CONFIG_FILE,
    TITLE,
    complete_query,
    latest_version,
    query_key,
    read_candidates,
)
from tfrs_twotower.schema import Config, UserError, load_config
from tfrs_twotower.schema import prepared as layout

MODULE_OF = {"twotower": "tfrs_twotower.cli"}
ORACLE_FILE = "oracle.parquet"
NUM_USERS, NUM_SHOWN = 3, 8
START_TIMEOUT_S = 60.0

_console = Console(highlight=False)


@dataclass(frozen=True)
class Folders:
    """Where the demo reads and writes."""

    dataset: Path
    prepared: Path
    run: Path
    models: Path

    @property
    def config(self) -> Path:
        """The config of the dataset folder."""
        return self.dataset / "twotower.yaml"


def run_demo(dataset: str, source: Path | None, workdir: Path, *, overwrite: bool) -> None:
    """Runs dataset, prepare, train, evaluate, export, serve and ask, and shows each.

    Args:
        dataset: A name that `twotower dataset` knows, or a dataset folder.
        source: Folder of the original files, for data sets that have them.
        workdir: The folders `dataset`, `prepared`, `run` and `models` are made here.
        overwrite: Whether finished folders may be replaced.

    Raises:
        UserError: If a step fails; what went wrong stands above it.
    """
    is_named = dataset in DATASETS
    folders = Folders(
        dataset=workdir / "dataset" if is_named else Path(dataset),
        prepared=workdir / "prepared",
        run=workdir / "run",
        models=workdir / "models",
    )
    if not is_named and not folders.config.exists():
        raise UserError(
            f"{dataset} is no data set that `twotower dataset` knows ({', '.join(DATASETS)}) and "
            "no folder with a twotower.yaml: for a log of your own, begin with `twotower init`"
        )
    again = ["--overwrite"] if overwrite else []
    costs = []
    if is_named:
        original = ["--source", source] if source else []
        costs.append(
            _step("twotower", "dataset", dataset, "--output", folders.dataset, *original, *again)
        )
    costs += [
        _step(
            *("pipelines.prepare", "--config", folders.config, "--dataset", folders.dataset),
            *("--output", folders.prepared, *again),
        ),
        _step(
            *("twotower", "train", "--config", folders.config, "--data", folders.prepared),
            *("--output", folders.run, *again),
        ),
        _step(
            *("twotower", "evaluate", "--run", folders.run, "--data", folders.prepared),
            *_oracle(folders.dataset),
        ),
        _step(
            *("twotower", "export", "--run", folders.run, "--data", folders.prepared),
            *("--output", folders.models),
        ),
    ]
    with _server(folders.models, costs) as target:
        _ask(target, folders, load_config(folders.config))
    _summary(folders, costs)


@dataclass(frozen=True)
class _Cost:
    step: str
    seconds: float
    peak_bytes: int


def _oracle(dataset: Path) -> list[object]:
    """The sample knows what the best possible ranker reaches."""
    path = dataset / ORACLE_FILE
    return ["--baseline", f"oracle={path}"] if path.exists() else []


def _step(program: str, *arguments: object) -> _Cost:
    """Runs a command in a process of its own, as a user would."""
    started = time.monotonic()
    process = _start(program, *arguments)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    name = str(arguments[0]) if program == "twotower" else program
    if process.returncode:
        raise UserError(f"the step {name} failed, see above; mend it and run the demo again")
    # Linux counts in kilobytes.
    return _Cost(name, time.monotonic() - started, usage.ru_maxrss * 1024)


def _start(program: str, *arguments: object) -> "subprocess.Popen[bytes]":
    words = [str(argument) for argument in arguments]
    shown = [program] if program in MODULE_OF else ["python", "-m", program]
    _console.print(f"\n[bold]$ {shlex.join([*shown, *words])}[/]", soft_wrap=True)
    return subprocess.Popen([sys.executable, "-m", MODULE_OF.get(program, program), *words])


@contextmanager
def _server(models: Path, costs: list[_Cost]) -> Iterator[str]:
    """A running server; yields its host:port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = _start(
        *("serving.server", f"--port={port}", "--rest_api_port=0"),
        f"--model_config_file={models / CONFIG_FILE}",
    )
    started = time.monotonic()
    target = f"127.0.0.1:{port}"
    try:
        _wait_for(target)
        yield target
    finally:
        process.terminate()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        costs.append(_Cost("serving.server", time.monotonic() - started, usage.ru_maxrss * 1024))


def _wait_for(target: str) -> None:
    import grpc

    with grpc.insecure_channel(target) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=START_TIMEOUT_S)
        except grpc.FutureTimeoutError as error:
            raise UserError(
                f"no server at {target} within {START_TIMEOUT_S:.0f} s, see above"
            ) from error


def _ask(target: str, folders: Folders, config: Config) -> None:
    """Asks for three users and shows the answers beside what the users had last."""
    from serving.client import RetrievalClient

    version = latest_version(folders.models)
    key = query_key(folders.models, version)
    candidates = read_candidates(folders.models, version).set_index("candidate_id")
    titles = (
        candidates[TITLE] if TITLE in candidates else pd.Series(candidates.index, candidates.index)
    )
    known = ds.dataset(sorted(folders.prepared.glob(f"{layout.KNOWN_POSITIVES}-*.parquet")))
    corpus_ids = candidates.index.to_numpy()
    history = config.history.name if config.history else ""
    with RetrievalClient(target) as client:
        unknown = dict.fromkeys(client.query_features())
        for query_id in _some_users(folders.run):
            query = complete_query(folders.models, version, {key: query_id})
            last = list(query.get(history, ()))
            had = known.to_table(filter=ds.field(layout.QUERY_ID) == query_id)
            rows = had.column(layout.CANDIDATE_ROWS).to_pylist()[0]
            answer = client.recommend(
                {**unknown, **query}, k=NUM_SHOWN, exclude_ids=[*corpus_ids[rows], *last]
            )[0]
            shown = _padded([titles[i] for i in reversed(last)], NUM_SHOWN)
            print_table(
                f"User {query_id}: model version {answer.model_version}",
                ["recommended", "score", "had last (newest first)"],
                [
                    [titles[candidate_id], float(score), before]
                    for candidate_id, score, before in zip(
                        answer.candidate_ids, answer.scores, shown, strict=False
                    )
                ],
            )


def _some_users(run: Path) -> list[str]:
    """Users of the test split with a past, spread over the order of ids."""
    evaluated = pd.read_parquet(run / EVALUATION / "test-full.parquet")
    ids = evaluated.loc[evaluated["is_warm"], "query_id"].tolist()
    return ids[:: max(len(ids) // NUM_USERS, 1)][:NUM_USERS]


def _padded(values: Sequence[str], length: int) -> list[str]:
    return [*values[:length], *[""] * (length - len(values))]


def _summary(folders: Folders, costs: list[_Cost]) -> None:
    print_table(
        "What it took",
        ["step", "seconds", "peak memory"],
        [[cost.step, f"{cost.seconds:.0f}", f"{cost.peak_bytes / 1e9:.1f} GB"] for cost in costs],
    )
    report = folders.run / EVALUATION / "test-full.json"
    print_metrics(json.loads(report.read_text(encoding="utf-8")))
    _console.print(
        "\nGo on with:\n"
        f"  python -m serving.server --model_config_file={folders.models / CONFIG_FILE}\n"
        f"  twotower recommend --models {folders.models} --query '{{...}}' --k 10\n"
        f"  tensorboard --logdir {folders.run}\n"
        "  twotower init DIR    # your own log",
        soft_wrap=True,
        markup=False,
    )
