"""The benchmark's laws in short form, and that its brute force sees a wrong measure."""

import pytest
import torch

from onlyforward.prune import bench_laws, enumeration
from onlyforward.prune.bench_models import MODELS, examine


def test_every_path_of_eight_kinds_of_networks_is_in_the_measure():
    errors = bench_laws.enumerate_paths(16)
    assert max(errors["flow"], errors["shares"]) < 1e-10
    assert errors["live"] == errors["best"] == 0


@pytest.mark.parametrize("name", list(bench_laws.laws(1)))
def test_the_law_holds(name):
    good, figure = bench_laws.laws(4)[name]()
    assert good, figure


def test_baum_eagon_never_decreases_phi_and_reaches_the_global_maximum():
    decreases, least = bench_laws.baum_eagon(5)
    assert decreases == 0
    assert least > 0.99


def test_a_wrong_edge_is_seen_by_the_enumeration():
    net = enumeration.random_network(1)
    a, b, place = net.stages[0].edges[0]
    net.stages[0].edges[0] = (a, (b + 1) % net.stages[0].outputs, place)
    assert max(bench_laws.compare_paths(net).values()) > 1e-3


@pytest.mark.parametrize("name", ["torch LSTM", "torch GRU", "torch RNN", "torch TransformerEncoder"])
def test_recurrent_and_attention_modules_of_torch_have_a_finite_measure(name):
    good, r, fraction, wrong = examine(MODELS[name])
    assert good, wrong
    assert fraction == 1.0
    assert torch.tensor(r).isfinite()


@pytest.mark.parametrize("name", ["torch-geometric GCN", "torch-geometric GAT"])
def test_graph_models_have_a_finite_measure(name):
    pytest.importorskip("torch_geometric")
    good, _, _, wrong = examine(MODELS[name])
    assert good, wrong


@pytest.mark.parametrize("name", ["transformers Llama", "transformers ResNet"])
def test_models_of_transformers_have_a_finite_measure(name):
    pytest.importorskip("transformers")
    good, _, _, wrong = examine(MODELS[name])
    assert good, wrong
