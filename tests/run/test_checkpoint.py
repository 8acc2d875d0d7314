import json
import os
import pickle

import pytest
import torch

from onlyforward.core.errors import CheckpointError, OnlyForwardError, UsageError
from onlyforward.run.checkpoint import Checkpoint, decode, encode, load_newest, save, steps
from onlyforward.run.folder import RunFolder
from onlyforward.run.state import join_state, load_optimizer_state, optimizer_state, split_state


def some(step):
    return Checkpoint(
        step, {"a.weight": torch.arange(6.0) * step, "b": torch.tensor(step)}, {"loss": 0.1 * step, "k": [1, "x"]}
    )


def fill(folder, count=3):
    for step in range(1, count + 1):
        save(folder, some(step), options="o")


def newest(folder, options="o"):
    warnings = []
    return load_newest(folder, options=options, warn=warnings.append), warnings


def test_the_last_two_are_kept_and_come_back_to_the_bit(tmp_path):
    fill(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-2.json",
        "step-2.safetensors",
        "step-3.json",
        "step-3.safetensors",
    ]
    found, warnings = newest(tmp_path)
    assert found.step == 3
    assert found.data == {"loss": 0.1 * 3, "k": [1, "x"]}
    assert torch.equal(found.tensors["a.weight"], torch.arange(6.0) * 3)
    assert warnings == []


def test_no_checkpoint_at_all_is_a_fresh_start(tmp_path):
    assert newest(tmp_path / "missing") == (None, [])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def change_manifest(**values):
    def damage(path):
        manifest = path.with_suffix(".json")
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **values}))

    return damage


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip,
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_bytes(b""),
        change_manifest(options="another run"),
        change_manifest(step=7),
        lambda path: path.write_bytes(pickle.dumps(Bomb())),
    ],
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_by_name(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoints"
    fill(folder)
    damage(folder / "step-3.safetensors")
    found, warnings = newest(folder)
    assert found.step == 2
    assert "step-3" in warnings[0]
    assert not (tmp_path / "executed").exists()


def test_a_pickle_with_a_matching_hash_executes_nothing(tmp_path, monkeypatch):
    from hashlib import sha256

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoints"
    fill(folder)
    content = pickle.dumps(Bomb())
    (folder / "step-3.safetensors").write_bytes(content)
    change_manifest(sha256=sha256(content).hexdigest(), bytes=len(content))(folder / "step-3.safetensors")
    found, _ = newest(folder)
    assert found.step == 2
    assert not (tmp_path / "executed").exists()


def test_unsafe_tensor_names_are_refused(tmp_path):
    save(tmp_path, Checkpoint(1, {"fine": torch.ones(1)}, {}), options="o")
    save(tmp_path, Checkpoint(2, {"../evil": torch.ones(1)}, {}), options="o")
    found, warnings = newest(tmp_path)
    assert found.step == 1
    assert "unsafe" in warnings[0]


def test_when_none_is_left_the_run_ends_with_code_six(tmp_path):
    fill(tmp_path, 1)
    flip(tmp_path / "step-1.safetensors")
    with pytest.raises(CheckpointError, match="None of the 1"):
        newest(tmp_path)


def test_temporaries_and_orphans_are_removed_at_the_next_save(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / ".step-9.json.tmp").write_text("x")
    (tmp_path / "step-9.safetensors").write_text("x")
    save(tmp_path, some(3), options="o")
    assert steps(tmp_path) == [2, 3]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_vanished_folder_is_one_sentence(tmp_path):
    with pytest.raises(OnlyForwardError, match="cannot be made"):
        save(tmp_path / "gone" / "checkpoints", some(1), options="o")


def test_json_keeps_every_bit_of_a_float():
    value = {"x": 0.1, "deep": [1e-320, -0.0, {"y": 3}], "n": None, "b": True}
    assert decode(json.loads(json.dumps(encode(value)))) == value


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
        lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    ],
)
def test_optimisers_continue_to_the_same_bits(make, tmp_path):
    def build():
        parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        return parameter, make([parameter])

    def advance(parameter, optimizer, count):
        def closure():
            optimizer.zero_grad()
            loss = (parameter**4).sum() + parameter.prod()
            loss.backward()
            return loss

        for _ in range(count):
            optimizer.step(closure)

    straight, optimizer = build()
    advance(straight, optimizer, 5)
    first, optimizer = build()
    advance(first, optimizer, 2)
    tensors, skeleton = optimizer_state(optimizer)
    save(tmp_path, Checkpoint(2, tensors, {"optimizer": skeleton}), options="o")
    found, _ = newest(tmp_path)
    second, optimizer = build()
    with torch.no_grad():
        second.copy_(first)
    load_optimizer_state(optimizer, found.tensors, found.data["optimizer"])
    advance(second, optimizer, 3)
    assert torch.equal(straight, second)


def test_splitting_and_joining_is_the_identity():
    state = {"a": [torch.ones(2), 3, (None, "x")], 5: {"b": True}}
    tensors, skeleton = split_state(state)
    joined = join_state(tensors, json.loads(json.dumps(skeleton)))
    assert torch.equal(joined["a"][0], torch.ones(2))
    assert joined["a"][1:] == [3, (None, "x")]
    assert joined[5] == {"b": True}


def test_two_owners_of_one_folder_are_refused(tmp_path):
    first = RunFolder(tmp_path)
    with pytest.raises(UsageError, match="Another process"):
        RunFolder(tmp_path)
    first.close()
    RunFolder(tmp_path).close()


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot be used"):
        RunFolder(tmp_path / "file" / "run")
