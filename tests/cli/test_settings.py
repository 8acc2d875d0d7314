import dataclasses
from pathlib import Path

import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

from onlyforward.cli.options import parse
from onlyforward.cli.settings import changed, to_flags, to_toml
from onlyforward.core.errors import FileError, UsageError
from onlyforward.run.context import Common


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Common):
    """A command with every kind of option."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Positional."""
    copies: int | None = None
    """An optional number."""
    rate: float = 0.1
    """A number."""
    name: str = ""
    """A word."""
    force: bool = False
    """A switch."""
    cases: tuple[str, ...] = ()
    """Several words."""


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs",)), max_size=12)
NAMES = WORDS.filter(lambda word: word and not word.startswith("-"))
SAMPLES = st.builds(
    Sample,
    files=st.lists(NAMES.map(Path).filter(lambda p: not str(p).startswith("-")), max_size=3).map(tuple),
    copies=st.none() | st.integers(-(10**6), 10**6),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    name=NAMES,
    force=st.booleans(),
    cases=st.lists(NAMES, max_size=3).map(tuple),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=50, deadline=None)
@given(SAMPLES)
def test_options_survive_toml_and_flags(tmp_path_factory, sample):
    folder = tmp_path_factory.mktemp("options")
    (folder / "options.toml").write_text(to_toml(sample), encoding="utf-8")
    again = parse(Sample, ["--config", str(folder / "options.toml")], prog="sample")
    assert dataclasses.replace(again, config=None) == sample
    assert parse(Sample, to_flags(Sample, changed(sample)), prog="sample") == sample


def test_a_flag_wins_over_the_file(tmp_path):
    (tmp_path / "a.toml").write_text('copies = 8\nname = "file"\nfiles = ["a", "b"]\n')
    found = parse(Sample, ["--config", str(tmp_path / "a.toml"), "--copies", "4"], prog="sample")
    assert (found.copies, found.name, found.files) == (4, "file", (Path("a"), Path("b")))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("copeis = 8", UsageError, "copies"),
        ("[train]\ncopies = 8", FileError, "table"),
        ("copies = ", FileError, "cannot be read"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, error, words):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(error, match=words):
        parse(Sample, ["--config", str(tmp_path / "a.toml")], prog="sample")
