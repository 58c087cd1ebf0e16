"""What can go wrong, by the program's exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Sequence

if TYPE_CHECKING:
    from ._reports import Report


class OnnxPruneError(RuntimeError):
    """The program did not do what it was asked to.

    ``str(error)`` is what it said, without the word ``error:``.
    """

    def __init__(
        self, message: str, *, command: Sequence[str] = (), returncode: Optional[int] = None, stderr: str = ""
    ) -> None:
        super().__init__(message)
        #: The command as it was run, temporary files included.
        self.command: tuple[str, ...] = tuple(command)
        #: The exit code; negative for the signal that ended the program, ``None`` where it never ran.
        self.returncode = returncode
        #: All that the program wrote to its standard error.
        self.stderr = stderr


class ProgramNotFoundError(OnnxPruneError):
    """There is no program ``onnx-prune`` to run."""


class UsageError(OnnxPruneError, ValueError):
    """Bad input or usage (exit code 2): a file that is no model, an option that does not fit. Nothing was written."""


class GateError(OnnxPruneError):
    """A limit that was set, or a check of the program's own, does not hold (exit code 1). No pruned model was written."""

    #: The report with all that was measured, where the program got as far as making one.
    report: Optional[Report] = None

    @property
    def broken(self) -> tuple[str, ...]:
        """One line for each limit that is broken."""
        return tuple(str(self).splitlines())


class Interrupted(KeyboardInterrupt):
    """The program was interrupted (exit code 130) and has left nothing half-written."""
