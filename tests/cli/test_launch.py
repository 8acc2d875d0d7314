import json

import pytest

import onlyforward as of
from onlyforward.core.errors import CheckpointError, UsageError

SMALL = {"data": "digits", "model": "mlp", "method": "bp", "epochs": 1}


def test_a_launched_run_is_the_run_of_the_command_line(tmp_path):
    found = of.launch("train fit", **SMALL, out=tmp_path / "a", track=True)
    assert found.metrics["accuracy"] > 0.5
    stored = json.loads((tmp_path / "a" / "result.json").read_text())
    assert stored["digest"] == found.digest()
    assert stored["command"].startswith("onlyforward train fit --out")
    assert list((tmp_path / "a" / "tensorboard").glob("events*"))
    assert of.resume(tmp_path / "a").metrics == found.metrics
    assert of.load_result(tmp_path / "a").tables[0].title == found.tables[0].title
    again = of.launch("train fit", config=tmp_path / "a" / "options.toml", out=tmp_path / "b", epochs=1)
    assert again.metrics["digest48"] == found.metrics["digest48"]


def test_unknown_words_and_options_are_named(tmp_path):
    with pytest.raises(UsageError, match="epochs"):
        of.launch("train fit", epoch=1)
    with pytest.raises(UsageError, match="fit"):
        of.launch("train fitt")
    with pytest.raises(UsageError, match="needs a subcommand"):
        of.launch("train")
    with pytest.raises(CheckpointError, match="no result"):
        of.load_result(tmp_path)
    with pytest.raises(UsageError, match="--out"):
        of.launch("train fit", **SMALL, track=True)
