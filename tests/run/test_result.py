import json

import pytest
import torch

from onlyforward.core.errors import MissingExtra, UsageError
from onlyforward.run.context import Common, Context
from onlyforward.run.events import EventLog
from onlyforward.run.result import Result


def test_a_metric_that_is_no_number_becomes_null_and_a_note():
    result = Result("train")
    result.metric("gap", float("nan"))
    assert result.metrics == {"gap": None}
    assert result.notes == ["gap is nan"]
    json.dumps(result.to_json(), allow_nan=False)


def test_metric_names_hold_letters_digits_and_underscores_only():
    with pytest.raises(UsageError, match="Rename"):
        Result("train").metric("a.b", 1)


def test_the_digest_leaves_times_out_and_sees_every_bit_of_an_artefact():
    def made(seconds, weight):
        result = Result("train")
        result.metric("accuracy", 0.5)
        result.metric("step_ms", seconds, timing=True)
        result.table("t", ["arm", "time [s]"], [["a", seconds]])
        result.artefacts["w"] = torch.tensor([weight])
        return result

    assert made(1.0, 2.0).digest() == made(9.0, 2.0).digest()
    assert made(1.0, 2.0).digest() != made(1.0, 2.0000002).digest()
    assert made(1.0, 2.0).to_json()["metrics"]["digest48"] < 2**48


def test_a_torn_last_line_of_the_events_is_dropped(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.write("start", None, {})
    log.write("step", 1, {"loss": 0.5})
    with log.path.open("a") as file:
        file.write('{"seq": 2, "ki')
    again = EventLog(log.path)
    again.write("resume", 1, {})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["seq"] for line in lines] == [0, 1, 2]
    assert [line["kind"] for line in lines] == ["start", "step", "resume"]


def test_a_number_called_step_leaves_the_events_step_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("onlyforward.run.context.EVERY", 0.0)
    context = Context(Common(out=tmp_path / "run"), application="train")
    with context.progress(2, label="train") as tick:
        tick(step=0.5, loss=1.0)
    last = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["step"], last["loss"]) == ("step", 1, 1.0)


def test_a_missing_extra_names_the_command_that_mends_it():
    assert 'pip install "onlyforward[onnx]"' in str(MissingExtra("onnxruntime", "onnx"))
