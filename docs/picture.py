"""Draws docs/images/answers.svg: the recommendations at the end of `twotower demo`.

    python docs/picture.py [WORKDIR]

of a demo that has run already: its steps are skipped, its models are served and asked.
"""

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parent / "images" / "answers.svg"


def main(workdir: str = "demo") -> None:
    """Writes the picture, of the demo in `workdir`."""
    command = [sys.executable, "-m", "tfrs_twotower.cli", "demo", "--workdir", workdir]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    answers = printed[printed.index("User ") : printed.index("Steps")].rstrip()
    width = max(map(len, answers.splitlines()))
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(Text(answers))
    drawn = console.export_svg(title="twotower demo")
    # Rich names fonts of a network; a picture in a page may not load them anyway.
    PICTURE.write_text(
        re.sub(r"@font-face \{.*?\}\n?", "", drawn, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
