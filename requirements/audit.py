"""Known vulnerabilities of locked versions; exit code 1 where there are any, or the service does not answer.

python requirements/audit.py requirements/test.txt …

pip-audit ends with 0 where it could look up no package, so its answer is counted here.
"""

import json
import subprocess
import sys
from collections.abc import Sequence


def verdict(output: str, errors: str) -> tuple[int, str]:
    """The exit code and what to say of what pip-audit printed: JSON, or errors alone where it stopped."""
    try:
        packages = json.loads(output)["dependencies"]
    except ValueError:
        packages = []
    skipped = [package for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        reasons = [package["skip_reason"] for package in skipped] or errors.strip().splitlines()
        reason = reasons[-1].rpartition("pip_audit._cli:")[2] if reasons else "no answer"
        return 1, f"Nothing was audited: {reason}"
    found = [
        f"{package['name']} {package['version']}: {issue['id']}, fixed in {issue['fix_versions']}"
        for package in packages
        for issue in package.get("vulns", [])
    ]
    missed = [f"{package['name']} was not audited: {package['skip_reason']}" for package in skipped]
    count = (
        f"{len(packages) - len(skipped)} of {len(packages)} packages audited, vulnerabilities: {len(found)}"
    )
    return int(bool(found or missed)), "\n".join([*found, *missed, count])


def main(files: Sequence[str]) -> int:
    requirements = [word for file in files for word in ("--requirement", file)]
    # Every version is in the file already: nothing has to be resolved, and nothing installed.
    options = ["--strict", "--disable-pip", "--require-hashes", "--format=json", "--progress-spinner=off"]
    command = [sys.executable, "-m", "pip_audit", *options, *requirements]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    code, text = verdict(answer.stdout, answer.stderr)
    print(text, file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
