"""Finds the program, runs it, and turns its exit code into an exception."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, TypeVar

from ._errors import GateError, Interrupted, OnnxPruneError, ProgramNotFoundError, UsageError

if TYPE_CHECKING:
    from ._reports import Report

_E = TypeVar("_E", bound=OnnxPruneError)
#: Names the program, over every other place.
VARIABLE = "ONNX_PRUNE_BIN"
_NAME = "onnx-prune.exe" if sys.platform == "win32" else "onnx-prune"
_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130
#: Seconds that an interrupted program has to finish what it is writing.
_GRACE = 10.0


def find_program() -> Path:
    """The program: what ``ONNX_PRUNE_BIN`` names, else that of this environment, else the first on ``PATH``."""
    named = os.environ.get(VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise ProgramNotFoundError(f"{VARIABLE}={named}: expected a program, found none there; correct it or unset it")
        return Path(found)
    folders = [sysconfig.get_path("scripts")]
    # Where `pip install --user` and `pip install --prefix` put programs; `--target` has them beside the package.
    user = sysconfig.get_preferred_scheme("user") if sys.version_info >= (3, 10) else f"{os.name}_user"
    if user in sysconfig.get_scheme_names():
        folders.append(sysconfig.get_path("scripts", user))
    folders.append(str(Path(__file__).resolve().parent.parent / "bin"))
    for folder in folders:
        found = shutil.which(_NAME, path=folder)
        if found is not None:
            return Path(found)
    found = shutil.which(_NAME)
    if found is None:
        raise ProgramNotFoundError(
            f"there is no {_NAME} in {', '.join(folders)} or on PATH; pip install onnx-prune brings it, and {VARIABLE} can name it"
        )
    return Path(found)


def environment() -> dict[str, str]:
    """The environment of the program: with this Python's, where none is active, so that its ONNX Runtime is found from wherever
    the program lies; and with its CUDA libraries on the library path (Linux), where ONNX Runtime for graphics cards looks."""
    variables = dict(os.environ)
    if not variables.get("CONDA_PREFIX"):
        variables.setdefault("VIRTUAL_ENV", sys.prefix)
    if sys.platform.startswith("linux"):
        packages = Path(sysconfig.get_path("purelib")) / "nvidia"
        folders = sorted({str(library.parent) for library in packages.glob("**/lib/lib*.so*")})
        if folders:
            old = variables.get("LD_LIBRARY_PATH")
            variables["LD_LIBRARY_PATH"] = os.pathsep.join(([old] if old else []) + folders)
    return variables


def _wait(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    try:
        return process.communicate()
    except BaseException:
        # Ctrl-C in a terminal reaches the program too. A first signal has it finish what it is writing, a second one does not.
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        raise


def run(arguments: Sequence[str]) -> Result:
    """Runs the program to its end, whatever the exit code. Interrupting it raises what interrupted."""
    command = [str(find_program()), *arguments]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )
    except OSError as error:
        raise ProgramNotFoundError(f"{command[0]} does not run: {error}", command=command) from error
    with process:
        stdout, stderr = _wait(process)
    if process.returncode == _INTERRUPTED:
        raise Interrupted(f"{command[0]} was interrupted")
    return Result(command, process.returncode, stdout, stderr)


class Result:
    """What the program said, and how it ended."""

    def __init__(self, command: Sequence[str], returncode: int, stdout: bytes, stderr: bytes) -> None:
        self.command = tuple(command)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr.decode("utf-8", "replace")

    def data(self) -> Optional[dict[str, Any]]:
        """The JSON document that it printed; ``None`` where it printed none."""
        text = self.stdout.strip()
        if not text:
            return None
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
        shown = text[:200].decode("utf-8", "replace")
        raise self._error(OnnxPruneError, f"{self.command[0]}: expected a JSON object, found {shown!r}; is it another version?")

    def lines(self, prefix: str) -> list[str]:
        """Lines of the standard error with the prefix, without it."""
        lines = self.stderr.splitlines()
        return [line[len(prefix) :].strip() for line in lines if line.startswith(prefix)]

    def error(self, report: Optional[Report] = None) -> Optional[OnnxPruneError]:
        """The exception that the exit code stands for."""
        if self.returncode == 0:
            return None
        if self.returncode == _FAILED:
            # Lines that name a limit say more than the count that follows them.
            said = self.lines("limit:") or self.lines("error:")
            failed = self._error(GateError, "\n".join(said) or self.stderr.strip() or "a check has failed")
            failed.report = report
            return failed
        if self.returncode == _USAGE:
            # Advice stands below the error; how the command line is written is of no use here.
            said_all = re.split(r"\n(?:Usage:|For more information)", self.stderr)[0].strip()
            return self._error(UsageError, said_all.split("error: ", 1)[-1])
        ended = f"signal {-self.returncode}" if self.returncode < 0 else f"exit code {self.returncode}"
        return self._error(OnnxPruneError, f"{self.command[0]} ended with {ended}: {self.stderr.strip()}")

    def missing(self) -> OnnxPruneError:
        """The exception for a program that ended well and printed nothing."""
        return self._error(OnnxPruneError, f"{self.command[0]}: expected JSON on its standard output, found nothing")

    def _error(self, kind: type[_E], message: str) -> _E:
        return kind(message, command=self.command, returncode=self.returncode, stderr=self.stderr)
