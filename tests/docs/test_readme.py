import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = [
    (path.name, i, code)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S))
]


@pytest.mark.parametrize(("name", "number", "code"), BLOCKS, ids=[f"{name}-{i}" for name, i, _ in BLOCKS])
def test_every_python_block_of_the_documents_runs(name, number, code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"{name}:{number}", "exec"), {"__name__": "__main__"})
    if name == "README.md":
        printed = capsys.readouterr().out
        numbers = [float(word) for word in re.findall(r"-?\d+\.\d+", printed)]
        if number == 0:
            assert numbers[1] >= 0.9
            assert "gradient through sign" in printed
            assert numbers[2] > 0.001
        else:
            assert abs(numbers[0] - 0.93) < 0.2
            assert numbers[1] > 0.1


def test_the_examples_are_short():
    for path in sorted((ROOT / "examples").glob("*.py")):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 60, path.name


def test_no_source_file_is_over_400_lines():
    for path in sorted((ROOT / "src").rglob("*.py")):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path.name


def test_the_source_executes_no_strings_and_reads_no_pickles():
    banned = re.compile(r"(?<![\w.])(eval|exec)\(|shell=True|os\.system|pickle\.loads?\(")
    for path in sorted((ROOT / "src").rglob("*.py")):
        found = banned.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path.name}: {found.group(0)}"
