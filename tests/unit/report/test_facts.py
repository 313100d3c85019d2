"""What attempts wrote down about their servers."""

from pathlib import Path

import orjson
import pytest

from evalkit.benchmarks.registry import make_benchmark
from evalkit.plan.build import plan_deployment
from evalkit.recipe.serving import ExternalServing, Price, VllmServing
from evalkit.report.facts import read_run_facts
from evalkit.report.findings import Findings
from evalkit.report.judging import bare_url, judge_facts
from evalkit.store.layout import RunFolder
from evalkit.store.records import CallRecord, Outcome, Reply, Timing, Usage
from tests.builders import make_plan
from tests.unit.report.test_rescore import planned


def write(folder: RunFolder, replica: str, attempt: int, *rows: object) -> None:
    """The server facts of one attempt."""
    path = folder.server_facts(replica, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))


def test_servers_come_by_replica_and_attempt(tmp_path: Path) -> None:
    """Numbers are sorted by value, and every server of an attempt is there."""
    folder = RunFolder(tmp_path)
    for replica, attempt in (("r10", 1), ("r2", 10), ("r2", 9)):
        write(folder, replica, attempt, {"n": 1}, {"n": 2})
    servers = read_run_facts(folder).servers
    order = [(s.replica, s.attempt, s.facts["n"]) for s in servers]
    assert order == [(r, a, n) for r, a in (("r2", 9), ("r2", 10), ("r10", 1)) for n in (1, 2)]


def test_nothing_written_is_nothing_known(tmp_path: Path) -> None:
    """A run without logs has no servers, no provenance and no GPU time; that is no problem."""
    facts = read_run_facts(RunFolder(tmp_path))
    assert (facts.made_by, facts.servers, facts.problems, facts.gpu_seconds) == (None, (), (), None)


def test_unreadable_facts_are_problems(tmp_path: Path) -> None:
    """A torn line and a wrong shape are named by file and line; the rest is read."""
    folder = RunFolder(tmp_path)
    write(folder, "r0", 1, {"n": 1}, ["not an object"])
    path = folder.server_facts("r0", 1)
    path.write_bytes(path.read_bytes() + b'{"n":')
    folder.provenance.write_text("[]")
    facts = read_run_facts(folder)
    assert [server.facts for server in facts.servers] == [{"n": 1}]
    assert [problem.split(": ")[0] for problem in facts.problems] == [
        "provenance.json",
        "logs/r0/attempt-1/server.json:2",
        "logs/r0/attempt-1/server.json:3",
    ]
    folder.provenance.write_text("{")
    assert read_run_facts(folder).made_by is None


GPUS = ["H100", "H100"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"gpus": GPUS, "started": 10.0, "ended": 15.0}], 10.0),
        ([{"gpus": GPUS, "started": 10.0, "ended": 15.0}, {"gpus": []}], 10.0),
        ([{"gpus": GPUS, "started": 10.0}, {"ended": 15.0}], 10.0),
        ([{"ended": 15.0}], None),
        ([{"gpus": [], "started": 10.0, "ended": 15.0}], None),
        ([{"gpus": GPUS, "started": 10.0, "ended": 15.0}, {"gpus": GPUS, "started": 0.0}], None),
        ([{"kind": "external"}], None),
    ],
)
def test_gpu_seconds_are_a_sum_or_unknown(
    tmp_path: Path, rows: list[dict[str, object]], expected: float | None
) -> None:
    """GPUs times seconds over all servers; one without an end makes the sum unknown."""
    folder = RunFolder(tmp_path)
    write(folder, "r0", 1, *rows)
    assert read_run_facts(folder).gpu_seconds == expected


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1"),
        (
            "https://me:secret@api.example.com:8443/v1?key=secret#x",
            "https://api.example.com:8443/v1",
        ),
    ],
)
def test_address_without_secrets(url: str, bare: str) -> None:
    """Whoever was asked is named; what lets one ask is not."""
    assert bare_url(url) == bare


def test_facts_of_a_served_judge(tmp_path: Path) -> None:
    """Its version and command line, and GPU time of its own, of all graders."""
    task = planned("hle", 1.0)
    assert task.judge is not None
    deployment = plan_deployment(VllmServing(), "j", "j", revision=None)
    task = task.model_copy(
        update={"judge": task.judge.model_copy(update={"deployment": deployment})}
    )
    benchmark = make_benchmark("hle", {}, "card")
    findings = Findings.of(RunFolder(tmp_path), make_plan(), task, benchmark)
    rows = [
        {"kind": "vllm", "version": "0.11", "argv": ["vllm"], "gpus": ["a", "b"], "started": 1.0},
        {"ended": 11.0},
    ]
    path = findings.place.server_facts("r900", 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    problems: list[str] = []
    facts = judge_facts(task, findings, problems)
    assert facts is not None
    assert (facts.kind, facts.url, facts.gpu_seconds, problems) == ("served", None, 20.0, [])
    assert facts.servers[0].facts["version"] == "0.11"


def test_what_a_judge_costs(tmp_path: Path) -> None:
    """By its own price, over the calls that were counted; without a price there is no number."""
    task = planned("hle", 1.0)
    assert task.judge is not None
    findings = Findings.of(
        RunFolder(tmp_path), make_plan(), task, make_benchmark("hle", {}, "card")
    )
    for usage in (Usage(1000, 200, cached_tokens=600), Usage(500, 100), Usage(400, None)):
        reply = Reply(Outcome.OK, "yes", usage=usage)
        findings.usage.add(CallRecord(0, 0, 0, "hash", reply, Timing(0.0, 1.0)))
    assert (free := judge_facts(task, findings, [])) is not None
    assert free.cost is None
    price = Price(input=2.0, output=10.0, cached=0.5)
    serving = ExternalServing(kind="external", base_url="https://x/v1", price=price)
    judge = task.judge.model_copy(
        update={"deployment": plan_deployment(serving, "j", "j", revision=None)}
    )
    facts = judge_facts(task.model_copy(update={"judge": judge}), findings, [])
    assert facts is not None
    assert facts.cost is not None
    assert facts.cost.value == pytest.approx((900 * 2.0 + 600 * 0.5 + 300 * 10.0) / 1e6)
    assert (facts.cost.uncounted, facts.calls, facts.tokens.prompt) == (1, 3, 1900)
