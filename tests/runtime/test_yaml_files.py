import re
import tracemalloc

import pytest
import yaml

from runtime.yaml_files import read_mapping


def test_what_safe_dump_wrote_is_read(tmp_path):
    content = {"a": {"b": [1, 2.5, None, True, "x"]}, "c": "grün", "d": []}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    assert read_mapping(tmp_path / "config.yaml", "configuration") == content


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{here}: &{here} [{', '.join(['*' + before] * 10)}]\n"
    for before, here in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "line 2: not YAML: an alias, *name"),
        ("a: 1\nb: [1\n", "line 3: not YAML: "),
        ("- 1\n", "expected a configuration of keys and values, found [1]"),
        ("", "expected a configuration of keys and values, found None"),
        ("[" * 5000, "line 1: not YAML: nested too deeply"),
        ("a: !!python/object/apply:os.system ['touch /tmp/x']", "line 1: could not determine a constructor"),
        ("a: 2026-99-99", "expected a configuration in YAML, but month must be in 1..12"),
        ("a: \x01", "not YAML: unacceptable character"),
        (f"a:\n  b: [1, -{'1' * 5000}]", "line 2: a.b[1] is a number of 5000 digits, expected at most 4300"),
        ("? [1, 2]\n: 3", "line 1: found unhashable key"),
    ],
)
def test_what_is_no_mapping_is_refused_by_file_and_line(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    tracemalloc.start()
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read_mapping(path, "configuration")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
