"""``python -m onnx_prune ARGUMENTS`` is ``onnx-prune ARGUMENTS``."""

from __future__ import annotations

import os
import subprocess
import sys

from ._errors import ProgramNotFoundError
from ._run import environment, find_program


def main() -> int:
    """Runs the program in place of this process, where the system can do that."""
    try:
        command = [str(find_program()), *sys.argv[1:]]
    except ProgramNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if os.name == "posix":
        os.execve(command[0], command, environment())
    return subprocess.run(command, env=environment()).returncode


if __name__ == "__main__":
    sys.exit(main())
