"""A run's folder: who owns it, what was asked, and the lock that keeps two processes apart."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import types
import typing
from hashlib import sha256
from pathlib import Path
from typing import Any

from onlyforward.core.errors import CheckpointError, UsageError
from onlyforward.run.checkpoint import write_atomically
from onlyforward.run.result import plain, versions

OUTSIDE = ("out", "json", "verbose", "traceback", "checkpoint_seconds", "threads", "config", "track", "workers")
"""Options that change no result: left out of the digest that binds checkpoints to a run."""


class RunFolder:
    """The folder of one run, locked while this process works in it.

    Args:
        path: the folder; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(
                f"--out {path} cannot be used: {error.strerror}", "Choose a folder that can be written"
            ) from error
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.lock)
            raise UsageError(f"Another process is running in {path}", "Wait for it or choose another --out") from error

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    def begin(self, command: str, options: Any) -> str:
        """Claim the folder for a fresh run; returns the options' digest."""
        description = describe(command, options)
        digest = options_digest(description)
        if (self.path / "run.json").exists():
            there = read_description(self.path)
            same = options_digest(there) == digest
            raise UsageError(
                f"--out {self.path} already holds a run of {there['command']!r}"
                + (" with the same options" if same else ""),
                f"Use onlyforward resume {self.path}" if same else "Choose another folder",
            )
        write_atomically(self.path / "run.json", (json.dumps(description, indent=1) + "\n").encode())
        return digest

    def close(self) -> None:
        """Let the lock go."""
        os.close(self.lock)


def describe(command: str, options: Any) -> dict[str, Any]:
    """What `run.json` holds: command, options, versions, digests of input files."""
    values = plain(dataclasses.asdict(options))
    return {"command": command, "options": values, "versions": versions(), "inputs": input_digests(options)}


def input_digests(options: Any) -> dict[str, str]:
    """SHA-256 of every file that the options name (files up to 1 GB)."""
    found = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Path) and field.name != "out" and item.is_file() and item.stat().st_size < 2**30:
                with item.open("rb") as file:
                    found[str(item)] = digest_of(file)
    return found


def digest_of(file: typing.BinaryIO) -> str:
    """SHA-256 of an open file."""
    total = sha256()
    while block := file.read(1 << 20):
        total.update(block)
    return total.hexdigest()


def options_digest(description: dict[str, Any]) -> str:
    """Digest of the command and of the options that change a result."""
    options = {name: value for name, value in description["options"].items() if name not in OUTSIDE}
    bound = {"command": description["command"], "options": options, "inputs": description["inputs"]}
    return sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def read_description(path: Path) -> dict[str, Any]:
    """`run.json` of a folder.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    try:
        found = json.loads((path / "run.json").read_text(encoding="utf-8"))
        if isinstance(found["command"], str) and isinstance(found["options"], dict):
            return dict(found)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise CheckpointError(f"{path} holds no run that can be resumed", "Give the --out folder of an interrupted run")


def restore_options(kind: type[Any], values: dict[str, Any]) -> Any:
    """An options dataclass from the JSON of `describe`."""
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: convert(value, hints[name]) for name, value in values.items() if name in known})


def convert(value: Any, hint: Any) -> Any:
    """A JSON value as its annotation wants it: paths, tuples and optional values."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        choices = [item for item in typing.get_args(hint) if item is not type(None)]
        return None if value is None else convert(value, choices[0])
    if origin is typing.Annotated:
        return convert(value, typing.get_args(hint)[0])
    if origin is tuple and isinstance(value, list):
        inner = typing.get_args(hint)
        return tuple(
            convert(item, inner[0] if len(inner) < 3 or inner[1] is ... else inner[i]) for i, item in enumerate(value)
        )
    return Path(value) if hint is Path and isinstance(value, str) else value
