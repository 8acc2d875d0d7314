"""Workers that share the copies of a step and exchange losses only.

All workers hold the model, the data and the same Keys. Worker r runs a contiguous share of the fixed list of chunks,
all gather the losses, and each redoes the same pull in the same order: the bits do not depend on the number of workers,
and the traffic is 4 bytes a loss, whatever the size of the model.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from onlyforward.core.checks import check_range
from onlyforward.core.errors import EngineError
from onlyforward.run.application import applications, resolve
from onlyforward.run.checkpoint import load_newest
from onlyforward.run.context import Common, Context
from onlyforward.run.folder import describe, restore_options

if TYPE_CHECKING:
    from torch import Tensor
    from torch._C._distributed_c10d import Store

    from onlyforward.run.checkpoint import Checkpoint

PATIENCE = timedelta(minutes=10)
"""A worker that is silent for so long is lost."""


class Workers:
    """This process's place among the workers; alone, everything is its own.

    Attributes:
        rank: 0 prints and writes.
        size: number of workers.
        exchanged: bytes of losses that all workers together have sent.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.exchanged = rank, size, 0

    def mine(self, chunks: int) -> range:
        """The chunks that this worker runs."""
        return range(self.rank * chunks // self.size, (self.rank + 1) * chunks // self.size)

    def gather(self, losses: Sequence[Tensor], copies: Sequence[int], like: Tensor) -> list[Tensor]:
        """The losses of all chunks in order, from this worker's own.

        Args:
            losses: this worker's chunks, [copies of the chunk, b] each.
            copies: of every chunk of all workers.
            like: [b], gives dtype and device.

        Raises:
            EngineError: a worker is lost.
        """
        if self.size == 1:
            return list(losses)
        import torch
        import torch.distributed as dist

        chunks = len(copies)
        shares = [range(r * chunks // self.size, (r + 1) * chunks // self.size) for r in range(self.size)]
        rows = [sum(copies[chunk] for chunk in share) for share in shares]
        # Gloo gathers equal sizes in host memory: an uneven share is padded, and the padding is counted as traffic.
        sent = torch.zeros((max(rows), *like.shape), dtype=like.dtype)
        if losses:
            sent[: rows[self.rank]] = torch.cat(list(losses)).cpu()
        received = [torch.empty_like(sent) for _ in shares]
        try:
            dist.all_gather(received, sent)
        except RuntimeError as error:
            raise EngineError(
                f"A worker is lost: {str(error).splitlines()[0]}", "Continue with onlyforward resume DIR"
            ) from error
        self.exchanged += self.size * sent.numel() * sent.element_size()
        return [
            chunk
            for part, share, count in zip(received, shares, rows)
            if count
            for chunk in torch.split(part[:count].to(like.device), [copies[k] for k in share])
        ]


class Follower(Context):
    """The context of a worker other than the first: it reads the run's checkpoint, prints and writes nothing."""

    def __init__(self, options: Common, *, application: str, command: str, folder: Path | None, binding: str) -> None:
        super().__init__(replace(options, out=None, json=False), application=application, command=command)
        self.leader = folder
        self.leader_binding = binding

    def say(self, text: str) -> None:
        """Silent."""

    def restore(self) -> Checkpoint | None:
        """What the first worker restores."""
        if self.leader is None:
            return None
        return load_newest(self.leader / "checkpoints", options=self.leader_binding, warn=lambda text: None)


@contextmanager
def group(options: Any, context: Context) -> Iterator[Workers]:
    """The workers of a run: joins the group that torchrun or the first worker made, or starts `options.workers`.

    Raises:
        UsageError: fewer than one worker.
        EngineError: the group cannot be made.
    """
    check_range(options.workers, name="--workers", low=1, high=64)
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        with joined(rank, size):
            yield Workers(rank, size)
        return
    if options.workers == 1:
        yield Workers()
        return
    port = free_port()
    children = [started(options, context, rank, port) for rank in range(1, options.workers)]
    try:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        with joined(0, options.workers, children):
            yield Workers(0, options.workers)
        for child in children:
            child.wait(timeout=60)
    finally:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()


@contextmanager
def joined(rank: int, size: int, children: Sequence[subprocess.Popen[str]] = ()) -> Iterator[None]:
    """A torch.distributed group (gloo) for the length of the block; `children`: the other workers, where started here.

    Raises:
        EngineError: the group cannot be made, or a child ended before it could join.
    """
    import torch.distributed as dist
    from torch._C._distributed_c10d import TCPStore

    try:
        store = None  # torchrun keeps a store of its own, and ends all workers when one is lost
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = TCPStore(*place, size, rank == 0, PATIENCE, wait_for_workers=False)
            store.set(f"here/{rank}", "")
            await_children(store, children)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EngineError(f"The {size} workers cannot be joined: {reason}", "Use --workers 1") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def await_children(store: Store, children: Sequence[subprocess.Popen[str]]) -> None:
    """Wait until every child has said in the store that it is there.

    Raises:
        EngineError: a child has ended: the others would wait for it as long as PATIENCE.
    """
    missing = dict(enumerate(children, 1))
    while missing:
        missing = {rank: child for rank, child in missing.items() if not store.check([f"here/{rank}"])}
        for rank, child in missing.items():
            if child.poll() is not None:
                raise EngineError(
                    f"Worker {rank} ended before it joined, exit code {child.returncode}", "Use --workers 1"
                )
        time.sleep(0.02)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(options: Any, context: Context, rank: int, port: int) -> subprocess.Popen[str]:
    """Start worker `rank`: the same command with the same options, told on its standard input."""
    told = {
        "command": context.command,
        "application": context.application,
        "options": describe(context.command, options)["options"],
        "folder": str(context.folder) if context.resuming and context.folder else None,
        "binding": context.binding,
    }
    places = {"RANK": rank, "WORLD_SIZE": options.workers, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    child = subprocess.Popen(
        [sys.executable, "-m", "onlyforward.run.workers"],
        env=environment | {name: str(value) for name, value in places.items()},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(told))
    child.stdin.close()
    return child


def leave_with(leader: int) -> None:
    """End this process when the one that started it is gone: a killed run leaves no orphans."""
    while os.getppid() == leader:
        time.sleep(0.5)
    os._exit(1)


def follow() -> None:
    """Run as one of the started workers."""
    import torch

    Thread(target=leave_with, args=(os.getppid(),), daemon=True).start()
    told = json.loads(sys.stdin.read())
    application = applications()[told["application"]]
    subcommand = told["command"].removeprefix(told["application"]).strip()
    options = restore_options(resolve(application.options[subcommand]), told["options"])
    torch.set_num_threads(options.threads)
    folder = Path(told["folder"]) if told["folder"] else None
    context = Follower(
        options, application=told["application"], command=told["command"], folder=folder, binding=told["binding"]
    )
    resolve(application.run)(context.options, context)


if __name__ == "__main__":
    follow()
