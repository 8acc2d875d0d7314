import csv
import io
from html.parser import HTMLParser

import pytest

from onlyforward.report.html import POLICY, external_references, page
from onlyforward.report.tables import latex, markdown, to_csv, to_html, to_terminal
from onlyforward.run.result import Result

EVIL = '<script>alert("x")</script> a|b `c` *d* \u202egnirts\nnew & 50 % _e_'


def evil_report():
    result = Result("train", question=EVIL, answer=EVIL)
    result.metric("accuracy", 0.953)
    result.table(EVIL, ["arm", EVIL], [[EVIL, 1.5], ["b", None]], EVIL)
    result.curve(
        EVIL, "lr <b>", [0, 1, 2], [1.0, 0.5, 0.4], x_label="epoch", y_label="loss (nats)", spread=[0.1, 0.1, 0.1]
    )
    result.notes.append(EVIL)
    result.config = {"model": EVIL}
    return {**result.to_json(), "command": f"onlyforward {EVIL}"}


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *item) for item in attrs]


def test_every_text_is_escaped_and_nothing_points_outside():
    content = page(evil_report())
    parser = Tags()
    parser.feed(content)
    assert "script" not in parser.tags
    assert not any(name.startswith("on") for _, name, _ in parser.attributes)
    assert external_references(content) == 0
    assert ("meta", "content", POLICY) in parser.attributes
    assert content.index("class=answer") < content.index("<table")


def test_the_same_result_gives_the_same_bytes():
    assert page(evil_report()) == page(evil_report())


def test_a_reference_to_the_outside_would_be_counted():
    assert external_references('<img src="https://example.org/x.png"><a href=#top>') == 1


@pytest.mark.parametrize("rows", [1, 10_000])
def test_all_five_forms_hold_every_row(rows):
    result = Result("train")
    result.table("Title", ["name", "value"], [[EVIL, i + 0.25] for i in range(rows)], "note")
    report = result.to_json()
    table = report["tables"][0]
    assert to_html(table).count("<tr>") == rows + 1
    assert markdown(table).count("\n| ") == rows + 1
    assert latex(table).count(r"\\") == rows + 1
    parsed = list(csv.reader(io.StringIO(to_csv(table))))
    assert len(parsed) == rows + 1
    assert parsed[1] == [EVIL, "0.25"]
    target = io.StringIO()
    to_terminal(report, target)
    assert "\x1b" not in target.getvalue()


def test_markdown_cells_cannot_break_the_table():
    table = Result("x")
    table.table("t", ["a"], [["x | y"], ["<b>"]])
    body = markdown(table.to_json()["tables"][0])
    assert "x \\| y" in body
    assert "<b>" not in body
