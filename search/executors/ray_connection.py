"""A driver's connection to a Ray cluster: it joins, takes code and evaluator along, and sees the nodes."""

import logging
import os
import signal
import socket
import sys
import threading
from typing import Any

import ray

from backbones.ranges import KEY, ConfigError
from celltransfer import ROOT
from search.executors.room import Node
from search.messages import OpenEvaluator

CONNECT_SECONDS = 10.0


def connect(address: str) -> bool:
    """Joins the cluster as a driver; False if this process has done so. Raises ConfigError if it cannot."""
    if ray.is_initialized():
        return False
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address != "auto":  # Ray asks for minutes where nobody answers
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_own_path())}},
        )
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        start = "ray start --head" if address == "auto" else f"ray start --address={address}"
        raise ConfigError(
            f"{KEY}executor.address = {address}: no Ray cluster ({error}); make this machine a node: {start}"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's would end this process without a word
    return True


def _own_path() -> list[str]:
    """Where the nodes find the code of this process: what it searches besides the installed packages."""
    installed = (sys.prefix, sys.base_prefix)
    own = [path for path in map(os.path.abspath, sys.path) if not path.startswith(installed)]
    return list(dict.fromkeys([str(ROOT), *own]))


def alive_nodes() -> dict[str, Node]:
    return {
        node["NodeID"]: Node(node["NodeManagerAddress"], node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    }


def stored(open_evaluator: OpenEvaluator) -> Any:
    """Pickles once what every actor gets."""
    try:
        return ray.put(open_evaluator)
    except TypeError as error:
        raise ConfigError(f"{KEY}executor = ray: the evaluator cannot be pickled: {error}") from None
