"""Weights by name are fetched once, from a host as timm's, and refused in one line where there is none."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from backbones import load
from backbones.ranges import ConfigError
from runtime.named_weights import weights_file

timm = pytest.importorskip("timm")

NAME = "test_resnet.r160_in1k"
CLOSED = "http://127.0.0.1:9"
SCRIPT = f"import runtime.named_weights as n; print(n.weights_file('timm/{NAME}', 'init'))"


class Host(BaseHTTPRequestHandler):
    """Answers for one file of one repository as the host of timm's weights does."""

    content = b""

    def do_HEAD(self) -> None:
        there = self.path == f"/timm/{NAME}/resolve/main/model.safetensors"
        self.send_response(200 if there or self.path == "/" else 404)
        self.send_header("Content-Length", str(len(self.content) if there else 0))
        self.send_header("ETag", '"5a"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


def fetched(folder: Path, host: str) -> subprocess.CompletedProcess[str]:
    own = {"HF_ENDPOINT": host, "HF_HOME": str(folder / "hub"), "XDG_CACHE_HOME": str(folder / "cache")}
    environment = {**os.environ, **own, "HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, timeout=300
    )


def test_a_network_of_timm_is_fetched_once_with_its_weights(tmp_path):
    torch.manual_seed(1)
    network = timm.create_model(NAME).eval()
    Host.content = save(network.state_dict())
    with ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = fetched(tmp_path, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert done.returncode == 0, done.stderr
    path = tmp_path / "cache" / "celltransfer" / "weights" / f"timm-{NAME}.safetensors"
    assert done.stdout == f"{path}\n"
    images = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(load(path).eval()(images), network(images))
    assert fetched(tmp_path, CLOSED).stdout == done.stdout  # from the cache


@pytest.mark.slow
def test_without_the_host_it_is_refused_at_once_in_one_line(tmp_path):
    done = fetched(tmp_path, CLOSED)
    assert done.returncode == 1
    path = tmp_path / "cache" / "celltransfer" / "weights" / f"timm-{NAME}.safetensors"
    assert done.stderr.splitlines()[-1] == (
        f"OSError: the weights of timm's {NAME} cannot be had (they are not in its cache, and its host "
        f"cannot be reached): fetch them where there is a network, and copy {path} here"
    )
    assert "Retrying" not in done.stderr
    assert not path.exists()


def test_what_is_neither_a_file_nor_a_name_is_refused_and_files_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^init = cells: no such file; names of weights are timm/NAME, su"):
        weights_file("cells", "init")
    with pytest.raises(ValueError, match=r"timm knows no network 'resnet19': did you mean resnet18"):
        weights_file("timm/resnet19", "init")
    assert weights_file("no/such.safetensors", "init") == "no/such.safetensors"
    assert list(tmp_path.iterdir()) == []
