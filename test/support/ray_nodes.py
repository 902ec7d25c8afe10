"""A Ray cluster on this machine, started with patience: Ray itself waits for 30 s, busy or not."""

from collections.abc import Callable
import contextlib
from functools import partial
import os
from typing import Any

from ray.cluster_utils import Cluster

NODE = {'num_cpus': 1, 'include_dashboard': False, 'object_store_memory': 80 << 20}


def started(**head: object) -> Cluster:
    os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
    return _patient(partial(Cluster, initialize_head=True, head_node_args={**NODE, **head}))


def added(cluster: Cluster) -> Any:
    return _patient(partial(cluster.add_node, **NODE))


def _patient(start: Callable[[], Any]) -> Any:
    for _ in range(3):
        with contextlib.suppress(Exception):
            return start()
    return start()
