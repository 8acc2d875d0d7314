"""The command as a person uses it: pictures, endpoints, bad input, resume."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from onlyforward.core.errors import FileError
from onlyforward.data.sets import folder
from onlyforward.explain.images import read_image
from onlyforward.run.ledger import Ledger

MODEL = """
import torch

class Bright(torch.nn.Module):
    size = (32, 32)

    def forward(self, x):
        corner = x[:, :, :16, :16].mean((1, 2, 3))
        return torch.stack([corner * 8, torch.zeros_like(corner), -corner], 1)

def make():
    return Bright()

def slow():
    import time

    def ask(rows):
        with open("asked", "a") as file:
            file.write("row\\n" * len(rows))
        time.sleep(0.05)
        return Bright()(rows)

    ask.size = (32, 32)
    return ask

def nan():
    return lambda rows: torch.full((len(rows), 3), float("nan"))

def texts():
    return lambda lines: torch.tensor([[line.count("good"), 0.0] for line in lines], dtype=torch.float64)
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:20, :20] = 220
    Image.fromarray(picture).save(tmp_path / "a.png")
    return tmp_path


def run(place, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "onlyforward", "explain", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_picture_is_explained_and_reported(place):
    found = run(
        place, "a.png", "--model", "model.py:make", "--budget", "64", "--out", "out", "--json", "--peers", "rise"
    )
    metrics = json.loads(found.stdout)["metrics"]
    assert metrics["target"] == 0
    assert metrics["queries"] == 64
    assert metrics["rise_queries"] == 64
    assert metrics["faithfulness"] > metrics["random_faithfulness"]
    values = np.load(place / "out" / "map_a.npy")
    assert values.sum(0)[:16, :16].mean() > values.sum(0)[16:, 16:].mean()
    names = {path.name for path in (place / "out").iterdir()}
    assert {"overlay_a.png", "overlay_a.svg", "curves_a.png", "report.html", "result.json", "events.jsonl"} <= names


def test_advice_asks_nothing_and_a_folder_skips_what_is_broken(place):
    plan = json.loads(run(place, "a.png", "--model", "model.py:make", "--advise", "--map", "gradient", "--json").stdout)
    assert plan["metrics"]["queries"] == 0
    assert "cosine about" in plan["answer"]
    (place / "many").mkdir()
    (place / "a.png").rename(place / "many" / "a.png")
    (place / "many" / "b.png").write_bytes(b"\x89PNG broken")
    found = json.loads(
        run(place, "many", "--model", "model.py:make", "--budget", "16", "--no-evaluate", "--json").stdout
    )
    assert found["metrics"]["images"] == 1
    assert found["tables"][1]["rows"][0][0] == "b.png"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.png", "--model", "model.py:make"], 2, "no picture missing.png"),
        (["a.png"], 2, "No model"),
        (["a.png", "--model", "x.joblib"], 2, "file.py:factory"),
        (["a.png", "--model", "model.py:gone"], 2, "no function 'gone'"),
        (["a.png", "--model", "none.onnx"], 2, "none.onnx"),
        (["a.png", "--model", "model.py:make", "--budget", "7"], 2, "budget is 7"),
        (["a.png", "--model", "model.py:make", "--target", "9"], 2, "out of range"),
        (["a.png", "--model", "model.py:make", "--target", "dog"], 2, "--labels"),
        (["a.png", "--model", "model.py:nan", "--no-evaluate", "--budget", "16"], 1, "not finite"),
        (["a.png", "--model", "http://example.org/v1"], 2, "not encrypted"),
        (["a.png", "--model", "http://127.0.0.1:9/v1", "--budget", "16"], 5, "cannot be reached"),
        (["a.png", "--model", "model.py:make", "--map", "wavelet"], 2, "Unknown map"),
    ],
)
def test_bad_input_is_one_sentence_with_its_exit_code(place, arguments, code, words):
    done = run(place, *arguments, code=code)
    assert words in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1


def test_a_killed_run_goes_on_to_the_same_bits_and_a_finished_one_asks_nothing(place):
    arguments = ["explain", "a.png", "--model", "model.py:slow", "--budget", "64", "--batch", "4", "--no-evaluate"]
    straight = json.loads(run(place, *arguments[1:], "--json").stdout)

    def start(*words):
        command = [sys.executable, "-m", "onlyforward", *words, "--json"]
        return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    process = start(*arguments, "--out", "out", "--checkpoint-seconds", "0")
    deadline = time.monotonic() + 60
    while not list(place.glob("out/checkpoints/step-*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    asked = len((place / "asked").read_text().split())
    assert 0 < asked - 64 < 64
    found = json.loads(start("resume", "out").communicate(timeout=100)[0])
    assert found["metrics"]["digest48"] == straight["metrics"]["digest48"]
    asked = len((place / "asked").read_text().split())
    assert 128 <= asked <= 128 + 8
    again = json.loads(start("resume", "out").communicate(timeout=100)[0])
    assert again["digest"] == found["digest"]
    assert len((place / "asked").read_text().split()) == asked


def test_a_killed_run_of_a_chat_endpoint_keeps_its_budget_and_ends(place):
    try:
        model = folder("models") / "mobilenet_v1_0.25_128_int8w.onnx"
    except FileError as error:
        pytest.skip(str(error))
    arguments = ["explain", "a.png", "--model", f"loopback:{model}", "--range", "0..255", "--budget", "40"]
    command = [sys.executable, "-m", "onlyforward", *arguments, "--no-evaluate", "--out", "out", "--concurrency", "2"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def answered():
        if not (place / "out" / "ledger.sqlite").is_file():
            return 0
        ledger = Ledger(place / "out" / "ledger.sqlite", scope="a.png")
        found = ledger.charges - ledger.lost
        ledger.close()
        return found

    deadline = time.monotonic() + 60
    while answered() < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    before = answered()
    assert 0 < before < 40
    resume = [sys.executable, "-m", "onlyforward", "resume", "out", "--json"]
    done = subprocess.run(resume, cwd=place, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["cached"] >= before - 1
    ledger = Ledger(place / "out" / "ledger.sqlite", scope="a.png")
    assert ledger.charges <= 40
    assert ledger.lost <= 2
    ledger.close()


def test_words_of_a_text_are_players(place):
    found = json.loads(
        run(
            place, "--text", "a good film and good music", "--model", "model.py:texts", "--target", "0",
            "--score", "logit", "--budget", "70", "--json",
        ).stdout
    )  # fmt: skip
    rows = found["tables"][0]["rows"]
    assert [row[1] for row in rows] == pytest.approx([0, 1, 0, 0, 1, 0], abs=1e-6)


def test_pictures_of_every_kind_are_read_upright_on_white(tmp_path):
    colour = Image.new("RGB", (30, 20), (255, 0, 0))
    for x in range(15):
        for y in range(20):
            colour.putpixel((x, y), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    colour.save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png", (20, 20))
    assert float(turned[0, :, 2].mean()) > 0.9
    for mode in ("P", "CMYK", "L", "I;16", "RGBA", "LA"):
        target = tmp_path / f"{mode.replace(';', '')}.{'jpg' if mode == 'CMYK' else 'png'}"
        (colour.convert("L").convert("I").convert("I;16") if mode == "I;16" else colour.convert(mode)).save(target)
        found = read_image(target, (16, 16))
        assert found.shape == (3, 16, 16)
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert torch.allclose(read_image(tmp_path / "clear.png", (8, 8)), torch.ones(3, 8, 8))
