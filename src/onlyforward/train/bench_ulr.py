"""`onlyforward bench ulr`: likelihood-ratio training beside backpropagation and the forward-only rivals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from onlyforward.data.sets import load
from onlyforward.run.benchmark import run_cases
from onlyforward.train import bench_adapt, bench_ulr_cut, bench_ulr_speed
from onlyforward.train.bench_gpu import gpu
from onlyforward.train.bench_ulr_cosine import cosine
from onlyforward.train.bench_ulr_text import text_cosine
from onlyforward.train.bench_workers import workers
from onlyforward.train.study import arm, compare

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


def run(options: BenchOptions, context: Context) -> Result:
    """Run the chosen cases."""
    torch.set_num_threads(options.threads)
    cases = {
        "cosine": cosine,
        "digits-mlp": digits_mlp,
        "digits-cnn": digits_cnn,
        "mnist-mlp": mnist_mlp,
        "lenet": lenet,
        "zero-one": zero_one,
        "bottleneck": bench_ulr_cut.bottleneck,
        "gcn": gcn,
        "lstm": lstm,
        "sst2": sst2,
        "text-cosine": text_cosine,
        "speed": bench_ulr_speed.speed,
        "workers": workers,
        "adapt": bench_adapt.adapt,
        "adapt-vit": bench_adapt.adapt_vit,
        "gpu": gpu,
    }
    result = run_cases(options, context, cases)
    done = [name for name in cases if any(m.startswith(name.replace("-", "_")) for m in result.metrics)]
    result.question = "How close does training by forward runs alone come to backpropagation, and what does it cost?"
    result.answer = f"Cases run: {', '.join(done)}; the tables show every arm, losses included."
    return result


def digits_mlp(options: BenchOptions, context: Context, result: Result) -> None:
    """64-64-64-10 on digits, 20 epochs."""
    arms = {
        "bp": arm("bp"),
        "lr4": arm("lr", copies=4),
        "lr16": arm("lr", copies=16),
        "lr64": arm("lr", copies=64),
        "gaussian64": arm("lr", copies=64, noise="gaussian", note="Gaussian noise instead of Hadamard rows"),
        "all64": arm("lr-all", copies=64, note="noise in all layers at once"),
        "nobaseline64": arm("lr", copies=64, baseline="none", pairing="single", note="no variance reduction"),
        "es64": arm("es", copies=64, note="mirrored pairs, the common learning rate"),
        "es64_own_rate": arm("es", copies=64, schedule={"lr": 5e-3}, note="mirrored pairs, a learning rate of its own"),
        "spsa64": arm("spsa", copies=64, schedule={"lr": 5e-3}, note="mirrored pairs"),
        "mezo64": arm("mezo", copies=64, schedule={"lr": 5e-3}, note="mirrored pairs in place"),
        "forward_gradient64": arm("forward-gradient", copies=64, note="64 Jacobian-vector products"),
        "torchzero64": arm("torchzero", copies=64, schedule={"lr": 5e-3}, note="peer: SPSA of torchzero"),
        "evotorch64": arm("evotorch", copies=64, schedule={"lr": 5e-3}, note="peer: PGPE distribution of evotorch"),
        "dfa": arm("dfa", note="direct feedback alignment"),
    }
    compare(options, context, result, "digits-mlp", "mlp", load("digits"), arms)


def digits_cnn(options: BenchOptions, context: Context, result: Result) -> None:
    """Two convolutions on digits."""
    arms = {"bp": arm("bp"), "lr64": arm("lr", copies=64), "es64": arm("es", copies=64, schedule={"lr": 5e-3})}
    found = compare(options, context, result, "digits-cnn", "cnn", load("digits"), arms)
    ratio = found["lr64"].step_ms / found["bp"].step_ms
    result.metric("digits_cnn_lr64_time_over_bp", ratio, timing=True)


def mnist_mlp(options: BenchOptions, context: Context, result: Result) -> None:
    """784-128-10 on MNIST: all 128 Hadamard directions, and 16 of them."""
    arms = {
        "bp": arm("bp"),
        "exact": arm("lr", copies=128, pairing="single", note="all 128 Hadamard rows"),
        "lr16": arm("lr", copies=16),
    }
    found = compare(options, context, result, "mnist-mlp", "mlp", load("mnist"), arms)
    result.metric("mnist_mlp_exact_gap", abs(found["exact"].mean - found["bp"].mean))


def lenet(options: BenchOptions, context: Context, result: Result) -> None:
    """LeNet on MNIST after one epoch, and after five in the full form."""
    arms = {"bp": arm("bp"), "lr32": arm("lr", copies=32)}
    if not options.quick:
        arms["lr32_5"] = arm("lr", copies=32, schedule={"epochs": 5}, note="five epochs")
    compare(options, context, result, "lenet", "lenet", load("mnist"), arms)


def zero_one(options: BenchOptions, context: Context, result: Result) -> None:
    """Training on the number of errors itself."""
    arms = {
        "lr128": arm("lr", loss="zero-one", note="each datum's losses in standard deviations over its copies"),
        "plain128": arm("lr", baseline="clean", loss="zero-one", note="losses as they are: whole classes are lost"),
        "es128": arm("es", copies=128, sigma=0.1, loss="zero-one", schedule={"lr": 1e-2}, note="mirrored pairs"),
    }
    compare(
        options,
        context,
        result,
        "zero-one",
        "mlp",
        load("digits"),
        arms,
        note="The loss is 0 or 1: backpropagation has no derivative to follow and cannot take part.",
    )


def gcn(options: BenchOptions, context: Context, result: Result) -> None:
    """Cora with and without credit by receptive field."""
    arms = {
        "bp": arm("bp"),
        "credit16": arm("lr", copies=16),
        "nocredit16": arm("lr", copies=16, credit="none", note="every node's noise is blamed for every loss"),
    }
    compare(options, context, result, "gcn", "gcn", load("cora"), arms)


def lstm(options: BenchOptions, context: Context, result: Result) -> None:
    """Digits as eight rows: no backpropagation through time."""
    arms = {
        "bp": arm("bp", note="backpropagation through time"),
        "exact": arm("lr", copies=128, noise="hadamard", pairing="single", note="one time step at a time, 128 copies"),
        "lr16": arm("lr", copies=16, noise="hadamard", note="one time step at a time"),
        "all64": arm("lr-all", copies=64, noise="gaussian", note="all time steps at once"),
    }
    compare(options, context, result, "lstm", "lstm", load("digits"), arms)


def sst2(options: BenchOptions, context: Context, result: Result) -> None:
    """Embedding, LSTM, mean over words; the epoch of every arm is chosen on the stored validation part."""
    note = "32 of 128 directions at each word in turn; the embedding by the cotangents of the steps that read it"
    arms = {"bp": arm("bp", note="backpropagation through time"), "lr": arm("lr", note=note)}
    compare(options, context, result, "sst2", "lstm", load("sst2"), arms)
