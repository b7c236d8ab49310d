"""What clusters do to a bundle, in Beam's in-process runner: two attempts at once, and retries."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.runners.portability.fn_api_runner.fn_runner import BundleManager

# Every attempt is a worker of its own, and a spare one may outlive its bundle.
BEAM_ARGS = ("--direct_num_workers=4", "--direct_running_mode=multi_threading")
ATTEMPTS = 4  # What Dataflow allows a bundle.


@contextmanager
def bundles(*, twice: bool, retried: bool, seed: int = 0) -> Iterator[list[str]]:
    """Patches the runner for the length of the block.

    Args:
        twice: Whether every bundle is attempted twice at once, as with speculative execution. What
            the spare attempt gives is discarded; half of them, by chance, are not waited for.
        retried: Whether a bundle that fails is attempted again, up to `ATTEMPTS` times.
        seed: Of the chance.

    Yields:
        What happened: "begun" and "ended" of each bundle, between them "spare", "spare failed",
        "retried".
    """
    one_attempt = BundleManager.process_bundle
    chance = random.Random(seed)
    happened: list[str] = []
    spares: list[threading.Thread] = []

    def spare(manager, held, arguments):
        other = BundleManager(
            manager.bundle_context_manager,
            manager._progress_frequency,
            cache_token_generator=manager._cache_token_generator,
        )
        try:
            one_attempt(other, held, *arguments, True)
            happened.append("spare")
        except Exception:
            happened.append("spare failed")

    def process_bundle(self, inputs, outputs, timers, output_timers, dry_run=False):
        happened.append("begun")
        held = {name: list(buffer) for name, buffer in inputs.items()}
        arguments = (outputs, timers, output_timers)
        if twice:
            thread = threading.Thread(target=spare, args=(self, held, arguments), daemon=True)
            thread.start()
            spares.append(thread)
            if chance.random() < 0.25:
                # The spare one may have ended before.
                thread.join()
        for attempt in range(ATTEMPTS):
            try:
                result = one_attempt(self, held, *arguments, dry_run)
                break
            except Exception:
                if not retried or attempt == ATTEMPTS - 1:
                    raise
                happened.append("retried")
        if twice and chance.random() < 0.5:
            thread.join()
        happened.append("ended")
        return result

    BundleManager.process_bundle = process_bundle
    try:
        yield happened
    finally:
        BundleManager.process_bundle = one_attempt
        for thread in spares:
            thread.join(timeout=60)
