"""What one thread of a worker has freed serves the next one."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.allocation import VARIABLE

ROOT = Path(__file__).parents[2]
# Twelve threads take 50 MB each, one after the other, and free it but for a last
# kilobyte; what the process holds more in the end, in MB.
SCRIPT = """
import threading
from pathlib import Path
{first}

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

def work():
    with one_at_a_time:
        blocks = [b"." * 100_000 for _ in range(500)]
        kept.append(b"." * 1_000)
        blocks.clear()
    end.wait()

kept, one_at_a_time, end = [], threading.Lock(), threading.Barrier(13)
before = held()
for _ in range(12):
    threading.Thread(target=work).start()
while len(kept) < 12:
    pass
with one_at_a_time:
    print(held() - before)
end.wait()
"""


def held_for(first):
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(first=first)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has heaps for threads")
def test_what_a_thread_has_freed_serves_the_next_one():
    shared = held_for("from pipelines.allocation import share_a_heap; share_a_heap()")

    assert shared < held_for("") / 2
