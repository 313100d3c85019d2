"""The nodes of a replica: this one first, never fewer than asked for, and in what an error names."""

from __future__ import annotations

import pytest

from evalkit.cluster.failures import classify
from evalkit.cluster.job import JobInfo
from evalkit.cluster.nodes import replica_nodes
from evalkit.errors import ClusterError, FailureKind, ServerDiedError
from tests.unit.cluster.builders import make_cluster


def job(*nodes: str) -> JobInfo:
    """A job on these nodes."""
    return JobInfo("slurm", "1", None, 0, nodes, "host", None, None)


def test_this_node_is_first() -> None:
    """Whatever order Slurm lists them in; a replica of one node needs no names at all."""
    two = make_cluster(nodes=2)
    assert replica_nodes(two, job("a", "b"), {"SLURMD_NODENAME": "b"}) == ("b", "a")
    assert replica_nodes(two, job("a", "b"), {}) == ("a", "b")
    assert replica_nodes(make_cluster(), job("a"), {}) == ()


def test_too_few_nodes() -> None:
    """A run of two nodes that is started here and now is told so, and not tried again."""
    with pytest.raises(ClusterError, match="this job has 1") as caught:
        replica_nodes(make_cluster(nodes=2), job("a"), {})
    assert caught.value.kind is FailureKind.CONFIG


def test_a_failure_on_another_node() -> None:
    """A requeue leaves out the node that the error names, not the worker's."""
    assert classify(ServerDiedError("gone", node="b"), node="a").node == "b"
    assert classify(ServerDiedError("gone"), node="a").node == "a"
