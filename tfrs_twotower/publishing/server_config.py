"""The server's configs of a models folder: which versions it serves, under which labels.

Without labels a server serves the newest version. With them it serves those that have one, and
the newest of them is what a request without a label gets. `retrieval` is left out where none of
these versions has it: an older one must not go on answering. A stock server loads
`retrieval_stock`, and `retrieval_exact` only where a version that it serves lacks that.
`similarity` is served where these versions have it. Labels are
those that TF Serving understands: `stable` for everybody, `canary` for the share of the traffic
that tries a version.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2
from tensorflow_serving.config.logging_config_pb2 import LoggingConfig

from tfrs_twotower.publishing.models_folder import CONFIG_FILE, MODELS, STOCK_CONFIG_FILE, versions
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.models_layout import (
    RETRIEVAL,
    RETRIEVAL_EXACT,
    RETRIEVAL_STOCK,
    SIMILARITY,
)

PLATFORM = "tensorflow"
STABLE, CANARY = "stable", "canary"


def render(
    base_path: str,
    served: Mapping[str, Mapping[str, int]],
    kept: Mapping[str, Collection[int]] = MappingProxyType({}),
    logging: Mapping[str, LoggingConfig] = MappingProxyType({}),
) -> str:
    """TF Serving's `models.config`, a `ModelServerConfig` in text format.

    Args:
        base_path: The models folder as the server sees it.
        served: The labels of each model to serve, version by label; empty: serve the newest.
        kept: Versions of a model to serve beside those that have a label.
        logging: Which answers of a model are kept.
    """
    proto = model_server_config_pb2.ModelServerConfig()
    for name, labels in served.items():
        config = proto.model_config_list.config.add()
        config.name = name
        config.base_path = f"{base_path.rstrip('/')}/{name}"
        config.model_platform = PLATFORM
        numbers = sorted({*labels.values(), *kept.get(name, ())})
        if numbers:
            config.model_version_policy.specific.versions.extend(numbers)
        for label, version in sorted(labels.items()):
            config.version_labels[label] = version
        if name in logging:
            config.logging_config.CopyFrom(logging[name])
    return text_format.MessageToString(proto)


def write(
    models: Path,
    labels: Mapping[str, int],
    base_path: str | None = None,
    *,
    kept: Collection[int] = (),
) -> None:
    """Writes both configs, each whole or not at all; a `logging_config` that is there stays.

    Args:
        models: The models folder.
        labels: Version by label; empty: the newest is served.
        base_path: Where the server sees the folder; default: by the present configs, and where
            there are none, where it is.
        kept: Versions to serve beside those that have a label.
    """
    base_path = base_path or _written_base_path(models) or str(models.resolve())
    not_everywhere = (RETRIEVAL, RETRIEVAL_STOCK, SIMILARITY)
    everywhere = {name: labels for name in MODELS if name not in not_everywhere}
    everywhere = _with(models, SIMILARITY, everywhere, labels)
    served = _with(models, RETRIEVAL, everywhere, labels)
    stock = _with(models, RETRIEVAL_STOCK, everywhere, labels)
    if stock.get(RETRIEVAL_STOCK) == labels and {*kept} <= {*versions(models / RETRIEVAL_STOCK)}:
        del stock[RETRIEVAL_EXACT]
    beside_labels = {name: sorted({*kept} & {*versions(models / name)}) for name in MODELS}
    for file_name, rendered in ((STOCK_CONFIG_FILE, stock), (CONFIG_FILE, served)):
        beside = models / f"{file_name}.tmp"
        logging = {
            config.name: config.logging_config
            for config in _read(models, file_name)
            if config.HasField("logging_config")
        }
        text = render(base_path, rendered, beside_labels, logging)
        beside.write_text(text, encoding="utf-8")
        beside.replace(models / file_name)


def read_labels(models: Path) -> dict[str, int]:
    """Version by label, by the config; empty without one.

    Raises:
        UserError: If the config is damaged.
    """
    return {
        label: version
        for config in _read(models)
        for label, version in config.version_labels.items()
    }


def served_versions(models: Path) -> dict[str, list[int]]:
    """By model of either config, the versions that it names.

    Raises:
        UserError: If a config is damaged.
    """
    configs = [*_read(models, STOCK_CONFIG_FILE), *_read(models)]
    return {config.name: list(config.model_version_policy.specific.versions) for config in configs}


def labels_by_model(models: Path) -> dict[str, dict[str, int]]:
    """By model of either config, its version by label.

    Raises:
        UserError: If a config is damaged.
    """
    configs = [*_read(models, STOCK_CONFIG_FILE), *_read(models)]
    return {config.name: dict(config.version_labels) for config in configs}


def _with(
    models: Path, name: str, others: Mapping[str, Mapping[str, int]], labels: Mapping[str, int]
) -> dict[str, Mapping[str, int]]:
    """What is served, with a model that not every version has."""
    of_model = _labels_of(models, name, labels)
    return dict(others) if of_model is None else {**others, name: of_model}


def _labels_of(models: Path, name: str, labels: Mapping[str, int]) -> dict[str, int] | None:
    """The labels of the versions that have a model; None where it is not to be served."""
    having = versions(models / name)
    if labels:
        return {label: number for label, number in labels.items() if number in having} or None
    newest = versions(models / RETRIEVAL_EXACT)[-1:]
    return {} if newest and newest[0] in having else None


def _written_base_path(models: Path) -> str | None:
    paths = [config.base_path for config in _read(models) if config.name == RETRIEVAL_EXACT]
    return paths[0].removesuffix(f"/{RETRIEVAL_EXACT}") if paths else None


def _read(models: Path, file_name: str = CONFIG_FILE) -> list[model_server_config_pb2.ModelConfig]:
    path = models / file_name
    if not path.exists():
        return []
    proto = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), proto)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it, and `twotower promote` writes it anew"
        ) from error
    return list(proto.model_config_list.config)
