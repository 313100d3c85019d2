"""The page of a report: what it says, what it must not do, and that it is always the same."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from evalkit.errors import UsageError
from evalkit.plan.model import ModelIdentity
from evalkit.report.page.markdown import render_markdown
from evalkit.report.page.plots import Series, outcome_bar, time_plot
from evalkit.report.page.sources import GpuUse, RunReport, read_run
from evalkit.report.page.speed import time_plots
from evalkit.report.page.views import find_differences, learning_curves
from evalkit.report.page.write import default_path, make_page, title_of
from evalkit.report.steps import find_step
from tests.unit.report.page_builder import HOSTILE, START, as_report, make_report, with_units
from tests.unit.report.run_builder import make_run

VOID = frozenset({"meta", "link", "input", "br"})


class Reader(HTMLParser):
    """Elements of a page, its text, and whether tags are balanced."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] == ["style"]:
            self.styles.append(data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a person reads."""
        return " ".join(" ".join(self.words).split())


def page_of(*runs: RunReport, **options: Any) -> bytes:
    """The page of some runs."""
    return make_page(runs, "title", **options).content


def sha256(text: str) -> str:
    """As a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_a_page_loads_nothing_and_runs_one_script(tmp_path: Path) -> None:
    """The policy forbids all but the page's own style and script, by their hashes; no address, no inline
    style and no handler stands in it."""
    page = page_of(with_units(make_report(tmp_path), 100))
    reader = Reader(page)
    policy = next(a["content"] for t, a in reader.tags if a.get("http-equiv"))
    running = [s for s in reader.scripts if s.strip() and "use strict" in s]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src {sha256(reader.styles[0])}; "
        f"script-src {sha256(running[0])}; base-uri 'none'; form-action 'none'"
    )
    assert (len(reader.styles), len(running)) == (1, 1)
    kinds = [a.get("type") for t, a in reader.tags if t == "script"]
    assert kinds.count(None) == 1
    assert set(kinds) == {None, "text/plain"}
    for tag, attributes in reader.tags:
        names = set(attributes)
        assert not names & {"src", "srcset", "style", "action", "srcdoc"}, (tag, attributes)
        assert not any(name.startswith("on") for name in names)
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    assert not any(word in page for word in (b"url(", b"@import", b"http:", b"https:"))


def test_nothing_of_a_run_is_markup(tmp_path: Path) -> None:
    """Names, messages and samples that try to break out are text, or base64."""
    report = with_units(make_report(tmp_path, missing=2, name=HOSTILE[0], source=HOSTILE[1]), 20)
    page = page_of(report)
    reader = Reader(page)
    assert b"<script>window" not in page
    assert b"<img" not in page
    assert HOSTILE[0] in reader.text
    assert HOSTILE[1] in reader.text
    assert "Echo <b>" in reader.text
    assert b"<b>Echo" not in page


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    """No time, no random id: twice the same."""
    report = with_units(make_report(tmp_path), 300)
    assert page_of(report) == page_of(report)


def test_a_score_stands_with_its_interval_and_its_profile(tmp_path: Path) -> None:
    """87.5 percent, standard error 12.5, both ends, and what the profile is."""
    text = Reader(page_of(make_report(tmp_path))).text
    assert "87.50 ± 12.50" in text
    assert re.search(r"\[5\d\.\d\d, 9\d\.\d\d\]", text)
    assert "pass@1[avg-of-2] correct" in text
    assert "differs from the profile card: generation.temperature, repeats" in text
    assert "complete tiny" in text


def test_a_prompt_that_stands_in_is_told(tmp_path: Path) -> None:
    """AIME's, whose own was never published."""
    run = make_run(tmp_path, identity={"prompts": {"gpt-oss/math": "0" * 64}})
    run.write_all()
    run.gather()
    text = Reader(page_of(as_report(run))).text
    assert "gpt-oss/math stands in for math-oai.yaml of the launcher's container, which" in text


def test_an_incomplete_task_is_marked_and_has_bounds(tmp_path: Path) -> None:
    """Withheld, with bounds, reasons and the first missing units; never a number that looks like a score."""
    text = Reader(page_of(make_report(tmp_path, missing=2))).text
    assert "incomplete tiny" in text
    assert "withheld" in text
    assert "62.50 to 87.50" in text
    assert "2 of 8 units are missing (2 infra_error (connection refused))" in text
    assert "first: s2 repeat 1, s3 repeat 1" in text
    assert "87.50 ±" not in text


def test_restricted_tasks_show_no_words_of_failures(tmp_path: Path) -> None:
    """A judge's or a server's words may repeat the data: reasons alone are shown, and the page says so."""
    report = make_report(tmp_path, missing=2, restricted=True)
    text = Reader(page_of(report)).text
    assert "2 of 8 units are missing (2 infra_error)" in text
    assert "connection refused" not in text
    assert "questions, answers and a judge's words are not in this page" in text
    assert "Do not pass this page on" not in text
    assert "connection refused" not in render_markdown([report], "t")


def test_a_page_with_restricted_data_says_so_on_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens it is told not to pass it on."""
    from evalkit.report.page import restricted
    from tests.unit.report.run_builder import PrivateEcho, echo

    monkeypatch.setattr(restricted, "benchmark_for", lambda _task: echo(PrivateEcho))
    report = make_report(tmp_path, restricted=True)
    text = Reader(page_of(report, include_restricted=True)).text
    assert "Do not pass this page on." in text
    assert "are not in this page" not in text


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    """How many of how many, how they were chosen, and where all are."""
    report = with_units(make_report(tmp_path), 2_000)
    text = Reader(page_of(report, max_mb=0.05)).text
    assert re.search(r"\d+ of 2,000 units are in this page \(one of every \d+, or fewer\)", text)
    assert "All of it is in artifacts/echo/samples.jsonl.zst in the run's folder" in text


def sweep(root: Path, *names: str, **model: Any) -> list[RunReport]:
    """Runs of several models."""
    return [make_report(root / name, name=name, **model) for name in names]


def test_runs_stand_side_by_side_with_a_curve_where_steps_are_known(tmp_path: Path) -> None:
    """One row for each model; a curve over the steps in their names; none without steps."""
    runs = sweep(tmp_path, "m-step-1000", "m-step-2000")
    page = page_of(*runs)
    text = Reader(page).text
    assert "m-step-1000 step 1,000 87.50 ± 12.50" in text
    assert "echo (card)" in text
    assert "Learning curves" in text
    assert "Learning curves" not in Reader(page_of(*sweep(tmp_path / "b", "x", "y"))).text
    [curve] = learning_curves(runs, "echo")
    assert (curve.label, [p.step for p in curve.points]) == ("", [1000, 2000])


def test_each_variant_has_a_curve_of_its_own(tmp_path: Path) -> None:
    """Two settings at two steps each are two lines with a legend, never one line through both; a variant
    with one step is none."""

    def vary(run: RunReport, seed: int) -> RunReport:
        [task] = run.tasks
        plan = task.plan.model_copy(
            update={
                "identity": {**task.plan.identity, "seed": seed, "requests_sha256": str(seed) * 64}
            }
        )
        return replace(run, tasks=(replace(task, plan=plan),))

    first, second = sweep(tmp_path, "m-step-1000", "m-step-2000")
    runs = [vary(run, seed) for run in (first, second) for seed in (7, 8)]
    curves = learning_curves([*runs, vary(first, 9)], "echo")
    assert [(c.label, [p.step for p in c.points]) for c in curves] == [
        ("seed 7, requests_sha256 77777777", [1000, 2000]),
        ("seed 8, requests_sha256 88888888", [1000, 2000]),
    ]
    page = page_of(*runs).decode()
    assert "seed 7, requests_sha256 77777777</text>" in page
    assert "seed 8, requests_sha256 88888888</text>" in page
    lines = re.findall(r'class="line (c\d)" points="([^"]+)"', page)
    assert [css for css, _ in lines][:2] == ["c0", "c1"]
    assert {len(places.split()) for _, places in lines[:2]} == {2}


def test_an_incomplete_run_is_no_point_of_a_curve(tmp_path: Path) -> None:
    """Bounds are not a score; what is left is one step, which is no curve."""
    runs = [
        make_report(tmp_path / "a", name="step-1"),
        make_report(tmp_path / "b", name="step-2", missing=1),
    ]
    assert learning_curves(runs, "echo") == []


def test_runs_that_were_not_measured_alike_are_told_apart(tmp_path: Path) -> None:
    """The keys that differ are named; the model's own are not."""
    first, second = sweep(tmp_path, "a", "b")
    task = second.tasks[0]
    changed = task.plan.model_copy(
        update={"identity": {**task.plan.identity, "seed": 7, "model": {"weights": "w"}}}
    )
    second = replace(second, tasks=(replace(task, plan=changed),))
    assert find_differences([first, second], "echo") == ["seed"]
    assert "Differing: seed." in Reader(page_of(first, second)).text
    assert "Differing: seed" in render_markdown([first, second], "t")


@pytest.mark.parametrize(
    ("identity", "step"),
    [
        ({"name": "nano-step-2000"}, 2000),
        ({"name": "iter_0005000"}, 5000),
        ({"name": "x", "source": "checkpoints/checkpoint-500"}, 500),
        ({"name": "x", "source": "owner/name", "revision": "step3000"}, 3000),
        ({"name": "ckpt2k"}, 2000),
        ({"name": "global_step12-hf"}, 12),
        ({"name": "stage2-step-5-steps_9"}, 9),
        ({"name": "lockstep"}, None),
        ({"name": "misstep7"}, None),
        ({"name": "step-3b-instruct"}, None),
        ({"name": "nano-12b"}, None),
    ],
)
def test_steps_in_names(identity: dict[str, str], step: int | None) -> None:
    """Only a number behind a word for steps is one."""
    assert find_step(ModelIdentity(**{"source": "", **identity})) == step


def test_markdown_is_a_table_that_nothing_breaks(tmp_path: Path) -> None:
    """Every row has as many cells as the head, whatever a name holds."""
    report = make_report(tmp_path, missing=1, name="a|b`<i>\nc")
    text = render_markdown([report, make_report(tmp_path / "b", name="m-step-5")], "runs")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert widths == {3, 12}
    assert "a\\|b\\`\\<i\\> c" in text
    assert "withheld | bounds 75.00 to 87.50" in text


def test_time_plots_show_what_is_known(tmp_path: Path) -> None:
    """Throughput, calls, GPUs held; their use only where an attempt noted it."""
    report = with_units(make_report(tmp_path), 200)
    names = [re.search(r'aria-label="([^"]+)"', plot) for plot in time_plots(report)]
    assert [name[1] for name in names if name] == [
        "Generated tokens per second over time",
        "Calls in flight over time",
        "GPUs held over time",
    ]
    use = (GpuUse(START + 10, (0.5, 1.0), (0.9, 0.9)),)
    used = replace(report, attempts=(replace(report.attempts[0], use=use),))
    assert len(time_plots(used)) == 5


def test_a_gap_in_what_is_known_is_a_gap_in_the_line() -> None:
    """Nothing is not zero: two stretches, two lines."""
    plot = time_plot("l", "n", Series("n", 0.0, 1.0, (1.0, None, 2.0)), (0.0, 3.0))
    assert plot.count("<polyline") == 2


def test_an_outcome_bar_leaves_room_for_what_is_missing() -> None:
    """Widths go by units; a failure of ours has a class of its own."""
    bar = outcome_bar("t", {"infra_error": 1, "ok": 2}, 4)
    widths = re.findall(r'class="([^"]+)" x="[\d.]+" y="1" width="([\d.]+)"', bar)
    assert widths == [("rest", "380"), ("bar o-ok", "190"), ("bar o-ours", "95")]


def test_a_run_is_read_from_its_artifacts(tmp_path: Path) -> None:
    """The benchmark says whether its data may be published; a run without results is refused."""
    run = make_run(tmp_path, benchmark="gpqa_diamond")
    with pytest.raises(UsageError, match="has no results yet"):
        read_run(run.folder, run.plan)
    run.write_all()
    run.gather()
    (task,) = read_run(run.folder, run.plan).tasks
    assert task.is_restricted
    assert task.traffic is not None
    with pytest.raises(UsageError, match="no task 'x'"):
        read_run(run.folder, run.plan, ["x"])


def test_an_older_gather_left_no_traffic(tmp_path: Path) -> None:
    """The report is made all the same, and says what would bring the plots."""
    run = make_run(tmp_path, benchmark="addition")
    run.write_all()
    run.gather()
    run.folder.traffic("echo").unlink()
    report = read_run(run.folder, run.plan)
    assert "no traffic.json: gather again" in Reader(page_of(report)).text


def test_attempts_are_read_as_they_are(tmp_path: Path) -> None:
    """Records that cannot be read are left out, and lines of a GPU log that a kill cut off."""
    run = make_run(tmp_path, benchmark="addition")
    run.write_all()
    run.gather()
    record = run.folder.attempt_record("r0", 1)
    record.parent.mkdir(parents=True)
    record.write_text(
        '{"replica":"r0","attempt":1,"host":"n1","gpus":2,"nodes":["n1"],"started":5,"last":9}'
    )
    gpu = '{"number":0,"busy":0.5,"memory_mib":10,"memory_total_mib":100}'
    run.folder.telemetry("r0", 1).write_text(
        f'{{"time":6,"server":0,"gpus":[{gpu}]}}\n{{"time":7,"server":0}}\n{{"time":8,"bu'
    )
    broken = run.folder.attempt_record("r1", 1)
    broken.parent.mkdir(parents=True)
    broken.write_text('{"replica":')
    (held,) = read_run(run.folder, run.plan).attempts
    assert (held.gpus, held.started, held.ended, held.end) == (2, 5.0, 9.0, None)
    assert held.use == (GpuUse(6.0, (0.5,), (0.1,)),)


def test_a_report_has_its_place(tmp_path: Path) -> None:
    """In the run, in the sweep, and nowhere for runs that have nothing in common."""
    first, second = sweep(tmp_path / "sweep", "a", "b")
    assert default_path([first], restricted=False) == first.folder.artifacts() / "report.html"
    assert default_path([first], restricted=True) == first.folder.root / "report.restricted.html"
    assert default_path([first, second], restricted=False) == tmp_path / "sweep" / "report.html"
    assert title_of([first, second]) == "sweep"
    other = make_report(tmp_path / "elsewhere" / "c")
    with pytest.raises(UsageError, match="of no one sweep"):
        default_path([first, other], restricted=False)
    assert title_of([first, other]) == "2 runs"
