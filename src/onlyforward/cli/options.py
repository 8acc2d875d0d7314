"""tyro over option dataclasses, with errors turned into one sentence."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TypeVar

from onlyforward.core.errors import UsageError

Options = TypeVar("Options")


def parse(options: type[Options], arguments: Sequence[str], *, prog: str) -> Options:
    """Parse a command's arguments into its options dataclass.

    Raises:
        UsageError: with tyro's own finding as one line.
        SystemExit: after `--help` was printed.
    """
    import tyro

    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(options, args=list(arguments), prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(finding(stderr.getvalue()), f"See {prog} --help") from None


def finding(text: str) -> str:
    """Tyro's message without its frame, title and hints: the lines up to the second rule, on one line."""
    lines = [line.strip(" │╭╮╰╯|") for line in text.splitlines()]
    body: list[str] = []
    rules = 0
    for line in lines:
        if line and set(line) <= set("-─"):
            rules += 1
            if rules == 2:
                break
        elif line and rules == 1:
            body.append(line)
    message = " ".join(body) or " ".join(" ".join(lines).split())
    near = [line.strip() for line in lines if line.strip().startswith("--")]
    return f"{message} (nearest: {', '.join(near[:3])})" if near and "nrecognized" in message else message
