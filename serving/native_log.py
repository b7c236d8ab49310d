"""The log of TensorFlow's C++ code, which knows nothing of Python's."""

import ctypes
from pathlib import Path

import tensorflow as tf

_LIBRARY = "libtensorflow_framework.so.2"
# absl::SetMinLogLevel(absl::LogSeverityAtLeast), as TensorFlow 2.20 exports it.
_SET_MIN_LOG_LEVEL = "_ZN4absl12lts_2025012714SetMinLogLevelENS0_18LogSeverityAtLeastE"
_ERROR = 2


def keep_errors_only() -> None:
    """Silences notes and warnings on the loading of a graph, which TF_CPP_MIN_LOG_LEVEL does not.

    They go to standard error, in a format of their own, with every model that is loaded. Where
    TensorFlow does not offer the function that silences them, they stay.
    """
    path = Path(tf.sysconfig.get_lib(), _LIBRARY)
    if path.exists():
        set_min_log_level = getattr(ctypes.CDLL(str(path)), _SET_MIN_LOG_LEVEL, None)
        if set_min_log_level is not None:
            set_min_log_level(_ERROR)
