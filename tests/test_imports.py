import ast
import graphlib
import importlib
import re
import sys
from pathlib import Path

import pytest

import backbones

REPOSITORY = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "backbones": set(),
    "runtime": {"backbones"},
    "classification": {"backbones", "runtime"},
    "search": {"backbones", "runtime", "classification"},
    "detection": {"backbones", "runtime", "classification"},
    "pipeline": {"backbones", "runtime", "classification", "search", "detection"},
    "conf": {"backbones", "runtime", "classification", "search", "detection", "pipeline"},
}
# Optional dependencies, and the files that import each.
OPTIONAL = {
    "sklearn": ("classification/data.py", "search/table/surrogate.py"),
    "timm": ("backbones/timm_models.py", "backbones/timm_backbone.py", "backbones/timm_resnet_cifar.py"),
    "huggingface_hub": ("backbones/timm_backbone.py",),
    "ray": ("search/executors/ray_cluster.py", "search/executors/ray_connection.py"),
    "onnx": ("backbones/onnx_graph.py",),
    "onnxruntime": ("backbones/runtimes.py",),
    "openvino": ("backbones/runtimes.py",),
    "av": ("runtime/video.py",),
    "nncf": ("backbones/int8.py",),
    "detectron2": ("detection/engines/detectron2_parts.py",),
    "supervision": ("detection/detector.py",),
}


def guarded(node: ast.AST) -> bool:
    """`if __name__ == "__main__":`, where a command may start Hydra."""
    return isinstance(node, ast.If) and "__main__" in ast.dump(node.test)


def imported_names(path: Path) -> set[str]:
    """What a file imports anywhere but under its main guard: `a.b` and `a.b.c` of `from a.b import c`."""
    pending: list[ast.AST] = list(ast.parse(path.read_text()).body)
    found = set()
    while pending:
        node = pending.pop()
        if guarded(node):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        pending += ast.iter_child_nodes(node)
    return found


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere but under its main guard."""
    return {name.split(".")[0] for name in imported_names(path)}


def files(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def module(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for package in MAY_IMPORT for path in files(package)}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_between_packages_run_one_way(package):
    allowed = MAY_IMPORT[package] | {package}
    for path in files(package):
        if path.name != "__main__.py":
            ours = imported(path) & {*MAY_IMPORT, "benchmarks"}
            assert ours <= allowed, f"{path.relative_to(REPOSITORY)} imports {sorted(ours - allowed)}"


def test_no_files_import_each_other_in_a_circle():
    """Imports in functions and for the type checker count, too; the strings of `Builds` do not.

    A package's file is no part of a circle: what stands in it runs before, and names its modules lazily."""
    graph = {
        name: {other for other in imported_names(path) & set(MODULES) if MODULES[other].name != "__init__.py"}
        for name, path in MODULES.items()
        if path.name != "__init__.py"
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


LAYERS = {
    "detection": (
        {"formats"},
        {"data", "model"},
        {"engines"},
        {"detector"},
        {"evaluation"},
        {"training", "deployment"},
        {"train"},
    ),
    "search": (
        {"space", "messages", "config", "naming", "chance"},
        {"children", "latency"},
        {"executors", "strategies", "ledger"},
        {"clock", "budget", "admission", "objective", "pareto", "rank_agreement", "estimate", "snapshot"},
        {"progress"},
        {"loop"},
    ),
}
"""From below; what is not named is a command, on top."""


@pytest.mark.parametrize("package", LAYERS)
def test_imports_inside_a_package_run_downwards(package):
    def layer(name: str) -> int:
        _, part, *rest = name.split(".")
        if rest == ["config"] and package == "search":  # imports nothing of the package, so all may read it
            return 0
        return next((level for level, parts in enumerate(LAYERS[package]) if part in parts), 9)

    for name, path in MODULES.items():
        if name.startswith(f"{package}."):
            for other in imported_names(path) & set(MODULES):
                if other.startswith(f"{package}."):
                    assert layer(other) <= layer(name), f"{name} imports {other}"


def test_the_console_command_imports_the_standard_library_alone():
    assert imported(REPOSITORY / "celltransfer.py") <= sys.stdlib_module_names


def test_only_conf_sees_hydra():
    for package in MAY_IMPORT:
        for path in files(package):
            if package != "conf":
                assert not imported(path) & {"hydra", "omegaconf"}, path.relative_to(REPOSITORY)


def test_optional_dependencies_are_imported_in_the_files_named():
    for package in MAY_IMPORT:
        for path in files(package):
            name = str(path.relative_to(REPOSITORY))
            for dependency in imported(path) & set(OPTIONAL):
                assert name in OPTIONAL[dependency], f"{name} imports {dependency}"


def test_no_public_name_of_the_backbones_hides_a_module():
    modules = {path.stem for path in files("backbones")}
    assert not modules & set(backbones.__all__)


def test_every_public_name_of_the_backbones_is_found_in_its_module():
    homes = {name: home for home, names in backbones._HOMES.items() for name in names}
    assert sorted(homes) == sorted(backbones.__all__)
    for name, home in homes.items():
        module = importlib.import_module(f"backbones.{home}")
        assert getattr(backbones, name) is getattr(module, name)
        assert getattr(backbones, home) is module
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        backbones.nothing  # noqa: B018


def test_one_module_opens_image_files_and_none_unpickles():
    """Pillow guesses formats, some of which start other programs; a pickle runs what it likes."""
    sources = {
        path.relative_to(REPOSITORY).as_posix(): path.read_text()
        for package in MAY_IMPORT
        for path in (REPOSITORY / package).rglob("*.py")
    }
    assert [name for name, text in sources.items() if "Image.open(" in text] == ["runtime/pictures.py"]
    assert [name for name, text in sources.items() if re.search(r"\.Unpickler|pickle\.loads?\b", text)] == []
