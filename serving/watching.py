"""Keeps a server in line with its folders and its config file."""

import logging
import threading
from collections.abc import Callable, Sequence

from serving.model_config import ModelConfig
from serving.servables import Servables
from tfrs_twotower.schema import UserError

_LOG = logging.getLogger(__name__)


class Watcher:
    """Looks for new versions from time to time, in a thread of its own."""

    def __init__(
        self,
        servables: Servables,
        poll_s: float,
        read_models: Callable[[], Sequence[ModelConfig]] | None = None,
    ) -> None:
        """Does nothing yet.

        Args:
            servables: What to keep in line.
            poll_s: Time between two looks.
            read_models: Reads the config anew at each look; None: the config stays as it is. While
                it raises UserError, the config stays as it was.
        """
        self._servables = servables
        self._poll_s = poll_s
        self._read_models = read_models
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Starts looking."""
        self._thread.start()

    def stop(self) -> None:
        """Looks no more; a load under way goes on, see `join`."""
        self._stopped.set()

    def join(self, timeout_s: float) -> bool:
        """Waits until a look that is under way has ended; whether it has."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.wait(self._poll_s):
            try:
                self._servables.sync(self._read_models() if self._read_models else None)
            except UserError as error:
                _LOG.error("%s", error)
            except Exception:
                _LOG.exception("could not look for new versions")
