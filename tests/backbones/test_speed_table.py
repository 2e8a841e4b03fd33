"""What the speed commands measure, by models whose every look is known."""

import pytest
from PIL import Image
from speed_models import ending, large, noted

from backbones import processor
from backbones.speed_table import Speed, measure, short_names, synthetic
from backbones.timing import quartiles


def test_models_take_turns_on_the_same_pictures(tmp_path):
    pictures = [Image.new("RGB", (8, height)) for height in (1, 2, 3)]
    speeds = measure([noted(name, str(tmp_path / name)) for name in "ab"], pictures, 1, warm_up=1, rounds=4)
    assert [(speed.name, len(speed.milliseconds)) for speed in speeds] == [("a", 4), ("b", 4)]
    for name in "ab":  # in a process of its own each of them, then five rounds
        assert (tmp_path / name).read_text().split() == [f"{name}{h}" for h in (1, 2, 3, 1, 2, 3, 1, 2)]

    together = str(tmp_path / "together")
    measure([noted(name, together) for name in "ab"], pictures[:1], 1, warm_up=1, rounds=3)
    assert (tmp_path / "together").read_text().split()[2:] == ["a1", "b1", "b1", "a1", "a1", "b1", "b1", "a1"]


def test_the_memory_of_a_model_is_that_of_a_process_of_its_own():
    small, held = measure([large("small", 1), large("large", 200_000_000)], synthetic(8, 8), 1, 1, 1)
    assert 190e6 < held.peak_bytes - small.peak_bytes < 230e6


def test_a_process_that_ends_is_told_by_the_name_of_its_model():
    with pytest.raises(ValueError, match=r"^ending: the process that measured its memory was ended"):
        measure([ending("ending")], synthetic(8, 8), 1, 1, 1)


def test_ratios_are_of_pairs_in_a_round():
    first, other = (Speed("a", "x", "f32", times, None) for times in ([1.0, 100.0, 2.0], [2.0, 50.0, 1.0]))
    assert other.through(first) == 2
    assert first.quartiles == (1, 2, 100)
    assert quartiles([3.0]) == (3, 3, 3)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["d.onnx", "runs/d.onnx", "timm/resnet50"], ["d.onnx", "runs/d.onnx", "timm/resnet50"]),
        ([f"/home/{'joe' * 20}/d.onnx", "d.xml"], ["…/d.onnx", "d.xml"]),
        (
            [f"/home/{'joe' * 20}/{run}/d.onnx" for run in ("one", "two", "two")],  # in f32 and in bf16
            ["…/one/d.onnx", "…/two/d.onnx", "…/two/d.onnx"],
        ),
        ([f"runs/{'long' * 20}-name.onnx"], [f"…g{'long' * 7}-name.onnx"]),
        ([f"a/{'b' * 40}", f"./a/{'b' * 40}"], [f"…{'b' * 39}"] * 2),
    ],
)
def test_the_table_has_the_ends_by_which_long_paths_differ(names, shown):
    assert short_names(names) == shown


def test_synthetic_pictures_are_the_same_each_time_and_differ_from_one_another():
    pictures = [picture.tobytes() for picture in synthetic(40, 30)]
    assert pictures == [picture.tobytes() for picture in synthetic(40, 30)]
    assert len(set(pictures)) == len(pictures)
    assert synthetic(40, 30)[0].size == (30, 40)


@pytest.mark.parametrize(
    ("text", "name", "offered"),
    [
        (
            "processor\t: 0\nmodel name\t: A B\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_tile amx_bf16\n",
            "A B",
            {"AVX2": True, "AVX-512": True, "VNNI": True, "bf16": True, "AMX": True},
        ),
        (
            "processor\t: 0\nmodel name\t: C\nflags\t\t: fpu avx avx2 avx_vnni\n\nprocessor\t: 1\n",
            "C",
            {"AVX2": True, "AVX-512": False, "VNNI": True, "bf16": False, "AMX": False},
        ),
        (
            "processor\t: 0\nFeatures\t: fp asimd asimddp bf16\n",
            None,
            {"AVX2": False, "AVX-512": False, "VNNI": True, "bf16": True, "AMX": False},
        ),
        (None, None, None),
    ],
)
def test_what_a_processor_offers(tmp_path, monkeypatch, text, name, offered):
    information = tmp_path / "cpuinfo"
    if text is not None:
        information.write_text(text)
    monkeypatch.setattr(processor, "INFORMATION", information)
    assert processor.features() == offered
    if name is not None:
        assert processor.name() == name
    assert processor.name()
