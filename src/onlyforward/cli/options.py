"""tyro over option dataclasses, with errors turned into one sentence."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import TypeVar

from onlyforward.core.errors import UsageError
from onlyforward.run.bounds import check_options

Options = TypeVar("Options")


def parse(options: type[Options], arguments: Sequence[str], *, prog: str) -> Options:
    """Parse a command's arguments into its options dataclass.

    Raises:
        UsageError: with tyro's own finding as one line; a number outside of its bounds.
        SystemExit: after `--help` was printed.
    """
    import tyro

    from onlyforward.cli.settings import with_config

    words = with_config(options, list(arguments))
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            found = tyro.cli(options, args=words, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(finding(stderr.getvalue()), f"See {prog} --help") from None
    check_options(found)
    return found


HINTS = ("Perhaps you meant", "For full helptext", "To see", "Full helptext")
"""How tyro's closing sections begin; the message stands before them."""
HELP = "Argument helptext:"


def finding(text: str) -> str:
    """Tyro's message as one sentence, without its frame, its title and its closing hints; nearest options are kept."""
    # The frame is one character and a space wide; its top holds the title.
    lines = [line.strip("│╰╯|")[1:].rstrip() for line in text.splitlines() if not line.startswith("╭")]
    sections: list[list[str]] = [[]]
    for line in lines:
        if line and set(line) <= set(" -─"):
            sections.append([])
        elif line.strip():
            sections[-1].append(line)
    helped = [line.strip() for section in sections if section and section[0].startswith(HELP) for line in section[1:]]
    said = [section for section in sections if section and not section[0].startswith((*HINTS, HELP))]
    near = [line.split()[0] for section in sections for line in section if line.strip().startswith("--")]
    if not said:
        return " ".join(text.split())
    message = " ".join(line.strip() for line in said[-1])
    if message.startswith("Missing from"):
        # Options stand four spaces in, their descriptions eight.
        return "Missing: " + ", ".join(line.strip() for line in said[-1] if re.match(" {4}\\S", line))
    if message.startswith("Missing value"):
        return message.split("'")[1] + " needs a value"
    if message.startswith("Error parsing"):
        return misread(message, helped)
    return f"{message} (nearest: {', '.join(near[:3])})" if near and "nrecognized" in message else message


def misread(message: str, helped: Sequence[str]) -> str:
    """What an option takes and what it got instead: "--epochs takes INT, not two"."""
    name = message.split()[2].rstrip(":")
    kind = next((line[len(name) :].strip() for line in helped if line.startswith(f"{name} ")), "")
    given = re.search(r"\[('.*?')\]|: ('[^']*')$", message)
    if not kind or given is None:
        return message
    kind = re.sub(r"\{None\}\||[{}]", "", kind)
    words = (given[1] or given[2]).replace("'", "").replace(",", "")
    return f"{name} takes {kind}, not {words}"
