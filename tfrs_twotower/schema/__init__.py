"""The contract every package may import: config, names, folder layouts, errors. No TensorFlow."""

from tfrs_twotower.schema.config import Config
from tfrs_twotower.schema.errors import Parameter, TrainingDiverged, UsageError, UserError
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
