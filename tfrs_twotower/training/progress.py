"""The progress of a training on stderr."""

import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tfrs_twotower.keras import keras


def show_hints(hints: Iterable[str]) -> None:
    """Prints what the data suggest to change."""
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    for hint in hints:
        console.print(f"warning: {hint}", soft_wrap=True)


class EpochProgress(keras.callbacks.Callback):
    """A bar for the steps of an epoch, and a lasting line for each finished one."""

    def __init__(self) -> None:
        """Writes to stderr."""
        super().__init__()
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("", loss=float("nan"))

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Shows the bar."""
        self._progress.start()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Removes the bar."""
        self._progress.stop()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Resets the bar."""
        self._started_s = time.monotonic()
        self._progress.reset(
            self._task,
            total=self.params["steps"],
            description=self._number(epoch),
            loss=float("nan"),
        )

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        """Moves the bar by a step."""
        self._progress.update(self._task, completed=batch + 1, loss=logs["loss"])

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Prints the loss and metrics of the epoch."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in logs.items() if _is_shown(name))
        seconds = time.monotonic() - self._started_s
        self._console.print(f"{self._number(epoch)}  {shown}  {seconds:.1f} s")

    def _number(self, epoch: int) -> str:
        # Set by `training.train`: a refit has epochs of its own.
        return f"{self.model.epoch_name} {epoch + 1}/{self.model.max_epochs}"


def _is_shown(name: str) -> bool:
    return name == "loss" or name.startswith("val_")
