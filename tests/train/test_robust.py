import pytest
import torch
from torch import nn

from onlyforward.core.keys import Key
from onlyforward.data.sets import load
from onlyforward.train.bench_gpu import half, measured
from onlyforward.train.robust import honest_sentence, probabilities, robustness, spread, summary, tag

KEY = Key(run=4)


def test_a_table_of_accuracies_has_every_attack_radius_and_corruption_and_attacks_hurt():
    torch.manual_seed(0)
    data = load("digits", test_limit=60)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.x_train), data.y_train).backward()
        optimizer.step()
    settings = {"attacks": ("fgsm", "pgd", "eot"), "epsilons": (0.05, 0.2), "corruptions": ("gaussian",)}
    found = robustness(model, data.x_test, data.y_test, sigma=0.3, key=KEY, **settings)
    expected = {"clean", "noise_kept", "gaussian"} | {f"{a}_{e}" for a in settings["attacks"] for e in ("005", "020")}
    assert set(found) == expected
    assert found["clean"] > 0.85
    assert found["pgd_020"] <= found["fgsm_020"] < found["clean"]
    assert found["eot_020"] < found["eot_005"]
    assert found == robustness(model, data.x_test, data.y_test, sigma=0.3, key=KEY, **settings)


def test_kept_noise_averages_probabilities_over_its_draws():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    with torch.no_grad():
        assert torch.allclose(probabilities(model, x, sigma=0.0, key=KEY), model(x).softmax(1))
        noisy = probabilities(model, x, sigma=0.5, key=KEY, draws=4)
        assert torch.allclose(noisy.sum(1), torch.ones(5))
        assert torch.equal(noisy, probabilities(model, x, sigma=0.5, key=KEY, draws=4))


def test_spreads_are_sample_deviations_and_the_sentence_says_what_noise_alone_gains():
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert spread([0.4]) == (0.4, 0.0)
    runs = {
        arm: [{"fgsm_010": a - 0.01}, {"fgsm_010": a + 0.01}]
        for arm, a in {"bp": 0.4, "bp_noise": 0.45, "lr": 0.46}.items()
    }
    text = honest_sentence(summary(runs), "fgsm_010", "FGSM 0.1")
    assert "+0.060" in text
    assert "+0.050" in text
    assert "within one standard deviation" in text
    single = {arm: rows[:1] for arm, rows in runs.items()}
    assert "one seed" in honest_sentence(summary(single), "fgsm_010", "FGSM 0.1")
    assert tag("pgd", 0.05) == "pgd_005"


def test_the_measurement_of_the_gpu_case_runs_on_any_device():
    data = half(load("digits", limit=64, test_limit=20))
    found = measured("resnet5", "lr64", data, epochs=1)
    assert -1 <= found["cosine"] <= 1
    assert found["step_ms"] > 0
