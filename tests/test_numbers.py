"""Numbers of the commands that argparse reads are refused by one rule, before anything is read."""

import pytest
from commands import run_here

REFUSED = {
    "detection.predict w i --json --min-score nan": "--min-score: nan, must be a number in 0..1",
    "detection.predict w i --json --min-score 1.1": "--min-score: 1.1, must be a number in 0..1",
    "detection.predict w i --json --min-score x": "--min-score: x, must be a number in 0..1",
    "classification.predict w i --top 0": "--top: 0, must be at least 1",
    "classification.predict w i --batch-size 1.5": "--batch-size: 1.5, must be a whole number",
    "classification.check_data d --workers -1": "--workers: -1, must be in 0..1024",
    "classification.check_data d --names 0": "--names: 0, must be at least 1",
    "detection.check_data a i --workers 9999": "--workers: 9999, must be in 0..1024",
    "detection.split a --output o --minival 0": "--minival: 0, must be at least 1",
    "detection.split a --output o --minival 1 --seed 1e9": "--seed: 1e9, must be a whole number",
    f"detection.split a --output o --minival {2**63}": f"--minival: {2**63}, must be at most {2**63 - 1}",
    f"detection.split a --output o --minival 1 --seed {'9' * 5000}": "must be a whole number",
    "detection.speed w --size 16 64": "--size: 16, must be in 32..10000",
    "detection.profile --name n --detector torchvision_fpn --classes 0": "--classes: 0, must be at least 1",
    "search.replay d -- -1": "child: -1, must be at least 0",
    "backbones profile nasnet_a_cifar --filters -4": "--filters: -4, must be at least 1",
    "backbones export w --format onnx --image-size 0": "--image-size: 0, must be at least 1",
}


@pytest.mark.parametrize("command", REFUSED)
def test_a_number_out_of_range_is_refused_before_anything_is_read(command, tmp_path):
    done = run_here(*command.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{REFUSED[command]}\n")
