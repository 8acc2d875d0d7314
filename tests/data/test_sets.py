import gzip
import struct

import numpy as np
import pytest
import torch

from onlyforward.core.errors import FileError, UsageError
from onlyforward.data import sets
from onlyforward.data.sets import folder, load


def real(name):
    try:
        return folder(name)
    except FileError as error:
        pytest.skip(str(error))


def test_digits_are_the_stratified_three_quarters_of_scikit_learn():
    data = load("digits")
    assert data.x_train.shape == (1347, 1, 8, 8)
    assert data.x_test.shape == (450, 1, 8, 8)
    assert float(data.x_train.max()) == 1.0
    assert float(data.x_train.min()) == 0.0
    assert torch.bincount(data.y_test).tolist() == [45, 46, 44, 46, 45, 46, 45, 45, 43, 45]


def test_a_limit_keeps_the_first_data_and_held_out_never_touches_the_test_part():
    whole, few = load("digits"), load("digits", limit=100, test_limit=7)
    assert torch.equal(few.x_train, whole.x_train[:100])
    assert len(few.y_test) == 7
    inner = whole.held_out()
    assert len(inner.y_test) == 1347 // 5
    assert torch.equal(torch.cat([inner.x_train, inner.x_test]), whole.x_train)


def test_an_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(UsageError, match="digits"):
        load("digts")
    with pytest.raises(FileError, match="no file or folder"):
        load("here/there.npz")


def test_absent_files_name_their_public_source(tmp_path, monkeypatch):
    monkeypatch.setenv("ONLYFORWARD_DATA", str(tmp_path))
    with pytest.raises(FileError, match=r"github\.com/tkipf/gcn.*ONLYFORWARD_DATA"):
        load("cora")


def test_mnist_and_fashion_have_their_known_means():
    real("mnist")
    real("fashion_mnist")
    for name, mean in (("mnist", 0.1307), ("fashion", 0.2860)):
        data = load(name)
        assert data.x_train.shape == (60000, 1, 28, 28)
        assert float(data.x_train.mean()) == pytest.approx(mean, abs=1e-4)
        assert torch.bincount(data.y_test).sum() == 10000


def test_cifar_decodes_only_what_is_asked_for():
    real("cifar10_jpeg")
    data = load("cifar10", limit=20, test_limit=10)
    assert data.x_train.shape == (20, 3, 32, 32)
    assert data.x_test.shape == (10, 3, 32, 32)
    assert 0.3 < float(data.x_train.mean()) < 0.6
    assert data.labels[0] == "airplane"


def test_cora_has_the_planetoid_split_and_both_directions_of_each_edge():
    real("cora")
    data = load("cora")
    assert data.x_train.shape == (2708, 1433)
    assert [int(data.masks[part].sum()) for part in ("train", "validation", "test")] == [140, 500, 1000]
    assert data.edge_index.shape == (2, 2 * 5278)
    assert torch.allclose(data.x_train.sum(1)[data.masks["train"]], torch.ones(140), atol=1e-5)


def test_texts_become_padded_word_numbers_of_the_training_vocabulary():
    real("sst2")
    data = load("sst2")
    assert (len(data.y_train), len(data.y_validation), len(data.y_test)) == (6920, 872, 1821)
    row = data.x_train[0]
    length = int(data.lengths_train[0])
    assert [data.vocabulary[int(k)] for k in row[:length]][:3] == ["a", "stirring", ","]
    assert int(row[length:].sum()) == 0
    assert int((data.x_test == 1).sum()) > 0


def test_ag_news_tests_on_every_fifth_row():
    real("ag_news")
    data = load("ag_news")
    assert (len(data.y_train), len(data.y_test), data.classes) == (6080, 1520, 4)
    assert data.texts_test[0].startswith("Fears for T N pension")


def idx(array):
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def quartet(tmp_path):
    images = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3)
    labels = np.array([0, 1, 2, 1], dtype=np.uint8)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def test_a_folder_of_four_idx_files_is_a_data_set(quartet):
    data = load(quartet)
    assert data.x_train.shape == (4, 1, 2, 3)
    assert data.classes == 3
    assert float(data.x_train[1, 0, 0, 0]) == pytest.approx(6 / 255)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"PK\3\4 something", "no IDX file"),
        (b"\0\0\x0d\1\0\0\0\1....", "type 0xd"),
        (idx(np.zeros((4, 2, 3), dtype=np.uint8))[:-8], "record 2"),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**20, 2**20), "declares a shape"),
    ],
)
def test_a_broken_idx_file_is_named_with_its_first_bad_record(quartet, content, message):
    (quartet / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(FileError, match=message):
        load(quartet)
    (quartet / "train-images-idx3-ubyte.gz").write_bytes(content or b"x")
    with pytest.raises(FileError, match="cannot be read"):
        load(quartet)


def test_arrays_are_split_by_the_seed_and_unlabelled_data_left_out(tmp_path):
    x = np.arange(80, dtype=np.float32).reshape(40, 2)
    y = np.arange(40) % 3
    y[5] = -1
    np.savez(tmp_path / "a.npz", x=x, y=y)
    one, same, other = (load(tmp_path / "a.npz", seed=seed) for seed in (0, 0, 1))
    assert one.kind == "table"
    assert len(one.y_train) + len(one.y_test) == 39
    assert torch.equal(one.x_train, same.x_train)
    assert not torch.equal(one.x_train, other.x_train)
    rows = torch.cat([one.x_train, one.x_test])[:, 0].sort().values
    assert rows.tolist() == [2.0 * k for k in range(40) if k != 5]


def test_images_of_bytes_with_channels_last_become_channels_first_in_unit_range(tmp_path):
    x = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    x[:, 0, 1, 2] = 255
    np.savez(tmp_path / "b.npz", x_train=x, y_train=np.arange(4), x_test=x, y_test=np.arange(4))
    data = load(tmp_path / "b.npz")
    assert data.x_train.shape == (4, 3, 8, 8)
    assert float(data.x_train[0, 2, 0, 1]) == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": np.array([[1.0], [np.nan]]), "y": np.array([0, 1])}, "record 1 of x is not finite"),
        ({"x": np.ones((2, 1)), "y": np.array([0, -2])}, "record 1 of y is -2"),
        ({"x": np.ones((2, 1)), "y": np.array([0.0, 1.0])}, "integers"),
        ({"x": np.ones((2, 1)), "y": np.array([0])}, r"shape \[2\]"),
        ({"x": np.array([{}, {}], dtype=object), "y": np.array([0, 1])}, "'x' cannot be read"),
        ({"z": np.ones(2)}, "x_train"),
        ({"jpeg": np.zeros(9, dtype=np.uint8), "offsets": np.array([0, 9]), "labels": np.array([0])}, "record 0 is no"),
    ],
)
def test_a_broken_array_file_is_one_sentence_that_names_the_record(tmp_path, fields, message):
    np.savez(tmp_path / "c.npz", **fields)
    with pytest.raises(FileError, match=message):
        load(tmp_path / "c.npz")


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "d.npz").write_bytes(b"PK\3\4 truncated")
    with pytest.raises(FileError, match="no NPZ file"):
        load(tmp_path / "d.npz")


def test_a_text_file_names_its_bad_line(tmp_path):
    good = tmp_path / "e.tsv"
    good.write_text("".join(f"word{i % 2} again\t{'yes' if i % 2 else 'no'}\n" for i in range(12)))
    data = load(good)
    assert data.labels == ("no", "yes")
    assert len(data.y_train) == 9
    for row, label in zip(data.texts_train, data.y_train.tolist()):
        assert row.startswith(f"word{label}")
    good.write_text("fine\t1\nno label here\n")
    with pytest.raises(FileError, match="line 2"):
        load(good)


def test_the_sources_cover_every_name():
    assert set(sets.NAMES) - {"digits", "fashion", "cifar10"} <= set(sets.SOURCES)
