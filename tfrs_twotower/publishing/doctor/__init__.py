"""Finds what would go wrong with an export before a server loads it, and how to fix it.

Each check is a function that yields findings; `examine` runs those that suit what it is given.
"""

from collections.abc import Iterator
from pathlib import Path

from tfrs_twotower.publishing.doctor.environment import check_environment
from tfrs_twotower.publishing.doctor.findings import EXPORT_AGAIN, Finding
from tfrs_twotower.publishing.doctor.saved_model import EMBEDDED, STOCK, check_saved_model
from tfrs_twotower.publishing.doctor.version import (
    check_config_file,
    check_index,
    check_same_origin,
    check_swap,
    served_versions,
)
from tfrs_twotower.publishing.models_folder import (
    CONFIG_FILE,
    PUBLISHED_IN_ORDER,
    STOCK_CONFIG_FILE,
    folders_of,
    models_of,
    versions,
)
from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.models_layout import RETRIEVAL

__all__ = ["Finding", "examine"]


def examine(export: str | Path | None, target: str = EMBEDDED) -> list[Finding]:
    """Examines the environment and, where one is given, an export.

    Args:
        export: A models folder, or one version of one model in it; None: the environment alone.
        target: What shall serve it: "embedded", or a stock image such as
            `tensorflow/serving:2.20.0`.

    Raises:
        UsageError: If the target is neither.
        UserError: If there is nothing at the path.
    """
    if target != EMBEDDED and not STOCK.fullmatch(target):
        raise UsageError(
            f"target {target!r}: expected {EMBEDDED} or an image such as tensorflow/serving:2.20.0"
        )
    findings = list(check_environment())
    if target != EMBEDDED:
        findings.append(
            Finding(
                "ok",
                target,
                "needs flags, all in serving/compose.yaml: without --grpc_max_threads=200 it "
                "answers 4 gRPC requests a core at a time and refuses the others",
            )
        )
    if export is None:
        return findings
    path = Path(export)
    if not path.is_dir():
        raise UserError(f"no folder {path}: name a models folder, or a version of a model in it")
    if is_models_folder(path):
        return findings + list(_check_models(path, target))
    return findings + list(check_saved_model(path, target))


def is_models_folder(path: Path) -> bool:
    """Whether a folder is a models folder, not a version of a model."""
    return any((path / name).is_dir() for name in PUBLISHED_IN_ORDER)


def _check_models(models: Path, target: str) -> Iterator[Finding]:
    """The newest version, those that the server's config names, and the config itself."""
    present = {version for name in PUBLISHED_IN_ORDER for version in versions(models / name)}
    if not present:
        yield Finding("error", str(models), "it has no version", EXPORT_AGAIN)
        return
    config_path = models / (CONFIG_FILE if target == EMBEDDED else STOCK_CONFIG_FILE)
    for version in sorted({max(present)} | served_versions(config_path) & present):
        yield from _check_version(models, version, target)
    yield from check_config_file(config_path, models)


def _check_version(models: Path, version: int, target: str) -> Iterator[Finding]:
    """Every model of a version, and how they fit together."""
    missing = [n for n in folders_of(models, version) if not (models / n / str(version)).is_dir()]
    if missing:
        yield Finding(
            "error",
            f"version {version}",
            f"it has no {', '.join(missing)}: it was not copied whole",
            f"copy the folders {', '.join(missing)} as well, or {EXPORT_AGAIN}",
        )
    sound = True
    for name in models_of(models, version):
        if target != EMBEDDED and name == RETRIEVAL:
            reason = f"left out of {STOCK_CONFIG_FILE}: it needs ScaNN's operations"
            yield Finding("ok", f"{name}/{version}", reason)
        elif name not in missing:
            findings = list(check_saved_model(models / name / str(version), target))
            sound &= all(finding.level != "error" for finding in findings)
            yield from findings
    if missing or not sound:
        return
    for check in (check_same_origin, check_index, check_swap):
        yield from check(models, version)
