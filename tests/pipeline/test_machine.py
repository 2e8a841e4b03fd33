"""Detectors on one machine by AP and milliseconds: `python -m pipeline.machine`."""

import json
import re
import shutil
from pathlib import Path

import pytest

from backbones.config import BackboneConfig
from backbones.ranges import ConfigError
from conf.compose import composed
from pipeline.machine import run as machine
from pipeline.machine.page import mark_front, table, write_page
from pipeline.machine.points import points, spread

SMALL = (
    *("data=digits", "data@detection.data=scenes", "logger=none", "search.latency.engine=torch"),
    *("search.latency.height=32", "search.latency.width=32", "search.latency.calibration=8"),
    *("search.budget.children=2", "search.window=1", "search.child.epochs=1", "search.child.filters=8"),
    *("search.child.image_size=8", "search.child.batch_size=48", "data.train_limit=200"),
    *("rerank.top=1", "rerank.child.epochs=1", "rerank.sizes.filters=[8,12]", "cells=2"),
    *("baselines=[{name:nasnet_a_mobile,filters:8}]", "classification.recipe.epochs=1"),
    *("classification.backbone.image_size=32", "detection.recipe.steps=2", "detection.recipe.warmup_steps=1"),
    *("detection.data.train_scenes=8", "detection.data.val_scenes=4"),
)


def config(run_dir, *words):
    return composed("pipeline_machine", "experiment=own_machine", f"run_dir={run_dir}", *SMALL, *words)


def test_baselines_are_networks_with_the_sizes_of_the_template(tmp_path):
    found = config(tmp_path, "baselines=[{name:timm/resnet18},{name:nasnet_a_mobile,filters:40}]")
    resnet, nasnet = (found.baseline(number) for number in range(2))
    assert resnet == BackboneConfig(name="timm/resnet18", image_size=32, batch_norm_momentum=0.1)
    assert (nasnet.filters, nasnet.cells_per_stage, nasnet.padding) == (40, 1, "symmetric")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["baselines=[5]"], r"baselines\.0 = 5, expected name and others of cells_per_stage"),
        (["baselines=[{filters:8}]"], r"baselines\.0 = .*, expected name"),
        (["baselines=[{name:nasnet_a_mobile,width:8}]"], r"baselines\.0 = .*width.*, expected name"),
        (["baselines=[{name:nasnet_a_mobile,filters:0}]"], r"baselines\.0\.filters = 0, must be at least 1"),
        (["rerank.cost=parameters"], r"rerank\.by and rerank\.cost must be pareto and latency_ms"),
        (
            ["classification.backbone.stem_filters=16"],
            r"search\.latency\.stem_filters = 32, but classification\.backbone\.stem_filters = 16",
        ),
        (["cells=0"], r"cells = 0, must be at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, words, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        config(tmp_path, *words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("baselines=[{name:nosuch}]", r"baselines\.0\.name: unknown network 'nosuch'"),
        ("classification.backbone.filters=10", r"filters = 10"),
        ("detection.trainer.device=cuda:7", r"detection\.trainer\.device = 'cuda:7'"),
    ],
)
def test_faults_of_later_parts_are_found_before_the_search(tmp_path, word, message):
    with pytest.raises((ConfigError, OSError), match=message):
        machine.run(config(tmp_path / "run", word, "baselines=[]" if "baselines" not in word else word))
    assert not (tmp_path / "run/search").exists()


def test_the_front_is_spread_by_place_with_its_ends():
    entries = [{"latency_ms": i} for i in range(10)]
    assert [each["latency_ms"] for each in spread(entries, 4)] == [0, 3, 6, 9]
    assert spread(entries, 1) == entries[-1:]
    assert spread(entries[:3], 4) == entries[:3]


def entry(name, ms, ap, **more):
    metrics = {"AP": ap, "AP50": ap} if ap is not None else {}
    return {
        "name": name,
        "folder": f"networks/{name}",
        "backbone": {"name": name},
        "searched": None,
        "ms": ms,
        "quartiles": [ms - 1, ms + 1],
        "metrics": metrics,
        "per_class": {"<cell>": 0.1},
        "costs": {"parameters": 5_000_000, "multiply_adds": 1e9},
        "images": 9,
        "steps": 2,
        "file": "detector.xml",
        "sha256": "0" * 64,
        "weights": f"a folder/{name}/detector.safetensors",
        **more,
    }


def test_table_page_and_cards_show_the_front_and_escape_names(tmp_path):
    entries = [
        entry("slow", 30, 0.5),
        entry("fast", 10, 0.4),
        entry("worse", 20, 0.3),
        entry("none", 5, None),
    ]
    mark_front(entries)
    assert [each["front"] for each in entries] == [True, True, False, False]
    for each in entries:
        (tmp_path / each["folder"]).mkdir(parents=True)
    (tmp_path / "search").mkdir()
    (tmp_path / "search/command.txt").write_text("python -m pipeline.machine 'data.root=a b'\n")
    page = write_page(tmp_path, entries, "medians, <1 thread>", "a processor").read_text()
    assert "medians, &lt;1 thread&gt;" in page
    rows = page[page.index("<table") :]
    assert rows.index(">none<") < rows.index(">fast<") < rows.index(">worse<") < rows.index(">slow<")
    marks = set(re.findall(r'<text class="mark"[^>]*>([^<]*)<', page))
    assert marks == {"slow", "fast"}
    card = (tmp_path / "networks/fast/README.md").read_text()
    assert "AP, AP50 | 40.0 %, 40.0 % on 9 validation images" in card
    assert "'a folder/fast/detector.safetensors' IMAGES" in card
    train = f"rm -r {tmp_path}/networks/fast\npython -m pipeline.machine 'data.root=a b' run_dir={tmp_path}\n"
    assert f"```sh\n{train}```" in card
    assert table(entries).row_count == 4


@pytest.mark.slow
def test_a_comparison_from_the_search_to_the_page(tmp_path):
    asked = config(tmp_path / "run")
    content = machine.run(asked)
    names = [point.name for point in points(asked)]
    assert [each["name"] for each in content["networks"]] == names
    assert names[-1] == "nasnet_a_mobile (1 x 8)"
    assert 2 <= len(names) <= 3
    for each in content["networks"]:
        assert each["ms"] > 0
        assert Path(each["weights"]).is_file()
        assert (tmp_path / "run" / each["folder"] / "README.md").is_file()
    assert (tmp_path / "run/machine.html").is_file()
    times = json.loads((tmp_path / "run/times.json").read_text())
    assert machine.run(asked) == content  # nothing is trained or timed again
    assert json.loads((tmp_path / "run/times.json").read_text()) == times
    first = content["networks"][0]
    shutil.rmtree(tmp_path / "run" / first["folder"])  # as its card says
    again = machine.run(asked)["networks"]
    assert [each["metrics"] for each in again] == [each["metrics"] for each in content["networks"]]
    assert Path(first["weights"]).is_file()
