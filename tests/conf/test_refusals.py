"""What a command says when Hydra or a dataclass refuses a word of it."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conf.app import options_first

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# Runs the commands given as JSON, one after the other, each with a run that does nothing; prints what each
# one writes to stderr, and the exit code.
MANY = """
import contextlib, io, json, sys
from conf.app import main
for words in json.loads(sys.argv[1]):
    name, *sys.argv[1:] = words
    text, code = io.StringIO(), 0
    with contextlib.redirect_stderr(text):
        try:
            main(name, "builtins:repr")
        except SystemExit as error:
            code = 1 if isinstance(error.code, str) else error.code
            text.write(error.code if isinstance(error.code, str) else "")  # as Python itself ends with a text
    print(json.dumps([code, text.getvalue().strip()]))
"""


def answers(folder, *commands):
    script = [sys.executable, "-c", MANY, json.dumps(commands)]
    variables = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(script, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


DATA = "expected one of cifar10, digits, fashion_mnist, folder, imagefolder, imagenet"
LONG, CLIPPED = "1" * 5000, f"'{'1' * 27}...{'1' * 28}'"
DIGITS = "a number of 5000 digits, expected at most 4300"
REFUSED = {
    "search budget.children=2 window=1 strategy=nan": "strategy=nan: expected one of controller, evolution, "
    "prim_skip, random",
    "search +evaluator._target_=a.b +evaluator.mode=nan": "evaluator.mode = nan, must be finite, or null; "
    "for the text type \"'nan'\"",
    "search +evaluator._target_=a.b evaluator.seconds=1": "evaluator.seconds: no such key; to add it to "
    "evaluator type +evaluator.seconds=…",
    "search child.stop_below.5=0.4": "child.stop_below.5: no such key; to add it to child.stop_below type "
    "+child.stop_below.5=…",
    "search evaluator=5": "evaluator = 5, expected recorded, or _target_ and arguments: docs/search.md",
    "classification recipe.lrr=0.1": "recipe.lrr: no such key; did you mean recipe.lr?",
    "classification data=digits +recipe.lrr=0.1": "recipe.lrr: no such key; did you mean recipe.lr?",
    "classification data=digits ++recipe.lrr=0.1": "recipe.lrr: no such key; did you mean recipe.lr?",
    "classification data=digits +recipe.ema.decay=1": "recipe.ema: no such key; did you mean "
    "recipe.ema_decay?",
    "classification 'recipe={lrr:1}'": "recipe.lrr: no such key; did you mean recipe.lr?",
    "classification recipes.lr=1": "recipes.lr: no such key; did you mean recipe.lr, recipe, "
    "recipe.lr_decay?",
    "classification recipe.lr.x=0.1": "recipe.lr.x: no such key; recipe.lr is a number",
    "classification recipe.epochs.x=1": "recipe.epochs.x: no such key; recipe.epochs is a whole number",
    "classification data=digits 'data.mean={a:1}'": "data.mean = {a:1}: expected a list, such as "
    "data.mean=[0.5,0.5]",
    "classification data=digits data.mean.x=1": "data.mean.x: no such key; data.mean is a list",
    "classification lr=0.1": "lr: no such key; did you mean recipe.lr?",
    "pipeline trainer.device=cpu": "trainer.device: no such key; did you mean "
    "classification.trainer.device, detection.trainer.device, search.child.device?",
    "pipeline +detection.recipe.step=3": "detection.recipe.step: no such key; did you mean "
    "detection.recipe.steps?",
    "classification +q=1": "q: no such key; the configuration has seed, run_dir, data, backbone, init, "
    "continues, recipe, trainer, logger, validate_every_epochs, eval_batch_size",
    "classification data=digits +recipe.lr=0.1": "recipe.lr is a key already: leave out the +",
    "classification recipe.lr=abc": "recipe.lr = abc: expected a number",
    "classification recipe.lr=null": "recipe.lr = null: expected a number",
    "classification recipe.epochs=1.5": "recipe.epochs = 1.5: expected a whole number",
    "classification recipe.epochs=1 recipe.epochs=1e8": "recipe.epochs = 1e8: expected a whole number",
    "classification recipe.epochs=x recipe.epochs=1": "recipe.epochs = x: expected a whole number",
    "classification data=digits data.flip=maybe": "data.flip = maybe: expected true or false",
    "classification data=digits data.mean=0.5": "data.mean = 0.5: expected a list, such as "
    "data.mean=[0.5,0.5]",
    "classification data=digits data.mean=[a]": "data.mean[0] = a: expected a number",
    "classification -m data=digits recipe.lr=0.1,abc": "job 1 (data=digits recipe.lr=abc): recipe.lr = abc: "
    "expected a number",
    "classification data=digits -m recipe.lr=abc recipe.epochs=1,2": "job 0 (data=digits recipe.lr=abc "
    "recipe.epochs=1): recipe.lr = abc: expected a number",
    "classification data=coco": f"data=coco: {DATA}",
    "classification data=digit": f"data=digit: {DATA}",
    "classification data=null": f"data=null: {DATA}",
    "classification data.root=/x data=scenes": f"data=scenes: {DATA}",
    "detection data=digits": "data=digits: expected one of coco, folder, labelled_folder, scenes",
    "detection backbone=nasnet_a_mobile": "backbone=nasnet_a_mobile: backbone is no choice of "
    "detection; type backbone.name=nasnet_a_mobile",
    "detection backbone=b.safetensors data=scenes": "backbone=b.safetensors: backbone is no "
    "choice of detection; type backbone.weights=b.safetensors",
    "detection backbones=x": "backbones: no such key; did you mean backbone?",
    "detection trainers=x": "trainers: no such key; did you mean trainer?",
    "detection backbone.name=nasnet_a_mobile recipe.epochs=3": "recipe.epochs = 3, recipe.steps = 90000: "
    "give exactly one; to train by epochs set recipe.steps=null",
    "detection recipe=modern": "recipe=modern: expected one of detectron2_1x, nasnet_coco",
    "pipeline data@detection.data=digits": "data@detection.data=digits: expected one of "
    "coco, labelled_folder, scenes",
    "search 'executor=[1]'": "executor=[1]: expected one of inline, process, ray",
    "search data=digits 'strategy={name:ppo}'": "strategy.name = 'ppo', expected one of controller",
    "classification logger@logger2=csv": "Could not override 'logger@logger2'.\nDid you mean to override "
    "logger?",
    "classification data=digits 'data.root=${HOME}/x'": "data.root = ${HOME}/x: Interpolation key 'HOME' not "
    "found",
    "classification 'run_dir=${HOME}/x'": "run_dir = ${HOME}/x: Interpolation key 'HOME' not found",
    "classification_evaluate data=digits": "weights is not set and has no default",
    "search_rerank top=3": "dir is not set and has no default",
    "search_rerank dir=. +recipe.lr=3": "recipe: no such key; the configuration has dir, run_dir, top, by, "
    "cost, sizes, latency, seeds, child, budget, executor",
    f"search data=digits seed={LONG}": f"seed = {CLIPPED}: {DIGITS}",
    f"search data=digits -m seed={LONG},1": f"seed = '{'1' * 27}...{'1' * 26},1': {DIGITS}",
    f"search 'child.stop_below={{{LONG}: 0.4}}'": f"child.stop_below = '{{{'1' * 26}...{'1' * 22}: 0.4}}': "
    f"{DIGITS}",
    "classification recipe": "recipe: expected key=value, such as run_dir=DIR",
}


def test_a_refused_word_is_answered_with_what_to_type_and_without_hydras_hint(tmp_path):
    given = answers(tmp_path, *(shlex.split(command) for command in REFUSED))
    assert dict(zip(REFUSED, given, strict=True)) == {
        command: [1, message] for command, message in REFUSED.items()
    }


# PyYAML and libyaml, which the next Hydra reads with, word it differently.
NO_NODE = r"(expected the node content, but found '<stream end>'|did not find expected node content)"
OWN_FILES = {
    "broken": (b"a: [\n", f"{{path}}: line 2: not YAML: {NO_NODE}"),
    "twice": (b"root: a\nroot: b\n", "{path}: line 2: not YAML: found duplicate key root"),
    "latin": (b"root: caf\xe9\n", "a configuration file is not UTF-8: invalid continuation byte, in .*caf.*"),
    "list": (
        b"- a\n",
        "In 'data/list': ValidationError raised while composing config:\nInvalid type assigned: list is not "
        r"a subclass of ImageDataConfig. value: \['a'\]",
    ),
    "base": (b"defaults: [nothing]\n", "In 'data/base': Could not load 'data/nothing'."),
}


def test_what_is_wrong_with_a_file_of_the_users_own_configurations_is_told(tmp_path):
    folder = tmp_path / "own" / "data"
    folder.mkdir(parents=True)
    for name, (content, _) in OWN_FILES.items():
        (folder / f"{name}.yaml").write_bytes(content)
    commands = [["classification", "--config-dir", "own", f"data={name}"] for name in OWN_FILES]
    given = answers(tmp_path, *commands)
    for (code, message), (name, (_, told)) in zip(given, OWN_FILES.items(), strict=True):
        assert code == 1
        assert re.fullmatch(told.replace("{path}", f"{folder / name}.yaml"), message.rstrip()), message


@pytest.mark.parametrize(
    "value",
    ["/my data (1)/x=y", '/a "b" c)', "C:\\new (2)", "/data/run[1", "/a,b", "/Bilder/2024: Käfer & Co."],
)
def test_the_quoted_form_that_is_shown_arrives_as_it_was_meant(value, tmp_path):
    ((code, message),) = answers(tmp_path, ["classification", f"data.root={value}"])
    assert code == 1
    assert message.startswith(f"data.root = {value}: ")
    shown = re.search(r" type (.*?)(, for a list .*)?$", message)
    (word,) = shlex.split(shown[1])
    config = "import sys, conf.compose as c; print(c.composed('classification', sys.argv[1]).data.root)"
    done = subprocess.check_output([sys.executable, "-c", config, word], cwd=REPOSITORY, text=True)
    assert done.rstrip("\n") == value


@pytest.mark.parametrize("value", ["[0.5, 0.4, 0.3]", "[0.5, 0.4 , 0.3 ]"])
def test_a_list_that_the_shell_has_split_is_shown_with_the_shells_quotes(value, tmp_path):
    words = f"data.mean={value}".split()
    ((code, message),) = answers(tmp_path, ["classification", "data=digits", *words, "seed=1"])
    whole = " ".join(words)
    assert (code, message) == (
        1,
        f"{whole}: the shell has split the value at its blanks; type '{whole}'",
    )


def test_options_may_stand_anywhere():
    words = [
        "data=digits",
        "-m",
        "recipe.lr=0.1,0.2",
        "--cfg",
        "job",
        "seed=1",
        "-i",
        "logger=csv",
        "-cn=a",
    ]
    assert options_first(words) == [
        *("-m", "--cfg", "job", "-i", "all", "-cn=a"),
        *("data=digits", "recipe.lr=0.1,0.2", "seed=1", "logger=csv"),
    ]
    assert options_first(["--info", "config", "seed=1"]) == ["--info", "config", "seed=1"]


def test_a_key_with_dashes_is_answered_with_the_key_without(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "classification", "data=digits", "--recipe.lr=0.1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    said = "--recipe.lr: keys take no dashes; type recipe.lr=0.1"
    assert (done.returncode, done.stderr.strip()) == (1, said)


def test_free_dictionaries_and_hydras_own_keys_may_have_any_key(tmp_path):
    free = [
        ["search", "data=digits", "+evaluator={_target_:builtins.dict,anything:1}", "logger=none"],
        ["classification", "data=digits", "+hydra.anything=1"],
        ["classification", "data=digits", "++hydra.job.env_set.ANYTHING=1", "recipe=modern"],
    ]
    assert [code for code, _ in answers(tmp_path, *free)] == [0, 0, 0]


def sweep(folder, *words):
    """Exit code and lines of a sweep of the classifier's."""
    command = [sys.executable, "-um", "classification", "-m", f"hydra.sweep.dir={folder}", "logger=none"]
    done = subprocess.run(
        [*command, "data=digits", *words],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout.splitlines()


def test_a_sweep_reports_each_failed_job_once_and_counts_them_at_the_end(tmp_path):
    code, lines = sweep(tmp_path, "backbone=genotype", "backbone.name=a.json,b.json")
    fails = [
        f"job {n} (logger=none data=digits backbone=genotype backbone.name={name}.json) failed: "
        f"{name}.json: no such genotype file"
        for n, name in enumerate("ab")
    ]
    begun = [next(i for i, line in enumerate(lines) if f"\t#{n} : " in line) for n in (0, 1)]
    end = f"2 jobs failed, as {tmp_path / 'failed.txt'} says; see above for 0, 1"
    assert [code, lines[-1]] == [1, end]
    assert begun[0] < lines.index(fails[0]) < begun[1] < lines.index(fails[1]) == len(lines) - 2
    assert [lines.count(line) for line in fails] == [1, 1]
    assert not (tmp_path / "0").exists()  # refused before it began, so no folder is named
    assert not any("Error executing job" in line for line in lines)
    assert (tmp_path / "failed.txt").read_text().splitlines() == fails


def test_a_sweep_in_the_folder_of_another_lists_its_own_failures_alone(tmp_path):
    for epochs in ("-1,-2", "-3,-4"):
        code, lines = sweep(tmp_path, f"recipe.epochs={epochs}")
        assert (code, lines[-1].partition(",")[0]) == (1, "2 jobs failed")
        for line, value in zip(
            (tmp_path / "failed.txt").read_text().splitlines(), epochs.split(","), strict=True
        ):
            assert line.endswith(f": recipe.epochs = {value}, must be at least 1")
