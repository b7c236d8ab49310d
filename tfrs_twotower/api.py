"""The steps that join packages; each imports what it needs when it is called.

A composition root like the command line. `import tfrs_twotower as tt` offers these functions beside
those that one package holds alone; `api.NAME` finds both.
"""

import atexit
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import tfrs_twotower
from tfrs_twotower.schema import (
    Config,
    Parameter,
    UsageError,
    UserError,
    dump_config,
    load_config,
)
from tfrs_twotower.schema.extras import need
from tfrs_twotower.schema.models_layout import EXCLUDE_IDS
from tfrs_twotower.schema.policies import (
    DEFAULT_POLICIES,
    Steps,
    parse_day,
    parse_policies,
    parse_step,
    seconds_of,
)
from tfrs_twotower.schema.results import Tabular
from tfrs_twotower.schema.status_line import is_ipython, status_line

if TYPE_CHECKING:
    from datetime import date

    import pandas as pd
    import pyarrow as pa
    from panel.viewable import Viewable

    from pipelines.prepare.dataset_files import Chunk
    from serving.client import Recommendations, RetrievalClient
    from tfrs_twotower import compare as compare
    from tfrs_twotower import embeddings as embeddings
    from tfrs_twotower import embeddings_to_milvus as embeddings_to_milvus
    from tfrs_twotower import embeddings_to_mongodb as embeddings_to_mongodb
    from tfrs_twotower import embeddings_to_vertex as embeddings_to_vertex
    from tfrs_twotower import evaluate as evaluate
    from tfrs_twotower import explain as explain
    from tfrs_twotower import export as export
    from tfrs_twotower import report as report
    from tfrs_twotower import sensitivity as sensitivity
    from tfrs_twotower import user_embeddings as user_embeddings
    from tfrs_twotower.datasets.impressions import Written as Impressions
    from tfrs_twotower.evaluation.backtest import Backtest
    from tfrs_twotower.evaluation.click_through import ClickThrough
    from tfrs_twotower.evaluation.explore.explored import Explored
    from tfrs_twotower.keras import keras
    from tfrs_twotower.publishing.refresh import Refresh
    from tfrs_twotower.publishing.release import Gate
    from tfrs_twotower.publishing.versions import Rollout
    from tfrs_twotower.training.train import TrainingResult
    from tfrs_twotower.training.tune import Trial, TuningResult

StrPath = str | Path


def __getattr__(name: str) -> Any:
    """A name of the public face that another package holds."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(tfrs_twotower, name)


@dataclass(frozen=True, repr=False)
class Prepared(Tabular):
    """A prepared folder.

    Attributes:
        folder: Its path.
        manifest: What it holds: `counts`, `time_ranges`, `warm_cold`, `vocabulary_sizes`, ...
    """

    folder: str
    manifest: dict[str, Any]

    @property
    def title(self) -> str:
        """The folder and its sizes."""
        counts, rejected = self.manifest["counts"], ""
        if num_rejected := sum(counts["rejected"].values()):
            rejected = f", {num_rejected:,} of {counts['read']:,} interactions rejected"
        return (
            f"prepared folder {self.folder}: {self.manifest['num_queries']:,} queries, "
            f"{self.manifest['corpus_size']:,} candidates{rejected}"
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row a split: examples, first and last event, warm and cold queries and candidates.

        Times are UTC; data without times have none.
        """
        import pandas as pd

        table = pd.DataFrame(self.manifest["counts"]["examples"]).T
        if ranges := self.manifest["time_ranges"]:
            seconds = pd.DataFrame(ranges, index=["first", "last"]).T
            table = table.join(seconds.apply(pd.to_datetime, unit="s", utc=True))
        return table.join(pd.DataFrame(self.manifest["warm_cold"]).T)


@overload
def prepare(
    config: Config | StrPath,
    dataset: StrPath,
    output: StrPath,
    *,
    overwrite: bool = ...,
    max_rejected_share: float = ...,
    beam_args: Sequence[str] = ...,
    cache: StrPath | None = ...,
    progress: bool = ...,
) -> Prepared: ...


@overload
def prepare(
    config: Config | StrPath,
    *,
    interactions: "pd.DataFrame",
    candidates: "pd.DataFrame | None" = ...,
    queries: "pd.DataFrame | None" = ...,
    output: StrPath,
    overwrite: bool = ...,
    max_rejected_share: float = ...,
    beam_args: Sequence[str] = ...,
    cache: StrPath | None = ...,
    progress: bool = ...,
) -> Prepared: ...


def prepare(
    config: Config | StrPath,
    dataset: StrPath | None = None,
    output: StrPath | None = None,
    *,
    interactions: "pd.DataFrame | None" = None,
    candidates: "pd.DataFrame | None" = None,
    queries: "pd.DataFrame | None" = None,
    overwrite: bool = False,
    max_rejected_share: float = 0.01,
    beam_args: Sequence[str] = (),
    cache: StrPath | None = None,
    progress: bool = True,
) -> Prepared:
    """Turns a log into a prepared folder: validated, labelled, split and encoded by a Beam job.

    The log is a dataset folder, or pandas frames with the same columns.

    Args:
        config: The config, or the path of a `twotower.yaml`.
        dataset: The dataset folder: `interactions*`, and optionally `candidates*` and `queries*`,
            as CSV, JSON lines or Parquet.
        output: The prepared folder to write.
        interactions: In place of `dataset`, a row an event. Moments are Unix seconds or datetimes
            (without a time zone: UTC; fractions of a second are cut off), multi-valued columns hold
            lists.
        candidates: Likewise, a row a candidate; without it the corpus is the train candidates.
        queries: Likewise, a row a query.
        overwrite: Whether a finished prepared folder may be replaced.
        max_rejected_share: Share of the records, 0 to 1, that may be rejected.
        beam_args: Options of Apache Beam, such as `--runner=DataflowRunner`. Frames pass through a
            temporary folder of this machine, which a runner elsewhere does not see.
        cache: Folder for what is parsed of the dataset's files: of a file that has not changed
            since a job with the same folder, nothing is read. The result is the same.
        progress: Whether to show on stderr, or in a notebook, how far the job is.

    Returns:
        The prepared folder and its manifest.

    Raises:
        UsageError: If neither or both of a dataset folder and interactions are given, the config is
            wrong, or the output folder is finished or not ours.
        UserError: If the data cannot be used.
    """
    checked = _config(config)
    if output is None:
        raise UsageError(Parameter("output"), " is missing: name the prepared folder to write")
    given = {"interactions": interactions, "candidates": candidates, "queries": queries}
    frames = {kind: frame for kind, frame in given.items() if frame is not None}
    if (dataset is None) == (not frames):
        raise UsageError("give either a dataset folder or ", Parameter("interactions"))
    options: dict[str, Any] = {
        "overwrite": overwrite,
        "max_rejected_share": max_rejected_share,
        "beam_args": list(beam_args),
        "cache": None if cache is None else str(cache),
    }
    with tempfile.TemporaryDirectory() as folder:
        if dataset is None:
            from pipelines.prepare.frames import write_frames

            write_frames(folder, checked, frames)
            dataset = folder
        with status_line(progress) as line:
            told = line.update if progress else None
            manifest = _prepare(checked, str(dataset), str(output), options, told)
    return Prepared(str(output), manifest)


def train(
    config: Config | StrPath,
    data: StrPath,
    output: StrPath,
    *,
    overwrite: bool = False,
    resume: bool = False,
    warm_start: StrPath | None = None,
    progress: bool = True,
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
) -> "TrainingResult":
    """Trains a two-tower model with Keras and keeps the best epoch, in a run folder.

    Args:
        config: The config, or the path of a `twotower.yaml`; must describe the data.
        data: The prepared folder.
        output: The run folder to write.
        overwrite: Whether a finished run folder may be replaced.
        resume: Whether to continue an unfinished training in the folder; it ends where an
            uninterrupted one ends.
        warm_start: A finished run of the same features and towers, on earlier data, whose weights
            are the initial ones.
        progress: Whether to show epochs and steps on stderr, and before them what the data suggest
            to change.
        callbacks: Further Keras callbacks; they see `val_<metric>` in the logs.

    Returns:
        The run folder, the logs of the epochs, and the validation of the best one.

    Raises:
        UsageError: If the config is wrong, or the run folder is finished or not ours.
        UserError: If the data cannot be used, the training diverges, or a worker is lost.
    """
    from tfrs_twotower.training import train as training
    from tfrs_twotower.training.progress import EpochProgress

    checked = _config(config)
    if progress:
        if not resume and _is_unfinished(Path(output)):
            _tell(
                f"{output} holds an unfinished training, which this one replaces; to go on with "
                "it, stop and pass resume=True (--resume)"
            )
        _show_hints(checked, data)
    with status_line(progress) as line:
        return training.train(
            checked,
            data,
            output,
            overwrite=overwrite,
            resume=resume,
            warm_start=warm_start,
            callbacks=[EpochProgress(line), *callbacks],
        )


def backtest(
    config: Config | StrPath,
    dataset: StrPath,
    output: StrPath,
    *,
    policies: str = DEFAULT_POLICIES,
    step: str = "7d",
    start: str | None = None,
    num_steps: int = 8,
    k: int = 10,
    warm_epochs: int = 2,
    progress: bool = True,
) -> "Backtest":
    """Replays a log as production would have lived it, under several policies of retraining.

    Args:
        config: The config, or the path of a `twotower.yaml`; its `split` is not read.
        dataset: The dataset folder.
        output: The folder to work in. What an interrupted replay has finished in it is not made
            again, nor what a replay of fewer steps or other policies has.
        policies: Names with commas between them: never, refresh, cold, warm, cold-N, warm-N.
        step: From one decision to the next, in whole days: 1d, 7d.
        start: The day of the first decision, such as 2024-03-01, 00:00 UTC; None: so that the steps
            end with the log.
        num_steps: How many.
        k: The cut-off of recall@k.
        warm_epochs: Of a training that starts from the served model; others have those of the
            config.
        progress: Whether to show on stderr what is being done.

    Returns:
        The recall of each policy at each step, with intervals, costs and a recommendation; written
        to `output` as `backtest.json` and `backtest.html`, too.

    Raises:
        UsageError: If an option is wrong, or `output` is of another replay.
        UserError: If the log cannot be used, or a step has nothing to learn from or to judge on.
    """
    from pipelines.prepare.as_of import WholeLog
    from tfrs_twotower.evaluation.report import write_backtest
    from tfrs_twotower.training.backtest import Job, begin
    from tfrs_twotower.training.backtest import backtest as replay
    from tfrs_twotower.training.progress import EpochProgress

    for name, value in {"num_steps": num_steps, "k": k, "warm_epochs": warm_epochs}.items():
        if value < 1:
            raise UsageError(Parameter(name), f" must be 1 or more, got {value}")
    checked, days, chosen = _config(config), parse_step(step), parse_policies(policies)
    log = WholeLog.read(str(dataset), checked)
    steps = (
        Steps.last(int(log.times_s.max()), days, num_steps)
        if start is None
        else Steps(parse_day(start), days, num_steps)
    )
    with status_line(progress) as line:

        def prepare_at(settings: Config, moment: "date", folder: Path) -> None:
            growing, cache = Path(made) / "dataset", Path(made) / "cache"
            log.write(growing, seconds_of(moment))
            options = {"overwrite": True, "cache": str(cache)}
            told = line.update if progress else None
            _prepare(settings, str(growing), str(folder), options, told)

        job = Job(
            config=log.config,
            steps=steps,
            policies=chosen,
            folder=Path(output),
            prepare=prepare_at,
            k=k,
            warm_epochs=warm_epochs,
            callbacks=[EpochProgress(line)] if progress else [],
            tell=line.keep,
        )
        begin(job, log.digest)
        with tempfile.TemporaryDirectory(prefix=".log-", dir=output) as made:
            found = replay(job, log.num_without_time)
    write_backtest(found, Path(output))
    return found


def tune(
    config: Config | StrPath,
    data: StrPath,
    output: StrPath,
    *,
    num_trials: int = 20,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
    on_trial: "Callable[[Trial], None] | None" = None,
) -> "TuningResult":
    """Searches for better hyper-parameters: Optuna proposes, `train` judges.

    Args:
        config: The config, or the path of a `twotower.yaml`; its `search` says what is tried:
            by default learning rate, temperature and width of the embeddings.
        data: The prepared folder.
        output: The folder of the search; `trials/` in it holds a run folder a trial.
        num_trials: How many trainings, those before a `resume` included.
        overwrite: Whether a finished search may be replaced.
        resume: Whether to continue the search in the folder, finished or not.
        progress: Whether to show epochs, steps and each trial as it ends on stderr.
        callbacks: Further Keras callbacks of every training.
        on_trial: Called with each trial as it ends.

    Returns:
        The folder and its trials, best first.

    Raises:
        UsageError: If Optuna is not installed, or the search does not fit the config.
        UserError: If the data cannot be used.
    """
    from tfrs_twotower.training import tune as tuning
    from tfrs_twotower.training.progress import EpochProgress

    checked = _config(config)
    if progress:
        _show_hints(checked, data)
    with status_line(progress) as line:

        def tell(trial: "Trial") -> None:
            line.keep(trial.in_words(checked.training.metric))
            if on_trial is not None:
                on_trial(trial)

        return tuning.tune(
            checked,
            data,
            output,
            num_trials=num_trials,
            overwrite=overwrite,
            resume=resume,
            callbacks=[EpochProgress(line), *callbacks],
            on_trial=tell,
        )


def refresh(
    models: StrPath,
    candidates: "Sequence[StrPath] | pd.DataFrame",
    version: int | None = None,
    *,
    progress: bool = True,
) -> "Refresh":
    """Publishes a version with other candidates and the towers of an earlier one; trains nothing.

    A candidate whose features stay the same keeps its scores to the last bit.

    Args:
        models: The models folder.
        candidates: The whole new corpus, in files or a pandas frame, with the columns of the
            candidates file, and those of its aggregates as of now.
        version: Whose towers to keep; default: the stable one, without labels the newest.
        progress: Whether to show on stderr what is being done.

    Returns:
        The version and how its candidates differ. Labels stay where they are.

    Raises:
        UserError: If a file cannot be read, a candidate cannot be used, or the target recall of the
            version cannot be met.
    """
    import pandas as pd

    from pipelines.prepare.dataset_files import CANDIDATES
    from pipelines.prepare.frames import write_frame
    from tfrs_twotower.publishing import refresh as refreshing
    from tfrs_twotower.publishing.models_folder import read_config
    from tfrs_twotower.publishing.versions import choose

    base = choose(models, version)
    config = read_config(Path(models), base)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(candidates, pd.DataFrame):
            path = Path(folder) / "candidates.parquet"
            write_frame(path, CANDIDATES, candidates, config, as_of_now=True)
            candidates = [path]
        tables = _candidate_tables(config, candidates)
        return refreshing.refresh(models, tables, base, progress=progress)


def promote(
    models: StrPath,
    version: int | None = None,
    *,
    label: str = "stable",
    force: bool = False,
    rollout: "Rollout | None" = None,
) -> "Gate":
    """Gives a label to a version that the release gate lets through.

    Args:
        models: The models folder.
        version: Default: the newest.
        label: "stable" or "canary".
        force: Whether to go on where the gate says no-go.
        rollout: Waits for running servers between the steps, such as a `serving.rollout.Servers`;
            None: the label moves at once, which TF Serving does not follow.

    Returns:
        What the gate found.

    Raises:
        UserError: If there is no such version, it is a no-go, or a server does not load it.
    """
    from tfrs_twotower.publishing import release, versions
    from tfrs_twotower.publishing.models_folder import latest_version

    version = latest_version(Path(models)) if version is None else version
    versions.check(Path(models), version, label)
    gate = release.release_gate(models, version)
    if not gate.is_go and not force:
        raise UserError(
            f"version {version} is a no-go: {'; '.join(gate.reasons)}\nFix it, or pass ",
            Parameter("force", True),
            " to release it all the same.",
        )
    versions.set_label(models, version, label, rollout)
    return gate


def serve(
    models: StrPath, *, version: int | None = None
) -> "AbstractContextManager[RetrievalClient]":
    """Serves a models folder in this process, on a free port of the loopback.

    To serve others, run `twotower serve` or TF Serving.

    Example:
        with tt.serve("models") as client:
            answers = client.recommend([{"user_id": "1"}, {"user_id": "2"}], k=10)

    Args:
        models: The models folder.
        version: Which version; default: the stable one, without labels the newest.

    Returns:
        A context manager: a client of the server, which stops at the end of the block.

    Raises:
        UserError: When entered, if there are no such models, or they cannot be served.
    """
    return _served(models, version, optimize=True)


@contextmanager
def _served(
    models: StrPath, version: int | None, *, optimize: bool, timeout_s: float = 5.0
) -> "Iterator[RetrievalClient]":
    """See `serve`; see `ServerOptions` for `optimize`."""
    need("serving", "tensorflow", "tensorflow_serving", "scann")
    from serving.client import RetrievalClient
    from serving.model_config import ModelConfig, VersionPolicy
    from serving.model_server import ModelServer, ServerOptions
    from tfrs_twotower.publishing.models_folder import asked_model
    from tfrs_twotower.publishing.versions import choose

    # An absolute path: a relative one would be looked up anew when the working folder changes.
    folder = Path(models).resolve()
    version = choose(folder, version)
    model = asked_model(folder, version)
    policy = VersionPolicy(latest=None, specific=frozenset({version}))
    served, options = ModelConfig(model, folder / model, policy), ServerOptions(optimize=optimize)
    with (
        ModelServer([served], rest_port=None, options=options) as server,
        RetrievalClient(f"127.0.0.1:{server.port}", timeout_s=timeout_s) as client,
    ):
        yield client


def recommend(
    models: StrPath | None,
    query: Mapping[str, Any],
    *,
    target: str | None = None,
    ca_file: StrPath | None = None,
    token_file: StrPath | None = None,
    k: int = 10,
    exclude_ids: Sequence[str] = (),
    exclude_known: bool | None = None,
) -> "Recommendations":
    """Recommends candidates for one query; for many use `serve`, which loads the models once.

    Args:
        models: The models folder. Its stable version, without labels the newest, is served for the
            length of the call unless `target` names a server; it also fills in what is known of the
            query, see `complete_query`.
        query: Values by feature name. A feature that is neither given nor known is missing; a
            warning names it. Another names a query's id that is not known.
        target: `host:port` of a running server.
        ca_file: For a server with TLS: PEM of the authority that signed its certificate.
        token_file: For a server that asks for a token: the file with it.
        k: How many candidates.
        exclude_ids: Candidates not to recommend.
        exclude_known: Whether to leave out what the query already had as well; needs `models`.
            None: as `rules.exclude_known` of the config says.

    Returns:
        Ids and scores, best first: `k`, or fewer where fewer are eligible. It tells how many
        candidates were excluded.

    Raises:
        UsageError: If neither models nor target are given.
        UserError: If there are no such models, or the server refuses.
    """
    query = {**query, EXCLUDE_IDS: [*query.get(EXCLUDE_IDS, ()), *exclude_ids]}
    if models is not None:
        query = _completed(models, query, exclude_known)
    elif exclude_known:
        raise UsageError(
            Parameter("exclude_known"), ": what a query already had is in a models folder, name it"
        )
    with _client(models, target, ca_file, token_file) as client:
        return client.recommend(_with_missing(query, client), k=k)[0]


def complete_query(
    models: StrPath, query: Mapping[str, Any], *, exclude_known: bool | None = None
) -> dict[str, Any]:
    """Adds to a query what a models folder knows of it: for a client of a running server.

    Example:
        query = tt.complete_query("models", {"user_id": "42"})
        [answer] = client.recommend(query, k=10)

    Args:
        models: The models folder; its stable version is read, without labels the newest.
        query: Values by feature name, of a known query its id.
        exclude_known: Whether to leave out what the query already had; None: as
            `rules.exclude_known` of the config says.

    Returns:
        The values given, the profile and history where they are known, else None, and
        `exclude_ids`: all known positives of the query, and its history.

    Raises:
        UserError: If there are no such models.
    """
    from tfrs_twotower.publishing import models_folder
    from tfrs_twotower.publishing.versions import choose

    version = choose(models)
    return models_folder.complete_query(Path(models), version, query, exclude_known=exclude_known)


def _completed(
    models: StrPath, query: Mapping[str, Any], exclude_known: bool | None
) -> Mapping[str, Any]:
    """See `complete_query`; warns of what the models folder does not know."""
    from tfrs_twotower.publishing.models_folder import (
        is_known_query,
        keeps_known_positives,
        read_config,
    )
    from tfrs_twotower.publishing.versions import choose

    folder, version = Path(models), choose(models)
    config = read_config(folder, version)
    _check_values(config, query)
    if not is_known_query(folder, version, query):
        _warn("the query's id is not known: it is answered as a new one")
    if exclude_known is None:
        exclude_known = config.rules.exclude_known
    if exclude_known and not keeps_known_positives(folder, version):
        _warn(
            f"version {version} was published without the known positives of queries: only the "
            "history is left out; publish it with them by `twotower export`"
        )
    return complete_query(models, query, exclude_known=exclude_known)


def _check_values(config: Config, query: Mapping[str, Any]) -> None:
    """Tells of a value of the wrong type in the client's words, before a model is loaded.

    Raises:
        UserError: If there is one.
    """
    import numpy as np

    from serving.queries import build_inputs
    from serving.tensors import Signature, TensorSpec
    from tfrs_twotower.features.encoding import raw_spec

    given = {name: value for name, value in query.items() if name in config.query_features}
    inputs = {}
    for name in given:
        spec = raw_spec(config.query_features[name], name)
        sizes = tuple(-1 if size is None else size for size in spec.shape)
        inputs[name] = TensorSpec(np.dtype(spec.dtype.as_numpy_dtype), sizes)
    build_inputs(Signature(inputs, {}), [given], {})


def _client(
    models: StrPath | None,
    target: str | None,
    ca_file: StrPath | None,
    token_file: StrPath | None,
) -> "AbstractContextManager[RetrievalClient]":
    """A client of the server that runs, else of one that starts."""
    from serving.access import read_access
    from serving.client import RetrievalClient

    if target is not None:
        access = read_access(ca_file, token_file)
        return RetrievalClient(target, credentials=access.credentials, metadata=access.metadata)
    if ca_file is not None or token_file is not None:
        raise UsageError(Parameter("ca_file"), " and ", Parameter("token_file"), ": name a target")
    if models is not None:
        # For one query, which on a busy machine takes seconds: it is the first.
        return _served(models, None, optimize=False, timeout_s=60.0)
    raise UsageError("name a models folder or the target of a running server")


def _with_missing(query: Mapping[str, Any], client: "RetrievalClient") -> Mapping[str, Any]:
    """The query with every feature named, as the client wants it; warns of those not given."""
    absent = [name for name in client.query_features() if name not in query]
    if absent:
        _warn(f"not given, so taken as missing: {', '.join(absent)}")
    return {**dict.fromkeys(absent), **query}


def _warn(message: str) -> None:
    """Warns at the line that called `recommend`."""
    warnings.warn(message, stacklevel=4)


def explore(models: StrPath, *, compare: int | None = None) -> "Viewable":
    """A page to look at a recommender, for a notebook; `twotower explore` serves it.

    Its models are served on the loopback until the process ends.

    Example:
        tt.explore("models")

    Args:
        models: The models folder; its stable version answers, without labels the newest.
        compare: Another version, to see what moves.

    Returns:
        What a notebook shows; of Panel.

    Raises:
        UsageError: If Panel is not installed.
        UserError: If there are no such versions.
    """
    panel = _panel()
    from tfrs_twotower.evaluation.explore.page import view

    panel.extension(inline=True)  # Else a notebook takes the scripts from the network.
    lasting = ExitStack()
    atexit.register(lasting.close)
    return view(lasting.enter_context(explored(models, compare)))


@contextmanager
def explored(models: StrPath, compare: int | None) -> "Iterator[Explored]":
    """The versions that a page shows, served while they are looked at; see `explore`."""
    _panel()
    from tfrs_twotower.evaluation.explore.explored import Explored
    from tfrs_twotower.evaluation.explore.explored_version import read_version
    from tfrs_twotower.publishing.versions import choose

    folder = Path(models).resolve()
    numbers = [choose(folder), *([] if compare is None else [choose(folder, compare)])]
    if numbers[0] == compare:
        raise UsageError(Parameter("compare"), f": version {compare} is shown anyway, name another")
    with ExitStack() as served:
        found = []
        for number in numbers:
            # Lists of many users are asked for at once.
            client = served.enter_context(_served(folder, number, optimize=False, timeout_s=60.0))
            found.append(read_version(folder, number, client))
        looked_at = Explored("/".join(folder.parts[-2:]), found)
        looked_at.prepare()
        yield looked_at


def _panel() -> Any:
    try:
        import panel
    except ImportError as error:
        raise UsageError(
            "`twotower explore` needs Panel: pip install -e '.[explore]' in the clone"
        ) from error
    return panel


def titles(models: StrPath) -> dict[str, str]:
    """Title by candidate id, for the candidates that have one.

    Args:
        models: The models folder; its stable version is read, without labels the newest.

    Raises:
        UserError: If there are no such models.
    """
    from tfrs_twotower.publishing.models_folder import TITLE, read_candidates
    from tfrs_twotower.publishing.versions import choose

    candidates = read_candidates(Path(models), choose(models))
    if TITLE not in candidates:
        return {}
    return dict(candidates[["candidate_id", TITLE]].dropna().itertuples(index=False))


def quiet_native_log() -> None:
    """Keeps the notes of TensorFlow's and ScaNN's C++ code off the terminal; errors stay."""
    from serving import native_log

    native_log.keep_errors_only()


def _prepare(
    config: Config,
    dataset: str,
    output: str,
    options: Mapping[str, Any],
    told: Callable[[str], None] | None,
) -> dict[str, Any]:
    """Runs the job of `prepare`; returns the manifest."""
    if is_ipython():
        return _prepare_apart(config, dataset, output, options, show=told or (lambda line: None))
    from pipelines.prepare import prepare as run

    return run(config, dataset, output, progress=told, **options)


def _prepare_apart(
    config: Config,
    dataset: str,
    output: str,
    options: Mapping[str, Any],
    show: Callable[[str], None],
) -> dict[str, Any]:
    """Runs the job in a process of its own, quietly; returns the manifest.

    Within IPython, Beam 2.77 imports its interactive runner, which fails on pandas 3.
    """
    job = {"config": dump_config(config), "dataset": dataset, "output": output, **options}
    with tempfile.TemporaryDirectory() as folder:
        told, result = Path(folder) / "job.json", Path(folder) / "result.json"
        told.write_text(json.dumps(job), encoding="utf-8")
        errors = Path(folder) / "stderr"
        command = [sys.executable, "-c", _APART, str(told), str(result)]
        with (
            errors.open("w") as stderr,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
        ):
            try:
                for line in process.stdout or ():
                    show(line.rstrip())
            except BaseException:
                process.kill()
                raise
        if not result.exists():
            raise RuntimeError(f"the job failed:\n{errors.read_text()}")
        found = json.loads(result.read_text(encoding="utf-8"))
    if "error" in found:
        raise (UsageError if found["is_usage"] else UserError)(found["error"])
    return dict(found["manifest"])


_APART = """\
import json, pathlib, sys
from pipelines.prepare import prepare
from tfrs_twotower import UsageError, UserError, parse_config

job, result = map(pathlib.Path, sys.argv[1:])
told = json.loads(job.read_text(encoding="utf-8"))
try:
    config = parse_config(told.pop("config"), "the config")
    found = {"manifest": prepare(config, progress=lambda line: print(line, flush=True), **told)}
except UserError as error:
    found = {"error": str(error), "is_usage": isinstance(error, UsageError)}
result.write_text(json.dumps(found), encoding="utf-8")
"""


def _show_hints(config: Config, data: StrPath) -> None:
    """Says before a training what will keep it from being a good one."""
    from tfrs_twotower.data.prepared import PreparedData
    from tfrs_twotower.schema.hints import config_hints, data_hints

    _tell(*config_hints(config))
    _tell(*data_hints(config, PreparedData(data, config).manifest))


def _is_unfinished(run: Path) -> bool:
    from tfrs_twotower.models.run_folder import CHECKPOINTS
    from tfrs_twotower.schema.folders import MANIFEST

    return (run / CHECKPOINTS).is_dir() and not (run / MANIFEST).exists()


def impressions(
    logs: StrPath,
    config: Config | StrPath,
    output: StrPath,
    *,
    event: str = "impression",
    max_rank: int | None = None,
    overwrite: bool = False,
) -> "Impressions":
    """Turns a server's request log into interactions, which `prepare` reads beside the clicks.

    Args:
        logs: The folder of the log.
        config: Of the dataset folder; its `labels.events` gives `event` label 0.
        output: The file to write, `interactions*.parquet` in the dataset folder.
        event: What `columns.event` holds in it.
        max_rank: How many of an answer's candidates were shown; None: all.
        overwrite: Whether to replace the file.

    Raises:
        UserError: If there is no log or it is damaged, the config lacks the event, or the output
            cannot be taken.
    """
    from tfrs_twotower.datasets.impressions import write_impressions

    settings = _config(config)
    return write_impressions(
        logs, settings, output, event=event, max_rank=max_rank, overwrite=overwrite
    )


def click_through(
    logs: StrPath,
    config: Config | StrPath,
    dataset: StrPath,
    *,
    within_s: int = 86_400,
    max_rank: int | None = None,
) -> "ClickThrough":
    """Compares the versions that served by how much of what they showed was clicked.

    Args:
        logs: The folder of a server's request log.
        config: Of the dataset folder; says which events are positives, the clicks.
        dataset: The dataset folder; its interactions hold the clicks.
        within_s: How long after an impression a click is due to it.
        max_rank: How many of an answer's candidates were shown; None: all.

    Raises:
        UserError: If there is no log or it is damaged, or the interactions cannot be read.
    """
    from collections import Counter

    import pandas as pd

    from tfrs_twotower.datasets.impressions import log_files, read_impressions
    from tfrs_twotower.evaluation.click_through import click_through as joined

    settings = _config(config)
    if settings.columns.timestamp is None:
        raise UsageError("clicks follow impressions in time: the config needs `columns.timestamp`")
    skipped: Counter[str] = Counter()
    tables = [
        read_impressions(path, settings, skipped, max_rank=max_rank) for path in log_files(logs)
    ]
    shown = pd.concat([table.to_pandas() for table in tables], ignore_index=True)
    clicks = pd.concat([*_positives(settings, dataset)], ignore_index=True)
    return joined(shown, clicks, within_s=within_s, num_skipped=skipped.total())


def _positives(config: Config, dataset: StrPath) -> "Iterator[pd.DataFrame]":
    """Query, candidate and time of the positives of a dataset folder, checked as by `prepare`."""
    from pipelines.prepare import dataset_files, parsing, validate

    columns = [*dataset_files.needed_columns(config, dataset_files.INTERACTIONS)]
    for chunk in dataset_files.open_dataset(str(dataset), config).of(dataset_files.INTERACTIONS):
        for batch in parsing.read_chunk(chunk, columns, validate.numeric_columns(config)):
            events = validate.validate_events(batch.table, config, None).table.to_pandas()
            positives = events[events[validate.LABEL] == 1]
            ids = positives[[validate.QUERY_ID, validate.CANDIDATE_ID]]
            yield ids.assign(time_s=positives[validate.TIMESTAMP_S])


def _tell(*hints: str) -> None:
    from tfrs_twotower.training.progress import show_hints

    show_hints(hints)


def _candidate_tables(config: Config, files: Sequence[StrPath]) -> "Iterator[pa.Table]":
    """Candidates as the models folder holds them, read and checked as `prepare` does."""
    import numpy as np

    from pipelines.prepare import candidate_records, dataset_files, parsing, validate

    for chunk in _candidate_chunks(config, files):
        columns = list(
            dataset_files.needed_columns(config, dataset_files.CANDIDATES, as_of_now=True)
        )
        for batch in parsing.read_chunk(chunk, columns, validate.numeric_columns(config)):
            checked = validate.validate_entities(batch.table, config, "candidate", as_of_now=True)
            reasons = [reject.reason for reject in batch.rejects]
            reasons += [validate.REASONS[code] for code in checked.reasons if code >= 0]
            if reasons:
                raise UserError(
                    f"{chunk.name}: {len(reasons)} of {batch.num_read} candidates cannot be used, "
                    f"the first for {reasons[0]}: fix or remove them"
                )
            rows = np.arange(len(checked.table))
            table = candidate_records.candidate_attributes(config, checked.table, rows)
            yield table.drop_columns(["candidate_row"])


def _candidate_chunks(config: Config, files: Sequence[StrPath]) -> "Iterator[Chunk]":
    from pipelines.prepare import dataset_files
    from tfrs_twotower.schema.file_shapes import EXPECTED, is_data

    for path in map(Path, files):
        if not is_data(path.name):
            raise UserError(f"{path}: expected a file {EXPECTED}")
        try:
            size = path.stat().st_size
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        whole = dataset_files.whole_file(
            str(path), str(path.parent), dataset_files.CANDIDATES, size
        )
        whole = dataset_files.looked_at(whole, config, as_of_now=True)
        yield from dataset_files.cut(whole, dataset_files.MAX_CHUNK_BYTES)


def _config(config: Config | StrPath) -> Config:
    return config if isinstance(config, Config) else load_config(config)
