"""The progress of a training on stderr, or in a notebook."""

import time
from collections.abc import Iterable

from rich.console import Console

from tfrs_twotower.keras import keras
from tfrs_twotower.schema.status_line import StatusLine

BAR_WIDTH = 30


def show_hints(hints: Iterable[str]) -> None:
    """Prints what the data suggest to change."""
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    for hint in hints:
        console.print(f"warning: {hint}", soft_wrap=True)


class EpochProgress(keras.callbacks.Callback):
    """Shows the steps of an epoch, and a lasting line for each finished one."""

    def __init__(self, line: StatusLine) -> None:
        """Shows them on a line."""
        super().__init__()
        self._line = line

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Begins a new bar."""
        self._started_s = time.monotonic()
        self._shown = self._number(epoch)
        self._line.update(self._shown)

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        """Moves the bar by a step."""
        done, num_steps = batch + 1, self.params["steps"]
        left_s = (time.monotonic() - self._started_s) / done * (num_steps - done)
        bar = "━" * (BAR_WIDTH * done // num_steps)
        self._line.update(
            f"{self._shown}  {bar:─<{BAR_WIDTH}}  {done}/{num_steps}  loss {logs['loss']:.4f}  "
            f"{left_s:.0f} s left",
            now=False,
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Prints the loss and metrics of the epoch."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in logs.items() if _is_shown(name))
        seconds = time.monotonic() - self._started_s
        self._line.keep(f"{self._shown}  {shown}  {seconds:.1f} s")

    def _number(self, epoch: int) -> str:
        # Set by `training.train`: a refit has epochs of its own.
        return f"{self.model.epoch_name} {epoch + 1}/{self.model.max_epochs}"


def _is_shown(name: str) -> bool:
    return name == "loss" or name.startswith("val_")
