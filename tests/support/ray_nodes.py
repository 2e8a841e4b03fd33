"""A Ray cluster of this machine alone: each node is a tree of processes, ended by their ids."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

JOIN_SECONDS = 60


class Node:
    """`ray start` in the foreground. Nothing of it outlives `kill`."""

    def __init__(self, log: Path, *words: str, cpus: int, environment: Mapping[str, str]):
        """Returns when the node has joined. log: what the command prints."""
        command = [Path(sys.executable).with_name("ray"), "start", "--block", *words]
        command += [f"--num-cpus={cpus}", "--num-gpus=0", f"--object-store-memory={80 * 2**20}"]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*map(str, command), "--disable-usage-stats"],
                env={**os.environ, "RAY_memory_monitor_refresh_ms": "0", **environment},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        deadline = time.monotonic() + JOIN_SECONDS
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"no node of a Ray cluster: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As a machine that loses its power: all at once."""
        for pid in (*family(self._process.pid), self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


class Cluster:
    """A head without room for children; nodes are added and killed by name."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # sockets below it allow 107 characters
        self.address = f"127.0.0.1:{free_port()}"
        self._nodes: dict[str, Node] = {}
        watch = [sys.executable, __file__, self.folder, self.address]
        self._watch = subprocess.Popen(watch, stdin=subprocess.PIPE)
        port = self.address.partition(":")[2]
        head = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}")
        self._start("head", *head, cpus=0)

    def add(self, name: str, cpus: int, **environment: str) -> None:
        self._start(name, f"--address={self.address}", cpus=cpus, **environment)

    def _start(self, name: str, *words: str, cpus: int, **environment: str) -> None:
        log = Path(self.folder, f"{name}.log")
        self._nodes[name] = Node(log, *words, cpus=cpus, environment=environment)

    def kill(self, name: str) -> None:
        self._nodes.pop(name).kill()

    def close(self) -> None:
        for name in reversed([*self._nodes]):
            self.kill(name)
        self._watch.kill()
        self._watch.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self) -> list[int]:
        return with_words(self.folder, self.address)


def with_words(*words: str) -> list[int]:
    """What runs on this machine with one of these words in its command, besides this process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_text(errors="replace")
            if any(word in command for word in words) and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def family(pid: int) -> list[int]:
    """All processes below one, the youngest first."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    below = [child for child, parent in parents.items() if parent == pid]
    return [each for child in below for each in (*family(child), child)]


def free_port() -> int:
    """Below 10,000, where Ray takes the ports of its workers from."""
    for port in range(6380 + os.getpid() % 1000, 10_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port below 10,000")


if __name__ == "__main__":  # ends a cluster whose tests were killed
    sys.stdin.read()
    for each in with_words(*sys.argv[1:]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
