import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_of_a_document_leads_to_a_file(document):
    links = re.findall(r"\]\(([^)#]+)", document.read_text())
    for link in links:
        assert "://" in link or (document.parent / link).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_that_a_document_runs_is_there(document):
    for name in re.findall(r"python -m ([a-z][a-z0-9_.]*[a-z0-9])", document.read_text()):
        path = REPOSITORY.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_the_readme_has_no_placeholder():
    assert "@@" not in (REPOSITORY / "README.md").read_text()
