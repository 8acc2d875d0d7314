import gzip
import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from onlyforward.core.errors import FileError
from onlyforward.data.files import examine


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def idx(shape=(2, 3), data=None):
    body = bytes(range(6)) if data is None else data
    return b"\0\0\x08" + bytes([len(shape)]) + b"".join(struct.pack(">I", n) for n in shape) + body


def npy(array):
    target = io.BytesIO()
    np.save(target, array, allow_pickle=True)
    return target.getvalue()


def npz(**arrays):
    target = io.BytesIO()
    np.savez_compressed(target, **arrays)
    return target.getvalue()


def png(size=(8, 8)):
    image = pytest.importorskip("PIL.Image")
    target = io.BytesIO()
    image.new("RGB", size).save(target, "PNG")
    return target.getvalue()


def state_dict(value=None):
    import torch

    target = io.BytesIO()
    torch.save({"w": torch.ones(3)} if value is None else value, target)
    return target.getvalue()


def tensors():
    import torch
    from safetensors.torch import save

    return save({"w": torch.ones(3)})


def onnx_model():
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    ends = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    graph = make.make_graph([make.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


GOOD = {
    "a.csv": (lambda: b"job,p\n1,2\n2,3\n", "table"),
    "a.csv.gz": (lambda: gzip.compress(b"job;p\n1;2\n"), "table"),
    "a.npz": (lambda: npz(x=np.ones((2, 3)), y=np.arange(2)), "NPZ"),
    "a.npy": (lambda: npy(np.ones(4)), "NPY"),
    "t10k-images-idx3-ubyte": (idx, "IDX"),
    "labels-idx1-ubyte.gz": (lambda: gzip.compress(idx((6,))), "IDX"),
    "a.png": (png, "PNG"),
    "a.safetensors": (tensors, "safetensors"),
    "a.pth": (state_dict, "state dict"),
    "a.onnx": (onnx_model, "ONNX"),
    "a.json": (lambda: b'{"a": [1, 2]}', "JSON"),
    "a.toml": (lambda: b"a = 1\n", "TOML"),
    "wt40.txt": (lambda: b"1 2 3\n4 5", "numbers"),
}

BAD = {
    "empty.csv": (lambda: b"", "empty"),
    "latin.csv": (lambda: "job,p\nMüller,2\n".encode("latin-1"), "UTF-8"),
    "ragged.csv": (lambda: b'a,b\n1,2\n"3,4,5\n', "table"),
    "cut.npz": (lambda: npz(x=np.ones(1000))[:-40], "broken archive"),
    "objects.npy": (lambda: npy(np.array([{"a": 1}], dtype=object)), "objects"),
    "objects.npz": (lambda: npz(x=np.array([{"a": 1}], dtype=object)), "objects"),
    "short.npy": (lambda: npy(np.ones(10))[:-8], "declares"),
    "header.npy": (lambda: b"\x93NUMPY\x01\x00\x10\x00garbage", "broken NPY header"),
    "bomb.npz": (lambda: npz(x=np.zeros(40 * 2**20, dtype=np.uint8)), "asks for"),
    "cut-idx": (lambda: idx()[:-2], "fewer"),
    "long-idx": (lambda: idx() + b"xx", "more"),
    "bomb-idx.gz": (lambda: gzip.compress(idx((6,)) + b"\0" * 10_000_000), "more"),
    "huge-idx": (lambda: idx((2**31, 2**20)), "asks for"),
    "noidx-ubyte": (lambda: b"hello world", "no IDX"),
    "cut.png": (lambda: png()[:40], "broken image"),
    "bomb.png": (lambda: png((9000, 9000)), "asks for"),
    "cut.safetensors": (lambda: tensors()[:-4], "broken safetensors"),
    "evil.pth": (lambda: state_dict(Bomb()), "more than tensors"),
    "pickle.safetensors": (lambda: pickle.dumps(Bomb()), "broken safetensors"),
    "evil.pkl": (lambda: pickle.dumps(Bomb()), "pickle"),
    "evil.npy": (lambda: pickle.dumps(Bomb()), "NPY"),
    "cut.onnx": (lambda: onnx_model()[:-20], "no ONNX"),
    "deep.json": (lambda: b"[" * 200 + b"]" * 200, "nested"),
    "broken.json": (lambda: b'{"a": ', "no JSON"),
    "broken.toml": (lambda: b"a = = 1", "no TOML"),
    "words.txt": (lambda: b"one two", "numbers"),
    "unknown.bin": (lambda: b"hello", "unknown kind"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_is_recognised(tmp_path, name):
    make, kind = GOOD[name]
    (tmp_path / name).write_bytes(make())
    assert kind in examine(tmp_path / name).kind


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_sentence_and_nothing_is_executed(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, words = BAD[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(FileError, match=words) as caught:
        examine(tmp_path / name, max_mb=32)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_and_a_folder_without_a_run_are_refused(tmp_path):
    with pytest.raises(FileError, match="cannot be read"):
        examine(tmp_path / "missing.csv")
    with pytest.raises(FileError, match="without a run"):
        examine(tmp_path)


def test_a_zip_that_is_no_array_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"not an array")
    with pytest.raises(FileError, match="NPY header"):
        examine(tmp_path / "a.npz")


def test_doctor_examines_files_and_exits_two_where_one_is_refused(tmp_path, capsys):
    from onlyforward.cli.main import main

    good, bad = tmp_path / "a.csv", tmp_path / "b.pkl"
    good.write_bytes(b"a,b\n1,2\n")
    bad.write_bytes(pickle.dumps(Bomb()))
    assert main(["doctor", str(good), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert (metrics["files"], metrics["files_refused"], metrics["problems"]) == (1, 0, 0)
    assert main(["doctor", str(good), str(bad), "--json"]) == 2
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert (metrics["files_readable"], metrics["files_refused"]) == (1, 1)
