"""What people type: tables with all their faults, scoring by column name, and runs that resume to the bit."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from onlyforward.cli.main import main
from onlyforward.detect.tabular import read_table
from onlyforward.run.signals import Interrupted


def call(capsys, *words):
    code = main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Breast cancer with an id column and a label."""
    path = tmp_path_factory.mktemp("table") / "cells.csv"
    x, y = load_breast_cancer(return_X_y=True)
    lines = [",".join(["patient", *(f"f{j}" for j in range(8)), "kind"])]
    for i in range(300):
        lines.append(",".join([f"P{i}", *map(str, x[i, :8]), "benign" if y[i] else "malignant"]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def fitted(table):
    folder = table.parent / "fitted"
    words = ["--csv", table, "--id", "patient", "--label", "kind", "--normal", "benign", "--out", folder, "--json"]
    assert main(["detect", "fit", *map(str, words)]) == 0
    return folder


def test_fit_writes_a_report_that_shows_the_most_anomalous_rows(fitted):
    result = json.loads((fitted / "result.json").read_text())
    assert result["metrics"]["auroc"] > 0.9
    assert result["metrics"]["n_parameters"] == 16
    page = (fitted / "report.html").read_text()
    assert "furthest from normal" in page
    assert "classically simulable" in page
    assert "Scores and threshold" in page


def test_scoring_matches_columns_by_name(fitted, table, tmp_path, capsys):
    rows = [line.split(",") for line in table.read_text().splitlines()]
    order = [9, 4, 8, 0, 1, 2, 3, 5, 6, 7]
    shuffled = tmp_path / "other.csv"
    lines = [";".join([*(f'"{row[j]}"' for j in order), "7" if i else "extra"]) for i, row in enumerate(rows)]
    shuffled.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    words = ["detect", "score", fitted, "--scores"]
    assert call(capsys, *words, tmp_path / "a.csv", "--csv", table)[0] == 0
    code, report = call(capsys, *words, tmp_path / "b.csv", "--csv", shuffled)
    assert code == 0
    assert report["metrics"]["auroc"] > 0.85
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith("P0,")
    single = tmp_path / "one.csv"
    single.write_text("\n".join(table.read_text().splitlines()[:2]) + "\n")
    code, report = call(capsys, "detect", "score", fitted, "--csv", single)
    assert code == 0
    assert report["metrics"]["n_rows"] == 1


def change(lines, kind):
    cells = [line.split(",") for line in lines]
    if kind == "text":
        cells[3][2] = "tall"
    elif kind == "gap":
        cells[4][3] = "NaN"
    elif kind == "missing":
        cells = [row[:5] + row[6:] for row in cells]
    elif kind == "ragged":
        cells[7] = cells[7][:-1]
    return "\n".join(",".join(row) for row in cells) + "\n"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("text", "the column 'f1' holds text ('tall' in row 3)"),
        ("gap", "row 4, column 'f2' is empty or not finite"),
        ("missing", "the column 'f4' of the fitted model is missing"),
        ("ragged", "row 7 has 9 cells"),
    ],
)
def test_faults_of_a_table_are_said_in_one_sentence(kind, said, fitted, table, tmp_path, capsys):
    path = tmp_path / "bad.csv"
    path.write_text(change(table.read_text().splitlines(), kind))
    code, report = call(capsys, "detect", "score", fitted, "--csv", path)
    assert code == 2
    assert said in report["error"]


@pytest.mark.parametrize(
    ("content", "words", "code"),
    [
        (None, [], 2),
        ("", [], 2),
        ("a,b\n", [], 2),
        ("a,b\n" + "1,2\n" * 20, [], 2),
        ("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(8)), [], 2),
        ("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(30)), ["--nu", "1.5"], 2),
        ("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(30)), ["--n-qubits", "15"], 2),
        ("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(30)), ["--drop", "c"], 2),
        ("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(30)), ["--label", "b", "--normal", "x"], 2),
        ("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(30)), ["--peers", "svm"], 2),
    ],
)
def test_bad_input_ends_with_its_exit_code(content, words, code, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_text(content)
    assert call(capsys, "detect", "fit", "--csv", path, *words)[0] == code


def test_missing_cells_are_dropped_or_filled_when_asked(table, tmp_path):
    path = tmp_path / "gaps.csv"
    path.write_text(change(table.read_text().splitlines(), "gap"))
    dropped = read_table(path, label="kind", identity="patient", missing="drop")
    assert len(dropped.x) == 299
    assert dropped.ids[3] == "P4"
    filled = read_table(path, label="kind", identity="patient", missing="median")
    others = np.delete(filled.x[:, 2], 3)
    assert filled.x[3, 2] == pytest.approx(np.median(others))


def test_an_interrupted_fit_resumes_to_the_same_bits(tmp_path, capsys, monkeypatch):
    from onlyforward.run.context import Context

    words = ["detect", "fit", "--data", "digits", "--normal", "4", "--max-epochs", "8", "--checkpoint-seconds", "0"]
    whole = call(capsys, *words, "--out", tmp_path / "whole")[1]
    plain = Context.save

    def stopping(self, step, state):
        plain(self, step, state)
        if step == 3:
            raise Interrupted(2)

    monkeypatch.setattr(Context, "save", stopping)
    assert main([*words, "--out", str(tmp_path / "cut"), "--json"]) == 130
    capsys.readouterr()
    monkeypatch.setattr(Context, "save", plain)
    code, resumed = call(capsys, "resume", tmp_path / "cut")
    assert code == 0
    assert resumed["resumed_from"] == [3]
    assert resumed["digest"] == whole["digest"]


def test_classes_that_a_data_set_does_not_have_are_named(tmp_path, capsys):
    words = ["--data", "digits", "--normal"]
    assert call(capsys, "detect", "fit", *words, "4", "--max-epochs", "1", "--out", tmp_path / "det")[0] == 0
    for command in (["score", tmp_path / "det"], ["run-on-device"], ["fit"]):
        code, report = call(capsys, "detect", *command, *words, "12")
        assert code == 2
        assert "Unknown class '12'" in report["error"]


def test_a_damaged_model_is_no_checkpoint(fitted, table, tmp_path, capsys):
    import shutil

    shutil.copytree(fitted, tmp_path / "copy")
    (tmp_path / "copy" / "detector" / "detector.json").write_text("{")
    assert call(capsys, "detect", "score", tmp_path / "copy", "--csv", table)[0] == 6
    assert call(capsys, "detect", "score", tmp_path, "--csv", table)[0] == 6
