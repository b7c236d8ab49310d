"""Trains every kind of feature on two devices or as one worker of several; run as a script.

python distributed_training.py DATA RUN DISTRIBUTION [resume] [die_at_step]
"""

import os
import signal
import sys

from tests import every_kind
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.schema import Config, UserError, parse_config
from tfrs_twotower.training.train import train

# Dropout draws on each replica by itself: without it n replicas equal one.
NO_DROPOUT = every_kind.CONFIG_TEXT.replace(", dropout: 0.1}", "}").replace(", dropout: 0.2}", "}")
EPOCHS = 2


def config(distribution: str) -> Config:
    settings = [
        f"training.distribution={distribution}",
        f"training.epochs={EPOCHS}",
        "training.refit=true",
        "training.graph_smoothing=0.3",
        "loss={uniform_negatives: 6, implicit_negatives: 2, mined_negatives: 1, mine_every: 1}",
    ]
    return parse_config(NO_DROPOUT, "distributed", settings)


class DieAtStep(keras.callbacks.Callback):
    """As if the power had failed."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if self.model.optimizer.iterations.numpy() == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def main(data: str, run: str, distribution: str, *more: str) -> int:
    if distribution == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
    resume, die_at = "resume" in more, next((int(word) for word in more if word.isdigit()), -1)
    try:
        train(config(distribution), data, run, resume=resume, callbacks=[DieAtStep(die_at)])
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
