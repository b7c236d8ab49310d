"""TF Serving's `models.config`: which models a server serves, which versions, under what labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.errors import LoadError
from tfrs_twotower.schema import UsageError


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions found are served.

    Attributes:
        latest: This many of the newest; None: no limit.
        specific: Only these; empty: any.
    """

    latest: int | None = 1
    specific: frozenset[int] = frozenset()

    def select(self, versions: Sequence[int]) -> list[int]:
        """The versions to serve of those found, ascending."""
        found = sorted(set(versions) & self.specific if self.specific else set(versions))
        return found if self.latest is None else found[-self.latest :]


ALL_VERSIONS = VersionPolicy(latest=None)


@dataclass(frozen=True)
class RequestLogging:
    """Which answers of a model are kept, and where.

    Attributes:
        filename_prefix: Absolute; the names of the files begin with it.
        sampling_rate: Share of the requests, above 0 and at most 1.
    """

    filename_prefix: Path
    sampling_rate: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """One model of a server.

    Attributes:
        name: What requests call it.
        base_path: Absolute folder with one subfolder, named by its number, a version.
        policy: Which versions are served.
        labels: Version by label, for example `{"stable": 3, "canary": 4}`.
        logging: Which answers are kept; None: none.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)
    logging: RequestLogging | None = None


def read_models_config(path: str | Path) -> list[ModelConfig]:
    """Reads a `models.config` file.

    Args:
        path: A `ModelServerConfig` in protobuf's text format.

    Raises:
        UsageError: If it cannot be read, or is not such a file.
        LoadError: If it names models in a way that cannot be served.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the model config file {path}: {error}") from error
    return parse_models_config(text, str(path))


def parse_models_config(text: str, source: str) -> list[ModelConfig]:
    """Reads the text of a `models.config`; `source` names it in errors."""
    proto = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, proto)
    except text_format.ParseError as error:
        raise UsageError(f"{source} is not a TF Serving model config: {error}") from error
    models = [_model(config, source) for config in proto.model_config_list.config]
    if not models:
        raise LoadError(f"{source} lists no model: it needs a `model_config_list`")
    names = [model.name for model in models]
    if twice := {name for name in names if names.count(name) > 1}:
        raise LoadError(f"{source} lists the model {min(twice)} twice")
    return models


def _model(config: Any, source: str) -> ModelConfig:
    name, base_path = config.name, config.base_path
    if not name or not base_path:
        raise LoadError(f"{source}: every model needs a `name` and a `base_path`")
    if not Path(base_path).is_absolute():
        raise LoadError(
            f"{source}: the base_path of {name} must be absolute, got {base_path}: export with "
            "--config_base_path"
        )
    platform = config.model_platform
    if platform not in ("", "tensorflow"):
        raise LoadError(f"{source}: {name} is of platform {platform}, expected tensorflow")
    policy = config.model_version_policy
    logging = _logging(config, source)
    return ModelConfig(name, Path(base_path), _policy(policy), dict(config.version_labels), logging)


def _policy(proto: Any) -> VersionPolicy:
    choice = proto.WhichOneof("policy_choice")
    if choice == "all":
        return ALL_VERSIONS
    if choice == "specific":
        versions = frozenset(proto.specific.versions)
        return VersionPolicy(latest=None, specific=versions)
    count = proto.latest.num_versions if choice == "latest" else 1
    return VersionPolicy(latest=count or 1)


def _logging(config: Any, source: str) -> RequestLogging | None:
    proto = config.logging_config
    if not config.HasField("logging_config"):
        return None
    where = f"{source}: the logging_config of {config.name}"
    collector, rate = proto.log_collector_config, proto.sampling_config.sampling_rate
    if collector.type not in ("", _TFRECORD):
        raise LoadError(f"{where} is of type {collector.type}, expected {_TFRECORD}")
    if not Path(collector.filename_prefix).is_absolute():
        raise LoadError(
            f"{where} needs an absolute path, `log_collector_config {{ filename_prefix: ... }}`"
        )
    if not 0.0 < rate <= 1.0:
        raise LoadError(
            f"{where} needs a share above 0 and at most 1, `sampling_config {{ sampling_rate: ... "
            "}`"
        )
    return RequestLogging(Path(collector.filename_prefix), rate)


_TFRECORD = "tfrecord"
