import pytest
import torch
from torch import nn

from onlyforward.core.errors import FileError, UsageError
from onlyforward.data import nets
from onlyforward.data.pretrained import cifar_resnet, fit_state, load_pretrained, read_state, vit
from onlyforward.data.sets import Dataset, folder, load

DIGITS = load("digits")
SHAPES = {
    "mlp": 64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10,
    "cnn": 8 * 9 + 8 + 16 * 8 * 9 + 16 + 256 * 10 + 10,
    "lenet": 8 * 25 + 8 + 16 * 8 * 25 + 16 + 64 * 10 + 10,
    "lstm": 4 * 32 * (8 + 32 + 2) + 330,
    "gru": 3 * 32 * (8 + 32 + 2) + 330,
    "snn": 64 * 64 + 64 + 650,
    "bottleneck": 4160 + 64 * 16 + 16 + 16 * 64 + 64 + 650,
}


@pytest.mark.parametrize("name", [*SHAPES, "transformer", "resnet5", "resnet8", "vgg8"])
def test_a_net_maps_images_to_logits_and_has_the_parameters_of_its_shape(name):
    model = nets.build(name, DIGITS).eval()
    assert model(DIGITS.x_train[:5]).shape == (5, 10)
    if name in SHAPES:
        assert sum(p.numel() for p in model.parameters()) == SHAPES[name]


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = (nets.build("mlp", DIGITS, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one[1].weight, same[1].weight)
    assert not torch.equal(one[1].weight, other[1].weight)


def test_the_spiking_net_is_the_textbook_recursion():
    model = nets.build("snn", DIGITS)
    x = DIGITS.x_train[:3].flatten(1)
    hidden, out, total = torch.zeros(3, 64), torch.zeros(3, 10), torch.zeros(3, 10)
    for _ in range(6):
        hidden = 0.9 * hidden + model.currents[0](x) - (hidden > 1).float()
        out = 0.9 * out + model.currents[1]((hidden > 1).float())
        total += out
    assert torch.allclose(model(DIGITS.x_train[:3]), total / 6, atol=1e-5)


def text_data():
    x = torch.tensor([[2, 3, 0, 0], [4, 0, 0, 0]])
    y = torch.tensor([0, 1])
    return Dataset("t", "text", x, y, x, y, 2, ("a", "b"), "test", vocabulary=("<pad>", "<unknown>", "x", "y", "z"))


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_padding_never_reaches_the_head_of_a_word_net(name):
    model = nets.build(name, text_data())
    x = torch.tensor([[2, 3, 0, 0]])
    assert torch.allclose(model(x), model(x[:, :2]), atol=1e-6)


def test_the_graph_net_is_two_normalised_adjacency_products():
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    x = torch.randn(3, 4)
    y = torch.tensor([0, 1, 0])
    data = Dataset("g", "graph", x, y, x, y, 2, ("a", "b"), "test", edge_index=edges)
    model = nets.build("gcn", data).eval()
    a = torch.eye(3)
    a[edges[0], edges[1]] = 1
    a = a / (a.sum(0).sqrt()[:, None] * a.sum(0).sqrt())
    hidden = (a @ x @ model.first.lin.weight.T + model.first.bias).relu()
    assert torch.allclose(model(x), a @ hidden @ model.second.lin.weight.T + model.second.bias, atol=1e-5)
    with pytest.raises(UsageError, match="needs a graph"):
        nets.build("gcn", DIGITS)


@pytest.mark.parametrize("name", ["mlp", "snn", "bottleneck"])
def test_a_net_of_numbers_does_not_take_words(name):
    with pytest.raises(UsageError, match=f"{name} needs numbers, but t is a set of texts"):
        nets.build(name, text_data())


def test_unknown_models_and_factories_are_named(tmp_path):
    with pytest.raises(UsageError, match="lenet"):
        nets.build("lenett", DIGITS)
    with pytest.raises(FileError, match="no file"):
        nets.build("nowhere.py:make", DIGITS)
    file = tmp_path / "mine.py"
    file.write_text("import torch\ndef make(shape, classes):\n    return torch.nn.Flatten()\n")
    assert isinstance(nets.build(f"{file}:make", DIGITS), nn.Flatten)
    with pytest.raises(FileError, match="no function 'other'"):
        nets.build(f"{file}:other", DIGITS)


def test_every_preset_names_a_model_that_exists():
    assert {model for model, _ in nets.PRESETS} <= set(nets.MODELS)
    assert nets.preset("mlp", "digits").epochs == 20


def test_weights_that_do_not_fit_name_the_first_missing_and_unexpected_key(tmp_path):
    model = cifar_resnet(20)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    del state["module.bn1.weight"]
    state["module.extra"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "w.th")
    with pytest.raises(FileError, match=r"missing 'bn1\.weight', unexpected 'extra'"):
        load_pretrained("resnet20", tmp_path / "w.th")
    with pytest.raises(FileError, match=r"'linear\.weight' has shape"):
        fit_state(cifar_resnet(20, classes=7), model.state_dict(), path=tmp_path)


def test_pickled_objects_beyond_tensors_are_refused(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "m.pth")
    with pytest.raises(FileError, match="no file of weights alone"):
        read_state(tmp_path / "m.pth")
    (tmp_path / "n.pth").write_bytes(b"nothing")
    with pytest.raises(FileError, match="no file of weights alone"):
        read_state(tmp_path / "n.pth")
    (tmp_path / "n.safetensors").write_bytes(b"nothing here")
    with pytest.raises(FileError, match="safetensors"):
        read_state(tmp_path / "n.safetensors")


def test_resnets_have_depth_six_n_plus_two():
    for depth in (20, 32):
        convs = [m for m in cifar_resnet(depth).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert len(convs) == depth


def test_pretrained_nets_reach_the_accuracy_that_their_readme_states():
    try:
        folder("models")
        data = load("cifar10", limit=1, test_limit=1000)
    except FileError as error:
        pytest.skip(str(error))
    for name, low, high in (("resnet20", 0.78, 0.84), ("vit-d128-l6", 0.705, 0.717)):
        with torch.no_grad():
            model = load_pretrained(name)
            right = torch.cat([model(part).argmax(1) for part in data.x_test.split(250)]) == data.y_test
        assert low <= right.float().mean() <= high
    assert sum(p.numel() for p in vit().parameters()) > 5e5
