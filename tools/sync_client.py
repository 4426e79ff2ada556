"""Makes the client for ordinary code from the one for asyncio: `make client`.

`unasync` takes `async` and `await` away and puts a name in place of another, here those that the
client uses beside the ones it knows; `ruff` then sorts and formats as everywhere. A docstring is
left as it is, so in the source it says what is true of both.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import unasync

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "service" / "client" / "aio.py"
TARGET = ROOT / "service" / "client" / "sync.py"

HEADER = "# Made from aio.py by `make client`: change that file, not this one.\n"

NAMES = {
    "AsyncBaseTransport": "BaseTransport",
    "AsyncClient": "Client",
    "AsyncExitStack": "ExitStack",
    "AsyncGenerationStream": "GenerationStream",
    "aclose": "close",
    "aiter_sse": "iter_sse",
    "aread": "read",
    "asyncio": "time",
    "enter_async_context": "enter_context",
    # a string token without its outer quotes: the first line of the module
    '""The client for asyncio, from which the one for ordinary code is made: `make client`.""': (
        '""The client for ordinary code.""'
    ),
}
"""What stands in the source, and what takes its place."""


def made() -> str:
    """What the target is to contain.

    Raises:
        CalledProcessError: what came out is not Python.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / TARGET.name
        unasync.unasync_files(
            [str(SOURCE)], [unasync.Rule(str(SOURCE), str(path), additional_replacements=NAMES)]
        )
        code = HEADER + path.read_text(encoding="utf-8")
    for command in (["check", "--fix", "--quiet"], ["format", "--quiet"]):
        code = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET), "-"],
            input=code,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
    return code


if __name__ == "__main__":
    TARGET.write_text(made(), encoding="utf-8")
