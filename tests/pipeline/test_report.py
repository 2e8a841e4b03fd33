"""What the page and the table of a run say, and what they say of a broken one."""

import io
import json
import re
import shutil
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console
from written_run import CLASSES, COCO, Page, read

from backbones.genotype import Genotype
from pipeline.report import main, write_report
from pipeline.summary import summary
from runtime.page import percent, short


def test_page_is_one_file_that_requests_nothing(run_dir):
    path = write_report(run_dir)
    page = Page(path.read_text())
    assert path == run_dir / "report.html"
    for tag, attrs in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for key in ("src", "href", "xlink:href", "data", "srcset", "action"):
            assert attrs.get(key, "#").startswith(("#", "data:"))
    assert all(url.startswith("data:") for url in re.findall(r"url\(([^)]*)\)", path.read_text()))
    assert "@import" not in path.read_text()


def test_anchors_lead_to_the_sections(run_dir):
    page = read(run_dir)
    targets = [attrs["href"][1:] for tag, attrs in page.elements if tag == "a"]
    assert targets == list(page.sections)


def test_drawings_are_well_formed(run_dir):
    drawings = re.findall(r"<svg.*?</svg>", write_report(run_dir).read_text(), re.DOTALL)
    for drawing in drawings:
        ET.fromstring(drawing)
    # chain across and down, two cells, rewards and accuracy each wide and narrow, confusion
    assert len(drawings) == 2 + 2 + 2 + 2 + 1


def test_pale_blocks_are_explained_where_there_are_any(run_dir):
    """Without state 3 in the output nothing uses block 1."""
    path = run_dir / "search" / "genotype.json"
    shown = []
    for concat in ([2, 3], [2]):
        genotype = json.loads(path.read_text())
        for kind in ("normal", "reduction"):
            genotype[kind]["concat"] = concat
        path.write_text(json.dumps(genotype))
        page = write_report(run_dir).read_text()
        shown.append(("pale blocks" in page, 'class="block dead"' in page))
    assert shown == [(False, False), (True, True)]


def test_the_share_of_the_five_best_is_shown_where_there_are_more_classes(run_dir):
    path = run_dir / "classification" / "metrics.json"
    content = json.loads(path.read_text())
    shown = []
    for metrics in ({"top1": 0.96, "top5": 0.987, "loss": 0.1}, {"top1": 0.96, "loss": 0.1}):
        path.write_text(json.dumps(content | {"metrics": metrics}))
        output = io.StringIO()
        Console(width=400, file=output).print(summary(run_dir))
        texts = [output.getvalue(), read(run_dir).sections["classifier"]]
        shown.append([("top-5" in text, "98.7 %" in text) for text in texts])
    assert shown == [[(True, True)] * 2, [(False, False)] * 2]


def test_every_figure_is_shown_with_its_unit(run_dir):
    sections = read(run_dir).sections
    for text in ("children 3", "best reward 75.0 %", "mean reward 62.5 %", "failed 1"):
        assert text in sections["search"]
    for text in ("96.0 %", "100.0 %", "5.29 M", "564 M", "5,289,978", "94.0 %", "64 px"):
        assert text in sections["classifier"]
    for name, value in COCO.items():
        shown = "–" if name == "APl" else f"{100 * value:.1f} %"
        assert re.search(rf"\b{name} [^%–]* ?{shown}", sections["detector"]), name
    assert "25.0 %" in sections["detector"]
    assert "2.14.1" in sections["again"]


def test_names_from_outside_are_text(run_dir):
    page = read(run_dir)
    assert not [tag for tag, _ in page.elements if tag == "b"]
    assert CLASSES[0] in page.sections["classifier"]
    assert CLASSES[1] in page.sections["detector"]
    assert "<i>s1</i>" in page.sections["cells"]
    assert any(box["title"] == f"{CLASSES[1]} (crowd region)" for box in page.having("box"))


@pytest.mark.parametrize(
    ("missing", "section", "says"),
    [
        ("search", "search", "search/ is not there"),
        ("classification", "classifier", "classification/ is not there"),
        ("detection", "detector", "detection/ is not there"),
        ("search/genotype.json", "cells", "genotype.json is missing"),
        ("search/search.sqlite", "search", "search.sqlite: no such ledger"),
        ("search/metrics.json", "search", "metrics.json: no such metrics file"),
        ("classification/backbone.safetensors", "classifier", "backbone.safetensors: no such backbone file"),
        ("detection/predictions.json", "detector", "predictions.json: no such predictions file"),
        ("detection/config.yaml", "detector", "config.yaml: no such configuration file"),
        ("../data", "detector", "no such folder"),
        ("../data/val/1.png", "detector", "1.png"),
    ],
)
def test_section_says_what_is_missing(run_dir, missing, section, says):
    path = run_dir / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert says in read(run_dir).sections[section]


@pytest.mark.parametrize(
    "broken",
    [
        "search/genotype.json",
        "search/search.sqlite",
        "search/metrics.json",
        "classification/config.yaml",
        "classification/metrics.json",
        "classification/metrics.csv",
        "classification/backbone.safetensors",
        "classification/mistakes.json",
        "detection/config.yaml",
        "detection/predictions.json",
    ],
)
def test_broken_file_is_named_and_the_rest_is_shown(run_dir, broken):
    (run_dir / broken).write_bytes(b"step,test/top1\n[1, {\xff")
    page = read(run_dir)
    assert broken.split("/")[1] in " ".join(
        page.sections[name] for name in ("search", "classifier", "detector")
    )
    assert sum("note" in attrs.get("class", "") for _, attrs in page.elements) >= 1


@pytest.mark.parametrize(
    ("name", "section"), [("classification/versions.json", "classifier"), ("command.txt", "search")]
)
def test_files_beside_the_figures_may_be_broken_too(run_dir, name, section):
    for content in (b"[1]\xff", b"[1]"):
        (run_dir / name).write_bytes(content)
        text = read(run_dir).sections[section]
        readable = name == "command.txt" and content == b"[1]"
        assert (name.split("/")[-1] in text) != readable


def test_folder_without_a_run_is_refused(tmp_path, capsys):
    with pytest.raises(
        FileNotFoundError, match="no pipeline run, expected search, classification, detection"
    ):
        write_report(tmp_path)
    assert main([str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert main([str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'absent'}: no such folder\n"


def test_command_line_prints_where_the_page_lies(run_dir, capsys):
    assert main([str(run_dir)]) == 0
    assert capsys.readouterr().out == f"{run_dir / 'report.html'}\n"


def test_commands_name_the_data_and_how_it_was_started(run_dir):
    (run_dir / "command.txt").write_text("python -m pipeline experiment=demo 'run_dir=a b'\n")
    text = read(run_dir).sections["again"]
    assert "python -m pipeline experiment=demo 'run_dir=a b'" in text
    command = text.split("without a model ")[1].split(" Look at")[0].split()
    assert command[:3] == ["python", "-m", "detection.evaluate"]
    assert set(command[3:]) == {
        f"predictions={run_dir / 'detection' / 'predictions.json'}",
        "data=coco",
        f"data.root={run_dir.parent / 'data'}",
        "data.val_images=val",
        "data.val_annotations=val.json",
    }


def test_summary_holds_the_key_figures_and_the_paths(run_dir):
    write_report(run_dir)
    output = io.StringIO()
    Console(width=400, file=output).print(summary(run_dir))
    text = output.getvalue()
    for shown in ("children 3, 1 failed", "best 75.0 %   mean 62.5 %", "top-1 96.0 %", "parameters 5.29 M"):
        assert shown in text
    for name, value in COCO.items():
        assert re.search(rf"\b{name} +{'–' if name == 'APl' else f'{100 * value:.1f} %'}", text), name
    for path in ("report.html", "search/genotype.json", "classification/backbone.safetensors"):
        assert f"{run_dir / path}" in text
    assert f"{run_dir / 'detection' / 'detector.safetensors'}" in text


def test_numbers_are_short_and_unknown_ones_a_dash():
    assert [short(n) for n in (None, 0, 999, 1000, 92_762, 5_289_978, 999_999, 23_783e6)] == [
        "–",
        "0",
        "999",
        "1 k",
        "92.8 k",
        "5.29 M",
        "1 M",
        "23.8 G",
    ]
    assert [percent(p) for p in (None, 0.0, 0.12345, 1.0)] == ["–", "0.0 %", "12.3 %", "100.0 %"]


def test_a_search_alone_has_a_page_of_its_own(run_dir):
    path = run_dir / "search" / "genotype.json"
    cells = Genotype.load(path)
    Genotype(cells.normal, cells.reduction, {"child": 7, "reward": 0.24305555555555555}).save(path)
    page = read(run_dir / "search")
    assert "child: 7, reward: 0.2431" in page.sections["cells"]
    assert list(page.sections) == ["cells", "search", "again"]
    assert [attrs["href"] for tag, attrs in page.elements if tag == "a"] == [
        f"#{key}" for key in page.sections
    ]
    assert not page.having("note")
    assert "best reward" in page.sections["search"]
    assert f"python -m pipeline.report {run_dir / 'search'}" in page.sections["again"]
