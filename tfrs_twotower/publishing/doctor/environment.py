"""What this process runs on: packages, CPU, Keras."""

import importlib
import importlib.metadata
import platform
from collections.abc import Iterator
from pathlib import Path

from tfrs_twotower.publishing.doctor.findings import Finding
from tfrs_twotower.publishing.models_folder import STOCK_CONFIG_FILE
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.models_layout import RETRIEVAL_EXACT

# One matched set: ScaNN's ops are built for one minor version of TensorFlow.
MATCHED = {
    "tensorflow": "2.20",
    "tf-keras": "2.20",
    "tensorflow-serving-api": "2.20",
    "tensorflow-recommenders": "0.7",
    "scann": "1.4.2",
}
CPU_FLAGS = ("avx2", "fma")
CPUINFO = Path("/proc/cpuinfo")


def check_environment() -> Iterator[Finding]:
    """Versions that belong together, the CPU, the Keras of this process."""
    wrong = []
    for package, wanted in MATCHED.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if not f"{found}.".startswith(f"{wanted}."):
            wrong.append(f"{package} {found}, expected {wanted}")
    if wrong:
        cure = "pip install -c constraints.txt -e '.[all]' in the clone"
        yield Finding("error", "packages", "; ".join(wrong), cure)
    else:
        yield Finding("ok", "packages", ", ".join(f"{p} {v}" for p, v in MATCHED.items()))
    yield _check_cpu()
    try:
        importlib.import_module("tfrs_twotower.keras")
    except UserError as error:
        yield Finding("error", "Keras", str(error), "begin in a process without Keras 3")
    else:
        yield Finding("ok", "Keras", "Keras 2, as TensorFlow Recommenders needs it")


def _check_cpu() -> Finding:
    if platform.machine() not in ("x86_64", "AMD64"):
        return Finding("ok", "CPU", platform.machine())
    try:
        line = next(s for s in CPUINFO.read_text("utf-8").splitlines() if s.startswith("flags"))
    except (OSError, StopIteration):
        return Finding("warning", "CPU", "its flags cannot be read")
    missing = [flag for flag in CPU_FLAGS if flag not in line.split()]
    if missing:
        return Finding(
            "error",
            "CPU",
            f"it lacks {', '.join(missing)}, which ScaNN's operations are built with",
            f"serve {RETRIEVAL_EXACT} ({STOCK_CONFIG_FILE}), or another machine",
        )
    return Finding("ok", "CPU", " ".join(CPU_FLAGS))
