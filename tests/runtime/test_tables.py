"""Tables whose cells can be read whole, wherever they are printed."""

import sys

import pytest

from runtime.tables import print_table, whole_table

NAME = "/a/folder/" + "with-a-long-name/" * 9 + "photo.jpg"


@pytest.mark.parametrize("terminal", [False, True])
def test_no_name_is_cut(capsys, monkeypatch, terminal):
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    table = whole_table("image", "found")
    table.add_row(NAME, "2 cells")
    print_table(table)
    lines = capsys.readouterr().out.splitlines()
    if terminal:
        rows = [line for line in lines if line.startswith("│")]
        assert max(map(len, rows)) <= 70
        lines = ["".join(row.split("│")[1].strip() for row in rows)]
    assert any(NAME in line for line in lines)
