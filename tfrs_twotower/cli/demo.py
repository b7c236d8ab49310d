"""`twotower demo`: every step on a data set, then questions to a server."""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import pandas as pd
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tfrs_twotower.cli.evaluation_tables import print_metrics
from tfrs_twotower.cli.output import print_table
from tfrs_twotower.cli.processes import Command
from tfrs_twotower.cli.steps import (
    TEST,
    Folders,
    Outcome,
    dataset_step,
    model_steps,
    print_outcomes,
    run_steps,
    working,
)
from tfrs_twotower.datasets import DATASETS
from tfrs_twotower.publishing.models_folder import (
    CONFIG_FILE,
    TITLE,
    complete_query,
    latest_version,
    query_key,
    read_candidates,
)
from tfrs_twotower.schema import Config, UserError, load_config
from tfrs_twotower.schema.runs import EVALUATION

NUM_USERS, NUM_SHOWN = 3, 8
POLL_S = 0.5
# A server that loads takes processor time; one that takes none so long is stuck.
MAX_IDLE_POLLS = 120
# By default gRPC tries again after up to two minutes.
ANSWER_S = 5.0
RECONNECT_SOON = [("grpc.max_reconnect_backoff_ms", 1000)]


def run_demo(dataset: str, source: Path | None, workdir: Path, *, overwrite: bool) -> None:
    """Runs the steps that are due, serves the models, and shows recommendations of some users.

    Args:
        dataset: A name that `twotower dataset` knows, or a dataset folder.
        source: Folder of the original files, for data sets that have them.
        workdir: The folders `dataset`, `prepared`, `run` and `models` are made here.
        overwrite: Whether finished folders may be replaced that are not as a demo left them.

    Raises:
        UserError: If a step or the server fails.
    """
    is_named = dataset in DATASETS
    folders = Folders(workdir / "dataset" if is_named else Path(dataset), workdir)
    if not is_named and not folders.config.exists():
        raise UserError(
            f"{dataset} is no data set that `twotower dataset` knows ({', '.join(DATASETS)}) and "
            "no folder with a twotower.yaml: for a log of your own, begin with `twotower init`"
        )
    with working(workdir) as call:
        outcomes = []
        if is_named:
            first = [dataset_step(dataset, source, folders)]
            outcomes += run_steps(first, workdir, call, overwrite=overwrite)
        outcomes += run_steps(model_steps(folders), workdir, call, overwrite=overwrite)
        with _server(folders.models, outcomes) as target:
            _ask(target, folders, load_config(folders.config))
    print_outcomes(outcomes)
    _print_end(folders)


@contextmanager
def _server(models: Path, outcomes: list[Outcome]) -> Iterator[str]:
    """A running server; yields its host:port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = Command(
        ["serve", f"--port={port}", "--rest_api_port=0"]
        + [f"--model_config_file={models / CONFIG_FILE}"]
    )
    try:
        target = f"127.0.0.1:{port}"
        _wait_until_ready(target, command)
        yield target
    finally:
        outcomes.append(Outcome("serve", "recommended for some users", command.stop()))


def _wait_until_ready(target: str, server: Command) -> None:
    """Waits as long as the server is at work.

    Raises:
        UserError: If it has ended, or does nothing more.
    """
    num_idle, ticks = 0, 0
    with grpc.insecure_channel(target, RECONNECT_SOON) as channel:
        while num_idle < MAX_IDLE_POLLS:
            if _is_healthy(channel):
                return
            if server.has_ended():
                raise UserError("the server ended before it answered, see above")
            time.sleep(POLL_S)
            before, ticks = ticks, server.cpu_ticks()
            num_idle = num_idle + 1 if ticks == before else 0
    raise UserError(f"the server at {target} neither answers nor does anything, see above")


def _is_healthy(channel: grpc.Channel) -> bool:
    check = health_pb2_grpc.HealthStub(channel).Check
    try:
        reply = check(health_pb2.HealthCheckRequest(), timeout=ANSWER_S)
    except grpc.RpcError:
        return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def _ask(target: str, folders: Folders, config: Config) -> None:
    """Asks for three users and shows the answers beside what the users had last."""
    from serving.client import RetrievalClient

    version = latest_version(folders.models)
    key = query_key(folders.models, version)
    candidates = read_candidates(folders.models, version).set_index("candidate_id")
    titles = (
        candidates[TITLE] if TITLE in candidates else pd.Series(candidates.index, candidates.index)
    )
    history = config.history.name if config.history else ""
    with RetrievalClient(target) as client:
        unknown = dict.fromkeys(client.query_features())
        for query_id in _some_users(folders.run):
            query = complete_query(folders.models, version, {key: query_id})
            last = list(query.get(history, ()))
            answer = client.recommend({**unknown, **query}, k=NUM_SHOWN)[0]
            shown = _padded([titles[i] for i in reversed(last)], NUM_SHOWN)
            print_table(
                f"User {query_id}: {answer.title}",
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
    evaluated = pd.read_parquet(run / EVALUATION / f"{TEST}.parquet")
    ids = evaluated.loc[evaluated["is_warm"], "query_id"].tolist()
    return ids[:: max(len(ids) // NUM_USERS, 1)][:NUM_USERS]


def _padded(values: Sequence[str], length: int) -> list[str]:
    return [*values[:length], *[""] * (length - len(values))]


def _print_end(folders: Folders) -> None:
    report = folders.run / EVALUATION / f"{TEST}.json"
    print_metrics(json.loads(report.read_text(encoding="utf-8")))
    print(
        "\nGo on with:\n"
        f"  twotower serve --model_config_file={folders.models / CONFIG_FILE}\n"
        f"  twotower recommend --models {folders.models} --query '{{...}}' --k 10\n"
        f"  tensorboard --logdir {folders.run}\n"
        "  twotower init DIR    # your own log"
    )
