"""The project as a whole: its documents are true, its files name no machine, its wheel is complete."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import evalkit
from evalkit import errors
from evalkit.benchmarks.contract import BenchmarkParams, Score, Solution
from evalkit.benchmarks.registry import benchmark_names, harness_names, is_harness_task
from evalkit.cli.parser import build_parser
from evalkit.recipe.load import load_recipe
from evalkit.shipped import shipped_templates

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
MAKE = re.compile(r"\bmake ((?:[A-Z]+=\S+ )*)([a-z][a-z-]*)")
# Written so that this file does not match its own rules.
MACHINE_PATHS = re.compile(r"(?<![\w.~}>)-])/(?:[w]ork|[r]oot)/")
REGISTRY_HOSTS = re.compile(
    r"[p]ypi\.org|[p]ythonhosted\.org|[d]ownload\.pytorch\.org|[w]heels\.vllm\.ai"
    r"|[a]naconda\.org|[r]egistry\.npmjs\.org"
)


def tree() -> list[Path]:
    """Every file that is committed or about to be."""
    listing = subprocess.run(
        # Whoever owns the checkout: git refuses to read one of another user unless told so.
        ["git", "-c", "safe.directory=*", "ls-files", "-coz", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def documents() -> list[Path]:
    """Every Markdown page of the project."""
    return [path for path in tree() if path.suffix == ".md"]


def guides() -> list[Path]:
    """The pages that tell a user what to type."""
    return [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(value: object) -> str:
    """A short test id."""
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


def blocks(path: Path, language: str) -> list[str]:
    """Contents of a page's fenced blocks in one language."""
    found: list[tuple[str, str]] = FENCE.findall(path.read_text())
    return [text for kind, text in found if kind == language]


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower()))


def anchors(path: Path) -> set[str]:
    """All anchors of a page."""
    text = FENCE.sub("", path.read_text())
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def test_links_of_documents_lead_somewhere() -> None:
    """Every relative link names a file that is there, and a heading that it has."""
    broken = []
    for page in documents():
        for target in LINK.findall(FENCE.sub("", page.read_text())):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{name_of(page)}: {target}")
    assert broken == []


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs.yml lists each page under docs/, and nothing else."""

    def pages(nav: Any) -> list[str]:
        if isinstance(nav, str):
            return [nav]
        return [p for each in (nav.values() if isinstance(nav, dict) else nav) for p in pages(each)]

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(there)


def test_readme_starts_with_the_two_commands() -> None:
    """The first block of the README is what a newcomer types."""
    commands = [
        line.partition("#")[0].strip() for line in blocks(README, "console")[0].splitlines()
    ]
    assert commands == ["make demo", "make test"]


def test_make_targets_that_are_documented_exist() -> None:
    """Whatever a page says after `make` is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set()
    for page in guides():
        code = "\n".join([*(text for _, text in FENCE.findall(page.read_text()))])
        code += "\n".join(re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text())))
        named |= {target for _, target in MAKE.findall(code)}
    assert {"demo", "test"} <= named
    assert named <= targets


def test_modules_that_make_runs_exist() -> None:
    """Each `python -m` of the Makefile that is this project's own names a module of it."""
    modules = re.findall(r"-m (bench\.\w+)", (ROOT / "Makefile").read_text())
    assert modules
    assert [m for m in modules if not (ROOT / f"{m.replace('.', '/')}.py").is_file()] == []


def test_ci_runs_what_the_readme_says() -> None:
    """CI has no way of its own to run the tests."""
    assert re.search(r"\bmake test\b", (ROOT / ".ci" / "run").read_text())


def test_no_file_names_a_machine_or_a_registry() -> None:
    """Where packages come from is pip's configuration, and no path of one machine is written down."""
    found = []
    for path in tree():
        text = path.read_bytes().decode("utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if MACHINE_PATHS.search(line) or REGISTRY_HOSTS.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:120]}")
    assert found == []


def documented_commands() -> list[str]:
    """Every line `evalkit ...` in a console block, without its comment."""
    lines = [
        line
        for page in guides()
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("evalkit ")
    ]
    return sorted({re.split(r"\s+#", line)[0].strip() for line in lines})


@pytest.mark.parametrize("line", documented_commands())
def test_documented_commands_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the pages tell a user to type is understood, options and all."""
    try:
        build_parser().parse_args(shlex.split(line)[1:])
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


def recipes_in_pages() -> list[Any]:
    """Every YAML block of the pages that is a whole recipe."""
    return [
        pytest.param(text, id=f"{name_of(page)}-{number}")
        for page in guides()
        for number, text in enumerate(blocks(page, "yaml"))
        if isinstance(data := yaml.safe_load(text), dict) and "tasks" in data
    ]


@pytest.mark.parametrize("text", recipes_in_pages())
def test_recipes_in_pages_are_valid(text: str, tmp_path: Path) -> None:
    """An example can be copied: its keys, benchmarks and template exist."""
    path = tmp_path / "example.yaml"
    path.write_text(text)
    recipe = load_recipe(path, env={}).recipe
    benchmarks = {task.benchmark or name for name, task in recipe.tasks.items()}
    of_harnesses = {name for name in benchmarks if is_harness_task(name)}
    assert benchmarks - of_harnesses <= set(benchmark_names())
    assert {name.partition("/")[0] for name in of_harnesses} <= set(harness_names())
    assert {recipe.cluster.get("template", "default")} <= set(shipped_templates())


def test_example_of_a_benchmark_works() -> None:
    """The benchmark in the Python guide loads its samples and gives its own answers full marks."""
    source = blocks(ROOT / "docs" / "guide" / "python-api.md", "python")[0]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, "python-api.md", "exec"), names)
    benchmark = names["Capitals"](BenchmarkParams(), "card")
    samples = benchmark.load(None).samples
    assert [s.id for s in samples] == ["France", "Japan", "Kenya"]
    assert all(benchmark.score(s, benchmark.gold(s)).values == {"correct": 1.0} for s in samples)
    assert benchmark.score(samples[0], Solution("")) == Score({"correct": 0.0}, None)


def test_imports_in_pages_work() -> None:
    """Every name that an example imports from evalkit is there."""
    sources = [text for page in guides() for text in blocks(page, "python")]
    imports = [line for text in sources for line in text.splitlines() if "from evalkit" in line]
    assert any("from evalkit import" in line for line in imports)
    for line in imports:
        exec(line, {})


def test_documented_exit_codes_are_those_of_the_errors() -> None:
    """The table of exit codes has each code of an error, Ctrl-C, a closed pipe, and no other."""
    table = (ROOT / "docs" / "guide" / "resume.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    real = {kind.exit_code for kind in kinds if issubclass(kind, errors.EvalkitError)}
    assert documented == real | {130, 141}


def test_installed_version_is_that_of_the_package() -> None:
    """The version is stated once, and the installation has it."""
    assert version("evalkit") == evalkit.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", evalkit.__version__)


def test_wheel_is_complete(tmp_path: Path) -> None:
    """A wheel builds and holds all data files of the package, the recipes and the templates."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    done = subprocess.run([*build, "-w", str(tmp_path), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"evalkit-{evalkit.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    relative = [path.relative_to(ROOT) for path in tree()]
    expected = {str(path) for path in relative if path.parts[0] == "evalkit"}
    for folder in ("recipes", "slurm_templates"):
        shipped = [str(path) for path in relative if path.match(f"{folder}/*.yaml")]
        assert shipped, f"{folder}/ has no YAML file"
        expected |= {f"evalkit/_shipped/{name}" for name in shipped}
    assert any(name.startswith("evalkit/benchmarks/prompts/") for name in expected)
    assert any(name.startswith("evalkit/report/schemas/") for name in expected)
    assert expected - inside == set()


SKIPS = """\
import pytest

@pytest.mark.skip(reason="by mark")
def test_mark(): ...

def test_inside():
    pytest.skip("inside")

@pytest.mark.xfail(strict=True)
def test_expected():
    assert False

def test_passes(): ...
"""


def run_pytest(folder: Path, flag: str) -> subprocess.CompletedProcess[str]:
    """pytest on a folder with this project's conftest, in CI (flag "1") or not."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "--rootdir", ".", "."],
        cwd=folder,
        env={**os.environ, "EVALKIT_CI": flag, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )


def test_skips_pass_outside_of_ci(tmp_path: Path) -> None:
    """At a developer's desk a skip is a skip."""
    (tmp_path / "test_skips.py").write_text(SKIPS)
    done = run_pytest(tmp_path, "")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 2 skipped, 1 xfailed" in done.stdout


def test_skips_fail_in_ci(tmp_path: Path) -> None:
    """In CI every skip fails with its reason; an expected failure does not."""
    (tmp_path / "test_skips.py").write_text(SKIPS)
    done = run_pytest(tmp_path, "1")
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed, 1 xfailed, 1 error" in done.stdout
    assert "by mark" in done.stdout
    assert "inside" in done.stdout


def test_module_that_skips_itself_fails_in_ci(tmp_path: Path) -> None:
    """A whole module cannot slip away either."""
    (tmp_path / "test_module.py").write_text(
        "import pytest\npytest.importorskip('no_such_module_at_all')\ndef test_never(): ...\n"
    )
    assert run_pytest(tmp_path, "").returncode == 5  # nothing collected, nothing failed
    done = run_pytest(tmp_path, "1")
    assert done.returncode == 2, done.stdout
    assert "no_such_module_at_all" in done.stdout


def run_ci(checkout: Path, makefile: str) -> subprocess.CompletedProcess[str]:
    """A copy of .ci/run in a checkout with another Makefile."""
    (checkout / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", checkout / ".ci")
    (checkout / "Makefile").write_text(makefile)
    # These tests may be run by make themselves: the inner one shall not know of it.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run([str(checkout / ".ci" / "run")], capture_output=True, text=True, env=env)


def test_ci_says_that_reference_data_is_missing(tmp_path: Path) -> None:
    """Without the data beside the checkout CI fails at once and names the folder."""
    done = run_ci(tmp_path / "checkout", "test:\n\t@echo never\n")
    assert done.returncode == 1
    assert str(tmp_path / "shared" / "data") in done.stderr
    assert "never" not in done.stdout


@pytest.mark.parametrize(("code", "words"), [(0, "3 passed"), (1, "1 failed, 2 passed")])
def test_ci_ends_with_the_closing_line(tmp_path: Path, code: int, words: str) -> None:
    """The last line is pytest's, once when all is well, and make's failure is CI's."""
    (tmp_path / "shared" / "data").mkdir(parents=True)
    closing = f"===== {words} in 0.12s ====="
    makefile = f"test:\n\t@echo rule $$EVALKIT_CI; echo '{closing}'; exit {code}\n"
    done = run_ci(tmp_path / "checkout", makefile)
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("rule 1", closing)
    assert lines.count(closing) == (1 if code == 0 else 2)
    assert (done.returncode == 0) == (code == 0)
