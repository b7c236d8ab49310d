"""The contract every package may import: config, names, folder layouts, errors. No TensorFlow.

What needs pydantic is imported when it is first used: a client of a server raises these errors, and
reads no config.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tfrs_twotower.schema.errors import Parameter, TrainingDiverged, UsageError, UserError

if TYPE_CHECKING:
    from tfrs_twotower.schema.config import Config
    from tfrs_twotower.schema.loading import dump_config, load_config, parse_config
    from tfrs_twotower.schema.record_schema import differences, fingerprint
    from tfrs_twotower.schema.split import SPLITS

__all__ = [
    "SPLITS",
    "Config",
    "Parameter",
    "TrainingDiverged",
    "UsageError",
    "UserError",
    "differences",
    "dump_config",
    "fingerprint",
    "load_config",
    "parse_config",
]

_LATER = {
    "SPLITS": "split",
    "Config": "config",
    "differences": "record_schema",
    "dump_config": "loading",
    "fingerprint": "record_schema",
    "load_config": "loading",
    "parse_config": "loading",
}


def __getattr__(name: str) -> Any:
    """A name of a module that is imported only now."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
