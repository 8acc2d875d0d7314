"""The error tree: every failure that a user can meet has one class, one exit code and one remedy."""

from __future__ import annotations

from typing import Any


class OnlyForwardError(Exception):
    """A failure with a remedy.

    Args:
        message: what is wrong and where, without a closing full stop.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = message.rstrip(". ")
        self.hint = hint.rstrip(". ")
        super().__init__(str(self))

    def __str__(self) -> str:
        """The message and the hint as one line of prose."""
        text = f"{self.message}. {self.hint}." if self.hint else f"{self.message}."
        return " ".join(text.split())


class UsageError(OnlyForwardError, ValueError):
    """An option, argument or configuration that cannot be carried out (exit 2)."""

    exit_code = 2


class FileError(OnlyForwardError):
    """A user's file is missing, broken, of another kind or unsafe (exit 2)."""

    exit_code = 2


class MissingExtra(OnlyForwardError, ImportError):
    """An optional dependency is not installed (exit 2); the hint is the pip command that mends it."""

    exit_code = 2

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"The package {module!r} is not installed", f'Run: pip install "onlyforward[{extra}]"')


class BudgetSpent(OnlyForwardError):
    """The budget of paid runs is used up (exit 3); `partial` holds what had been computed."""

    exit_code = 3

    def __init__(self, message: str, hint: str = "", *, partial: Any = None) -> None:
        super().__init__(message, hint)
        self.partial = partial


class Diverged(OnlyForwardError):
    """A signal, loss or gradient is not finite (exit 4)."""

    exit_code = 4

    def __init__(
        self, message: str, hint: str = "", *, site: str = "", step: int | None = None, checkpoint: str | None = None
    ) -> None:
        super().__init__(message, hint)
        self.site = site
        self.step = step
        self.checkpoint = checkpoint


class OracleUnreachable(OnlyForwardError):
    """The black box does not answer (exit 5)."""

    exit_code = 5


class CheckpointError(OnlyForwardError):
    """No checkpoint of a run can be used (exit 6)."""

    exit_code = 6


class EngineError(OnlyForwardError):
    """An execution engine failed to start or lost its workers (exit 1)."""
