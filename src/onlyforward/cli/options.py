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

    from onlyforward.cli.settings import with_config

    words = with_config(options, list(arguments))
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(options, args=words, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(finding(stderr.getvalue()), f"See {prog} --help") from None


HINTS = ("Perhaps you meant", "For full helptext", "Argument helptext", "To see", "Full helptext")
"""How tyro's closing sections begin; the message stands before them."""


def finding(text: str) -> str:
    """Tyro's message on one line, without its frame, its title and its closing hints; nearest options are kept."""
    sections: list[list[str]] = [[]]
    near = []
    for raw in text.splitlines():
        line = raw.strip(" │╭╮╰╯|")
        if not line:
            continue
        if set(line) <= set("-─"):
            sections.append([])
        elif "─" not in line:
            sections[-1].append(line)
            if line.startswith("--"):
                near.append(line.split()[0])
    messages = [" ".join(section) for section in sections if section and not section[0].startswith(HINTS)]
    message = messages[-1] if messages else " ".join(text.split())
    return f"{message} (nearest: {', '.join(near[:3])})" if near and "nrecognized" in message else message
