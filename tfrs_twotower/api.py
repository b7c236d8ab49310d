"""The five steps as functions, for notebooks and scripts.

A composition root like the command line: it alone joins the packages, and imports them late.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfrs_twotower.schema import Config, UsageError, load_config

if TYPE_CHECKING:
    from serving.client import Recommendations
    from tfrs_twotower.evaluate import Evaluation
    from tfrs_twotower.export import Export
    from tfrs_twotower.train import Training

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
    from pipelines import prepare as job

    return job.prepare(
        _config(config), str(dataset), str(output), overwrite=overwrite, beam_args=beam_args
    )


def train(config: Config | StrPath, data: StrPath, output: StrPath, **options: Any) -> "Training":
    """Trains on a prepared folder into a run folder; see `tfrs_twotower.train.train`."""
    from tfrs_twotower import train as training
    from tfrs_twotower.progress import EpochProgress

    config = _config(config)
    options.setdefault("callbacks", [EpochProgress(config.training)])
    return training.train(config, data, output, **options)


def evaluate(run: StrPath, data: StrPath, **options: Any) -> "Evaluation":
    """Evaluates a run beside the baselines; see `tfrs_twotower.evaluate.evaluate`."""
    from tfrs_twotower import evaluate as evaluation

    return evaluation.evaluate(run, data, **options)


def export(run: StrPath, data: StrPath, output: StrPath, **options: Any) -> "Export":
    """Publishes the next version of every model; see `tfrs_twotower.export.export`."""
    from tfrs_twotower import export as exporting

    return exporting.export(run, data, output, **options)


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
        models: The models folder. Its newest version is served for the length of the call unless
            `target` names a server; it also fills in the profile and history of a known query.
        query: Values by feature name; a feature that is neither given nor known is missing.
        target: `host:port` of a running server.
        k: How many candidates.
        exclude_ids: Candidates not to recommend.

    Raises:
        UserError: If there are no such models, or the server refuses.
    """
    from serving.client import RetrievalClient
    from serving.model_config import ModelConfig
    from serving.server import ModelServer
    from tfrs_twotower.models_folder import RETRIEVAL, complete_query, latest_version

    if models is None and target is None:
        raise UsageError("name a models folder or the target of a running server")
    if models is not None:
        query = complete_query(Path(models), latest_version(Path(models)), query)
    with ExitStack() as stack:
        if target is None:
            served = ModelConfig(RETRIEVAL, Path(str(models)).resolve() / RETRIEVAL)
            server = stack.enter_context(ModelServer([served], rest_port=None))
            target = f"127.0.0.1:{server.port}"
        client = stack.enter_context(RetrievalClient(target))
        unknown = dict.fromkeys(client.query_features())
        return client.recommend({**unknown, **query}, k=k, exclude_ids=exclude_ids)[0]


def titles(models: StrPath) -> dict[str, str]:
    """Title by candidate id, for those of the newest version that have one."""
    from tfrs_twotower.models_folder import TITLE, latest_version, read_candidates

    candidates = read_candidates(Path(models), latest_version(Path(models)))
    if TITLE not in candidates:
        return {}
    return dict(candidates[["candidate_id", TITLE]].dropna().itertuples(index=False))


def _config(config: Config | StrPath) -> Config:
    return config if isinstance(config, Config) else load_config(config)
