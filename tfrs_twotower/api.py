"""The five steps as functions, for notebooks and scripts.

A composition root like the command line: it alone joins the packages, and imports them late.
"""

import importlib
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfrs_twotower.schema import Config, Parameter, UsageError, UserError, dump_config, load_config
from tfrs_twotower.schema.folders import read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.prepare.dataset_files import Chunk
    from serving.client import Recommendations
    from tfrs_twotower.evaluation.ablation import ContextSensitivity
    from tfrs_twotower.evaluation.compare import Comparison
    from tfrs_twotower.evaluation.explain import Explanation
    from tfrs_twotower.evaluation.result import Evaluation
    from tfrs_twotower.publishing.embedding_store import EmbeddingStore
    from tfrs_twotower.publishing.export import Export
    from tfrs_twotower.publishing.refresh import Refresh
    from tfrs_twotower.publishing.release import Gate
    from tfrs_twotower.training.train import TrainingResult
    from tfrs_twotower.training.tune import TuningResult

StrPath = str | Path


def prepare(
    config: Config | StrPath,
    dataset: StrPath,
    output: StrPath,
    *,
    overwrite: bool = False,
    beam_args: Sequence[str] = (),
) -> dict[str, Any]:
    """Turns a dataset folder into a prepared folder; see `pipelines.prepare`.

    Returns:
        The manifest of the prepared folder.
    """
    from pipelines.prepare import prepare as prepare_data

    config = _config(config)
    if _is_notebook():
        return _prepare_apart(config, dataset, output, overwrite, beam_args)
    return prepare_data(config, str(dataset), str(output), overwrite=overwrite, beam_args=beam_args)


def _is_notebook() -> bool:
    python = sys.modules.get("IPython")
    return python is not None and python.get_ipython() is not None


def _prepare_apart(
    config: Config, dataset: StrPath, output: StrPath, overwrite: bool, beam_args: Sequence[str]
) -> dict[str, Any]:
    """Runs the job in a process of its own: within IPython, Beam 2.77 fails on pandas 3."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "twotower.yaml"
        path.write_text(dump_config(config), encoding="utf-8")
        words = ["--config", str(path), "--dataset", str(dataset), "--output", str(output)]
        words += [*(["--overwrite"] if overwrite else []), *beam_args]
        command = [sys.executable, "-m", "pipelines.prepare", *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().rpartition("error: ")[2])
    return read_manifest(output, kind="prepared", made_by="twotower prepare")


def train(
    config: Config | StrPath, data: StrPath, output: StrPath, **options: Any
) -> "TrainingResult":
    """Trains on a prepared folder into a run folder; see `tfrs_twotower.training.train.train`."""
    from tfrs_twotower.training import train as training
    from tfrs_twotower.training.progress import EpochProgress

    config = _config(config)
    options.setdefault("callbacks", [EpochProgress(config.training)])
    return training.train(config, data, output, **options)


def tune(
    config: Config | StrPath, data: StrPath, output: StrPath, **options: Any
) -> "TuningResult":
    """Searches for better settings; see `tfrs_twotower.training.tune.tune`."""
    from tfrs_twotower.training import tune as tuning
    from tfrs_twotower.training.progress import EpochProgress

    config = _config(config)
    options.setdefault("callbacks", [EpochProgress(config.training)])
    return tuning.tune(config, data, output, **options)


def evaluate(run: StrPath, data: StrPath, **options: Any) -> "Evaluation":
    """Evaluates a run beside the baselines; see `tfrs_twotower.evaluation.evaluate.evaluate`."""
    from tfrs_twotower.evaluation import evaluate as evaluation

    return evaluation.evaluate(run, data, **options)


def report(run: StrPath, output: StrPath, **options: Any) -> Path:
    """Writes the report of an evaluated run; see `tfrs_twotower.evaluation.report.write_report`."""
    from tfrs_twotower.evaluation.report import write_report

    return write_report(run, output, **options)


def compare(runs: Sequence[StrPath], **options: Any) -> "Comparison":
    """Compares evaluated runs on the same queries; see `evaluation.compare`."""
    from tfrs_twotower.evaluation import compare as comparing

    return comparing.compare(runs, **options)


def embeddings(run: StrPath, data: StrPath, output: StrPath, **options: Any) -> "EmbeddingStore":
    """Writes embeddings to files; see `publishing.embedding_store.write_embeddings`."""
    from tfrs_twotower.publishing.embedding_store import write_embeddings

    return write_embeddings(run, data, output, **options)


def user_embeddings(models: StrPath, output: StrPath, **options: Any) -> int:
    """Embeds known users ahead; see `publishing.user_embeddings.write_user_embeddings`."""
    from tfrs_twotower.publishing.user_embeddings import write_user_embeddings

    return write_user_embeddings(models, output, **options)


def explain(
    run: StrPath, data: StrPath, query: Mapping[str, Any], candidate_id: str
) -> "Explanation":
    """Says why a candidate is recommended; see `tfrs_twotower.evaluation.explain.explain`."""
    from tfrs_twotower.evaluation import explain as explaining

    return explaining.explain(run, data, query, candidate_id)


def sensitivity(run: StrPath, data: StrPath, **options: Any) -> "ContextSensitivity":
    """Compares two moments; see `tfrs_twotower.evaluation.ablation.context_sensitivity`."""
    from tfrs_twotower.evaluation.ablation import context_sensitivity

    return context_sensitivity(run, data, **options)


def export(run: StrPath, data: StrPath, output: StrPath, **options: Any) -> "Export":
    """Publishes the next version of every model; see `tfrs_twotower.publishing.export.export`."""
    from tfrs_twotower.publishing import export as exporting

    return exporting.export(run, data, output, **options)


def refresh(
    models: StrPath, candidates: Sequence[StrPath], version: int | None = None
) -> "Refresh":
    """Publishes a version with other candidates; see `tfrs_twotower.publishing.refresh.refresh`.

    Args:
        models: The models folder.
        candidates: Files of the whole new corpus, with the columns of the candidates file.
        version: Whose towers to keep; default: the stable one, without labels the newest.

    Raises:
        UserError: If a file cannot be read, or a candidate of it cannot be used.
    """
    from tfrs_twotower.publishing import refresh as refreshing
    from tfrs_twotower.publishing.models_folder import read_config
    from tfrs_twotower.publishing.versions import choose

    base = choose(models, version)
    config = read_config(Path(models), base)
    return refreshing.refresh(models, _candidate_tables(config, candidates), base)


def promote(
    models: StrPath, version: int | None = None, *, label: str = "stable", force: bool = False
) -> "Gate":
    """Gives a label to a version that the release gate lets through.

    Args:
        models: The models folder.
        version: Default: the newest.
        label: "stable" or "canary".
        force: Whether to go on where the gate says no-go.

    Returns:
        What the gate found.

    Raises:
        UserError: If there is no such version, or it is a no-go.
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
    versions.set_label(models, version, label)
    return gate


def recommend(
    models: StrPath | None,
    query: Mapping[str, Any],
    *,
    target: str | None = None,
    k: int = 10,
    exclude_ids: Sequence[str] = (),
) -> "Recommendations":
    """Asks for recommendations over gRPC.

    Args:
        models: The models folder. Its stable version, without labels the newest, is served for the
            length of the call unless `target` names a server; it also fills in the profile and
            history of a known query.
        query: Values by feature name; a feature that is neither given nor known is missing, of
            which a warning tells, as it does of a query whose id is not known.
        target: `host:port` of a running server.
        k: How many candidates.
        exclude_ids: Candidates not to recommend.

    Raises:
        UserError: If there are no such models, or the server refuses.
    """
    from serving.client import RetrievalClient
    from serving.model_config import ModelConfig, VersionPolicy
    from serving.server import ModelServer
    from tfrs_twotower.publishing.models_folder import asked_model, complete_query, is_known_query
    from tfrs_twotower.publishing.versions import choose

    if models is None and target is None:
        raise UsageError("name a models folder or the target of a running server")
    with ExitStack() as stack:
        if models is not None:
            folder = Path(models).resolve()
            version = choose(folder)
            if not is_known_query(folder, version, query):
                warnings.warn(
                    "the query's id is not known: it is answered as a new one", stacklevel=2
                )
            query = complete_query(folder, version, query)
        if target is None:
            model = asked_model(folder, version)
            policy = VersionPolicy(latest=None, specific=frozenset({version}))
            served = ModelConfig(model, folder / model, policy)
            server = stack.enter_context(ModelServer([served], rest_port=None))
            target = f"127.0.0.1:{server.port}"
        client = stack.enter_context(RetrievalClient(target))
        absent = [name for name in client.query_features() if name not in query]
        if absent:
            warnings.warn(f"not given, so taken as missing: {', '.join(absent)}", stacklevel=2)
        query = {**dict.fromkeys(absent), **query}
        return client.recommend(query, k=k, exclude_ids=exclude_ids)[0]


def titles(models: StrPath) -> dict[str, str]:
    """Title by candidate id, for those of the stable or else newest version that have one."""
    from tfrs_twotower.publishing.models_folder import TITLE, read_candidates
    from tfrs_twotower.publishing.versions import choose

    candidates = read_candidates(Path(models), choose(models))
    if TITLE not in candidates:
        return {}
    return dict(candidates[["candidate_id", TITLE]].dropna().itertuples(index=False))


def quiet_native_log() -> None:
    """Keeps the notes of TensorFlow's and ScaNN's C++ code off the terminal; errors stay."""
    importlib.import_module("tfrs_twotower.keras")  # First: it picks Keras 2.
    from serving import native_log

    native_log.keep_errors_only()


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
                    f"the first for {reasons[0]}: mend or remove them"
                )
            rows = np.arange(len(checked.table))
            table = candidate_records.candidate_attributes(config, checked.table, rows)
            yield table.drop_columns(["candidate_row"])


def _candidate_chunks(config: Config, files: Sequence[StrPath]) -> "Iterator[Chunk]":
    from pipelines.prepare import dataset_files

    for path in map(Path, files):
        if not dataset_files.FILE_NAME.search(path.name):
            raise UserError(f"{path}: expected a .csv, .jsonl or .parquet file (text also as .gz)")
        try:
            size = path.stat().st_size
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        whole = dataset_files.whole_file(
            str(path), str(path.parent), dataset_files.CANDIDATES, size
        )
        header = dataset_files.check_columns(whole, config, as_of_now=True)
        yield from dataset_files.cut(whole._replace(header=header), dataset_files.MAX_CHUNK_BYTES)


def _config(config: Config | StrPath) -> Config:
    return config if isinstance(config, Config) else load_config(config)
