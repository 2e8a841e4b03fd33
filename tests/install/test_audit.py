"""What `make audit` says of pip-audit's answers."""

import json
import sys

import pytest

from tests.conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "requirements"))

from audit import verdict

FINE = {"name": "numpy", "version": "2.4.6", "vulns": []}
ILL = {"name": "jinja2", "version": "3.1.5", "vulns": [{"id": "CVE-1", "fix_versions": ["3.1.6"]}]}
SKIPPED = {"name": "six", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "text"),
    [
        ([FINE], 0, "1 of 1 packages audited, vulnerabilities: 0"),
        (
            [FINE, ILL],
            1,
            "jinja2 3.1.5: CVE-1, fixed in ['3.1.6']\n2 of 2 packages audited, vulnerabilities: 1",
        ),
        ([FINE, SKIPPED], 1, "six was not audited: not found\n1 of 2 packages audited, vulnerabilities: 0"),
        ([SKIPPED, SKIPPED], 1, "Nothing was audited: not found"),
        ([], 1, "Nothing was audited: no answer"),
    ],
)
def test_only_audited_packages_count(packages, code, text):
    assert verdict(json.dumps({"dependencies": packages, "fixes": []}), "") == (code, text)


def test_where_it_stops_its_last_line_is_shown():
    stopped = (1, "Nothing was audited: six: no such page")
    assert verdict("", "Traceback\nERROR:pip_audit._cli:six: no such page\n") == stopped
