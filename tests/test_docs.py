"""The documentation is true: its examples run and give what it says, and what it names exists.

A Lua block whose first line is ``-- file: NAME.lua`` is a file. A shell block that follows files in the same section
is typed in as it stands, against a real engine and real workers. A comment behind a command tells its exit code and
members of its JSON output (``# exit 1, status "FAILED", result.list.0 7``; ``length 2`` counts a list); commands that
only read are asked again until that is so. A comment ``-->`` in a file tells what the line prints. Files that only
define handlers are loaded by the guide's own ``worker.lua``.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from harness import ASSAY, CHECKOUT, EngineProcess, Process, run_cli
from in_process import cli

from assay import config
from assay.cli.command import GLOBAL_OPTIONS
from assay.cli.root import root
from assay.client import Client
from assay.lua.host import plain_functions
from assay.lua.runtime import STDLIB, Runtime, lua_module

GUIDE = CHECKOUT / "docs" / "lua.md"
RELIABILITY = CHECKOUT / "docs" / "reliability.md"
README = CHECKOUT / "README.md"
PAGES = [README, CHECKOUT / "CHANGELOG.md", CHECKOUT / "examples" / "README.md", *sorted(CHECKOUT.glob("docs/*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FILE_NAME = re.compile(r"-- (?:file: )?([\w-]+\.lua)\n")
RUN = re.compile(r"assay run (?:--processes \d+ )?(.*?)(?: &)?(?:\s+# .*)?$", re.MULTILINE)
BEGIN = r"(?<![\w/~.])"
READS = ("describe", "state", "list", "events", "children", "stats")
PATIENCE_SECS = 60.0


# ------------------------------------------------------------------------------------------ reading the pages


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    section: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}: {self.section}"

    @property
    def file(self) -> str | None:
        """The name of the file that a Lua block is."""
        match = FILE_NAME.match(self.text) if self.language == "lua" else None
        return match.group(1) if match else None

    @property
    def is_handlers(self) -> bool:
        """Whether it is a file that needs a worker around it."""
        return self.file is not None and "workflow.define(" in self.text and "workflow.listen(" not in self.text


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    """The fenced blocks of a page."""
    text = page.read_text()
    sections = [(match.start(), match.group(1)) for match in HEADING.finditer(without_fences(text))]

    def block(match: re.Match[str]) -> Block:
        section = [name for start, name in sections if start < match.start()][-1]
        return Block(page, text.count("\n", 0, match.start()) + 1, section, match.group(1), match.group(2))

    return tuple(map(block, FENCE.finditer(text)))


def without_fences(text: str) -> str:
    """The text with every fenced block blanked out; positions stay."""
    return FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), text)


def files(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.file]


def stories(page: Path) -> list[Block]:
    """The shell blocks that are typed in: those after a file in the same section."""
    with_files = {block.section: block.line for block in reversed(files(page))}
    return [
        block
        for block in blocks(page)
        if block.language == "sh" and with_files.get(block.section, block.line) < block.line
    ]


def run_by_stories(page: Path) -> set[str]:
    """The files that shell blocks name behind ``assay run``."""
    return {word for story in stories(page) for words in RUN.findall(story.text) for word in words.split()}


def expected_output(block: Block) -> list[str]:
    return re.findall(r"--> (.*)$", block.text, re.MULTILINE)


# --------------------------------------------------------------------------------------------------- running


def expectations(comment: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the members that a comment tells."""
    code, members, at = 0, {}, 0
    while at < len(comment):
        match = re.compile(r"([\w.]+) ").match(comment, at)
        assert match, f"not an expectation: {comment[at:]!r}"
        value, at = json.JSONDecoder().raw_decode(comment, match.end())
        if match.group(1) == "exit":
            code = value
        else:
            members[match.group(1)] = value
        at += len(re.compile(r",? *").match(comment, at)[0])  # type: ignore[index]
    return code, members


def member(value: Any, path: str) -> Any:
    """The value behind ``result.list.0``; ``length`` of a list."""
    for step in path.split("."):
        if step == "length":
            value = len(value)
        elif isinstance(value, list):
            value = value[int(step)] if int(step) < len(value) else f"(no item {step})"
        else:
            value = value.get(step, f"(no {step})") if isinstance(value, dict) else f"(no {step} in {value!r})"
    return value


class Shell:
    """Types in the lines of one shell block."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.jobs: list[Process] = []

    def type(self, line: str) -> None:
        """Run a line and compare what its comment tells."""
        command, _, comment = line.partition("  # " if "  # " in line else " # ")
        words = shlex.split(command.replace(".venv/bin/assay", "assay", 1))
        if words[0] == "kill":
            assert self.jobs[int(words[1].removeprefix("%")) - 1].terminate() == 0
            return
        assert words.pop(0) == "assay", line
        code, members = expectations(comment.strip())
        if words[-1] == "&":
            self._start(words[:-1])
        elif words[0] == "run":
            self.run_script(words[1:], code)
        else:
            self._compare(words, code, members)

    def run_script(self, words: list[str], code: int = 0) -> None:
        """Run a file to its end and compare what it prints."""
        done = run_cli("run", *words, url=self.url, cwd=self.folder)
        assert done.returncode == code, done.stderr
        text = (self.folder / words[0]).read_text()
        assert done.stdout.splitlines() == re.findall(r"--> (.*)$", text, re.MULTILINE)

    def _start(self, words: list[str]) -> None:
        job = Process([*ASSAY, *words], env={"ASSAY_ENGINE_URL": self.url}, cwd=self.folder)
        self.jobs.append(job.start())
        job.wait_for("registered")

    def _compare(self, words: list[str], code: int, members: dict[str, Any]) -> None:
        deadline = time.monotonic() + (PATIENCE_SECS if words[1] in READS and members else 0)
        while True:
            done = cli(*words, url=self.url)
            answer = json.loads(done.out) if done.out else None
            found = {path: member(answer, path) for path in members}
            if (done.code, found) == (code, members):
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        assert (done.code, found) == (code, members), f"{words}\n{done.out}{done.err}"

    def end(self) -> None:
        """Stop what still runs."""
        for job in self.jobs:
            if job.is_alive():
                job.terminate()
            job.close()


@dataclass(frozen=True)
class Place:
    """Where the examples of the pages live: an engine and a folder with all the files."""

    url: str
    folder: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("guide")
    for page in PAGES:
        for block in files(page):
            (folder / str(block.file)).write_text(block.text)
    # An engine ends no attempt in its first lease.
    with EngineProcess(env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "4"}) as engine:
        named = run_by_stories(GUIDE)
        handlers = [str(block.file) for block in files(GUIDE) if block.is_handlers and block.file not in named]
        worker = Process([*ASSAY, "run", "worker.lua", *handlers], env={"ASSAY_ENGINE_URL": engine.url}, cwd=folder)
        with worker:
            worker.wait_for("registered")
            yield Place(engine.url, folder)


STORIES = [*stories(GUIDE), *stories(README)]
SCRIPTS = [block for block in files(GUIDE) if expected_output(block) and block.file not in run_by_stories(GUIDE)]


@pytest.mark.parametrize("story", STORIES, ids=str)
def test_a_shell_block_does_what_its_comments_say(place: Place, story: Block) -> None:
    shell = Shell(place.folder, place.url)
    try:
        for line in story.text.replace("\\\n", " ").splitlines():
            if line.strip():
                shell.type(line)
    finally:
        shell.end()


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_script_prints_what_its_comments_say(place: Place, script: Block) -> None:
    Shell(place.folder, place.url).run_script([str(script.file)])


def test_every_file_of_the_pages_has_a_name_of_its_own() -> None:
    names = [str(block.file) for page in PAGES for block in files(page)]
    assert sorted(set(names)) == sorted(names)


def test_every_example_of_the_guide_is_run() -> None:
    typed = {block.section for block in stories(GUIDE)}
    assert [str(block) for block in blocks(GUIDE) if block.language == "sh" and block.section not in typed] == []
    idle = [
        str(block)
        for block in blocks(GUIDE)
        if block.language == "lua" and block not in SCRIPTS and not (block.file and block.section in typed)
    ]
    assert idle == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_lua_block_compiles(page: Path) -> None:
    load = lua_module().LuaRuntime(unpack_returned_tuples=True).eval("function(text) return select(2, load(text)) end")
    wrong = {str(block): load(block.text) for block in blocks(page) if block.language == "lua"}
    assert {name: problem for name, problem in wrong.items() if problem} == {}


# ---------------------------------------------------------------------------------------- what the pages name


def code(page: Path) -> list[str]:
    """Every inline code span of a page, and every line of its blocks."""
    text = page.read_text()
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", without_fences(text))]
    return spans + [line for block in blocks(page) for line in block.text.replace("\\\n", " ").splitlines()]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    titles = HEADING.findall(without_fences(page.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]+`", "", without_fences(page.read_text()))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_and_test_exists(page: Path) -> None:
    named = {
        path for text in code(page) for path in re.findall(rf"{BEGIN}(?:tests|docs|examples|assay)/[\w./-]+", text)
    }
    assert [path for path in sorted(named) if not (CHECKOUT / path.rstrip("/.")).exists()] == []
    tests = {name for text in code(page) for name in re.findall(rf"{BEGIN}test_\w+(?![\w/.])", text)}
    assert sorted(tests - functions_of_tests()) == []


@cache
def functions_of_tests() -> frozenset[str]:
    sources = (path.read_text() for path in (CHECKOUT / "tests").rglob("*.py"))
    return frozenset(name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE))


@cache
def known_variables() -> frozenset[str]:
    """Names of environment variables that code reads: they stand there in quotes."""
    folders = [CHECKOUT / "assay", CHECKOUT / "examples", CHECKOUT / "tests"]
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".lua")]
    texts = (path.read_text() for path in paths if path != Path(__file__))
    return frozenset(name for text in texts for name in re.findall(r"""["']([A-Z][A-Z0-9_]+)["']""", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_exists(page: Path) -> None:
    named = set(re.findall(r"(?<![A-Z_])(?:ASSAY_[A-Z0-9_]*[A-Z0-9]|DATABASE_URL)(?![A-Z_])", page.read_text()))
    assert sorted(named - known_variables()) == []


def test_the_readme_tells_every_setting_of_the_engine_and_its_default() -> None:
    told = re.findall(r"^\|[^|]*\| `(\w+)` \| `?([^|`]+)`? \|", README.read_text(), re.MULTILINE)
    settings = {variable: getattr(config.Config(), field) for field, (variable, _) in config._VARIABLES.items()}
    del settings[config.CRASH_AT]
    shown = {None: "unset", "": "unset", False: "off"}
    assert dict(told) == {
        name: shown.get(value, str(int(value) if isinstance(value, float) else value))
        for name, value in settings.items()
    }


def command_of(words: list[str]) -> click.Command:
    """The command that a line behind ``assay`` calls."""
    command: click.Command = root
    for word in words:
        found = None
        if isinstance(command, click.Group):
            found = command.get_command(click.Context(command, resilient_parsing=True), word)
        if found is None:
            break
        command = found
    return command


def options_of(command: click.Command) -> set[str]:
    params = [*command.params, *GLOBAL_OPTIONS]
    return {name for param in params for name in param.opts} | {"--version", "--help"}


def all_options() -> set[str]:
    found, left = set[str](), [root]
    while left:
        command = left.pop()
        found |= options_of(command)
        if isinstance(command, click.Group):
            context = click.Context(command, resilient_parsing=True)
            left += [sub for name in command.list_commands(context) if (sub := command.get_command(context, name))]  # type: ignore[misc]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    wrong = []
    for line in code(page):
        call = re.match(r"(?:\.venv/bin/)?assay (.*)", line)
        bare = re.match(r"--[a-z]", line)
        if not call and not bare:
            continue
        words = re.findall(r"(?:^|(?<=[\s\[|]))(--[a-z][\w-]*|[a-z][\w.-]*)", call.group(1) if call else line)
        command = command_of(words) if call else None
        known = options_of(command) if command else all_options()
        unknown = [word for word in words if word.startswith("--") and word not in known]
        if unknown or (command is root and words and not words[0].startswith("--")):
            wrong.append((line, unknown))
    assert wrong == []


# ------------------------------------------------------------------------------- the guide names what there is


def stdlib(name: str) -> str:
    return (STDLIB / f"{name}.lua").read_text()


def functions_of_the_module() -> list[str]:
    """``start``, ``schedules.create`` and the other functions of ``assay.workflow``."""
    module = Runtime(plain_functions()).imports(b"workflow")
    names = []
    for name, value in module.items():
        members = [f"{name.decode()}.{key.decode()}" for key in value] if hasattr(value, "items") else []
        names += members or [name.decode()]
    return sorted(names)


def globals_of_scripts() -> list[str]:
    """``env.get`` and the other builtins, and what there is in ``os``."""
    runtime = Runtime(plain_functions())
    runtime.imports(b"main")
    tables = ("env", "json", "log", "http", "fs", "shell", "crypto", "base64", "os")
    members = [f"{name}.{key.decode()}" for name in tables for key in runtime.lua.globals()[name.encode()]]
    return sorted([*members, "sleep", "time"])


def row_of(guide: str, name: str) -> str:
    """The rows of tables that explain functions whose name begins like this one's."""
    return "\n".join(line for line in guide.splitlines() if line.startswith("|") and f"`{name}." in line)


@pytest.mark.parametrize("name", functions_of_the_module())
def test_the_guide_explains_a_function_of_the_module(name: str) -> None:
    table, _, last = f"workflow.{name}".rpartition(".")
    guide = GUIDE.read_text()
    assert f"`workflow.{name}(" in guide or f"`.{last}(" in row_of(guide, table)


@pytest.mark.parametrize("name", globals_of_scripts())
def test_the_guide_explains_a_builtin(name: str) -> None:
    assert (f"`{name}`" if name == "json.null" else f"`{name}(") in GUIDE.read_text()


def test_the_guide_explains_every_method_option_and_field() -> None:
    names = re.findall(r"^function methods\.(\w+)", stdlib("ctx") + stdlib("activity"), re.MULTILINE)
    missing = [name for name in names if f"`ctx:{name}(" not in GUIDE.read_text()]
    options = re.findall(r'\{ "(\w+)"', stdlib("options")) + re.findall(
        r'(\w+) = "(?:string|number|table|any|boolean)"', stdlib("workflow")
    )
    tables = [stdlib(part).rpartition("setmetatable({\n")[2].partition("META)")[0] for part in ("ctx", "activity")]
    fields = re.findall(r"^ +(\w+) = ", "\n".join(tables), re.MULTILINE)
    assert names and options and len(fields) == 12
    missing += [name for name in options + fields if not re.search(rf"`(opts\.)?{name}`", GUIDE.read_text())]
    assert missing == []


def test_the_guide_tells_the_defaults_of_activities(place: Place) -> None:
    schemas = Client(place.url).call("GET", "openapi.json")["components"]["schemas"]
    options = {name: field.get("default") for name, field in schemas["ScheduleActivity"]["properties"].items()}
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", GUIDE.read_text(), re.MULTILINE))
    known = {name: options[name] for name in told if name in options}
    assert len(known) == 5 and {name: float(told[name]) for name in known} == known


def test_what_the_guide_calls_missing_is_missing(place: Place) -> None:
    paths = Client(place.url).call("GET", "openapi.json")["paths"]
    known = [path for path in paths if path.endswith("/api-keys")]
    assert ("has no keys" in " ".join(GUIDE.read_text().split())) == (known == [])


def test_every_promise_names_a_test() -> None:
    text = RELIABILITY.read_text()
    promises = re.findall(r"^\| (?!Promise|-|What).*$", text.partition("## What is not promised")[0], re.MULTILINE)
    assert promises
    assert [line for line in promises if not re.search(r"`(?:tests/\S+\.py|test_\w+)`", line)] == []
