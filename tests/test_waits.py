"""No wait in the package is without a limit: what never comes must end in an error that says what did not come.

The checker reads the source, so it knows names and not types: it takes any `.wait()` without an argument for a wait.
What it can't see: how long the functions of other packages take, a lock that a `with` takes, and an awaitable that came
as an argument.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zj_ray.errors import WaitTimeout
from zj_ray.runs import job_server
from zj_ray.runs.job_server import JobServer

PACKAGE = Path(__file__).parents[1] / "zj_ray"

# One wait each, by file and function: those that are meant to last as long as something else does.
ALLOWED = {
    ("runs/jobs.py", "logs"): "zj logs -f lasts as long as the run, whose lock tells when its process is gone",
    (
        "runs/job_server.py",
        "JobServer.follow.tail",
    ): "lasts as long as the job, which the job server is asked about, each time with a limit",
    ("runs/lock.py", "RunLock._beat"): "shows in a daemon thread that the run's owner lives, for as long as it does",
    ("serving/serve.py", "serve"): "zj serve lasts until Ctrl-C",
    (
        "fleet/engine.py",
        "EngineThread._obey",
    ): "an engine without work waits for its next command, as long as its actor lives",
    (
        "fleet/engine.py",
        "RolloutEngine.wait_ready",
    ): "vLLM starts as long as it takes; who asks has a limit and then kills the actor",
    ("fleet/control/supervisor.py", "Supervisor._again"): "looks after the fleet as long as there is one",
}

# Where the limit of a function stands among its positional arguments; None: it can only be named.
FUNCTIONS = {
    "asyncio.wait": None,
    "asyncio.as_completed": None,
    "asyncio.wait_for": 1,
    "concurrent.futures.wait": 1,
    "concurrent.futures.as_completed": 1,
    "psutil.wait_procs": 1,
    "ray.get": None,
    "ray.wait": None,
    "socket.create_connection": 1,
    "urllib.request.urlopen": 2,
    **{f"subprocess.{name}": None for name in ("run", "call", "check_call", "check_output")},
    **{f"requests.{name}": None for name in ("request", "get", "post", "put", "patch", "delete", "head", "options")},
}
CLOCKS = ("monotonic", "perf_counter")
LIMITS = ("timeout", "seconds", "deadline")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Wait:
    file: str  # below the package
    line: int
    function: str
    code: str

    def __str__(self) -> str:
        return f"zj_ray/{self.file}:{self.line}: {self.code}  (in {self.function or 'the module'})"


def unlimited(source: str, file: str = "") -> list[Wait]:
    """Every wait in `source` that has no limit."""
    finder = _Finder(file)
    finder.visit(ast.parse(source))
    return finder.found


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str) -> None:
        self.file, self.found = file, list[Wait]()
        self.within: list[str] = []  # names of the classes and functions around
        self.imported: dict[str, str] = {}  # what a name of the module stands for
        self.assigned: dict[str, list[ast.expr]] = {}  # what the names of this function were given
        self.bounded = False  # whether asyncio ends what is awaited here

    def _report(self, node: ast.expr | ast.stmt, code: str = "") -> None:
        self.found.append(
            Wait(self.file, node.lineno, ".".join(self.within), code or " ".join(ast.unparse(node).split())[:120])
        )

    # --- names -------------------------------------------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> None:
        self.imported |= {name.asname: name.name for name in node.names if name.asname}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.imported |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}

    def _name(self, node: ast.expr) -> str:
        """A function's full name: `sleep` is "time.sleep" after `from time import sleep`. Empty for what has none."""
        if isinstance(node, ast.Attribute):
            owner = self._name(node.value)
            return f"{owner}.{node.attr}" if owner else ""
        return self.imported.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.within.append(node.name)
        self.generic_visit(node)
        self.within.pop()

    def _visit_function(self, node: Function) -> None:
        outside = self.assigned, self.bounded
        self.within.append(node.name)
        self.assigned, self.bounded = (
            dict(self.assigned),
            False,
        )  # a function made in a bounded block may be called elsewhere
        for each in ast.walk(node):
            if isinstance(each, ast.Assign | ast.AnnAssign) and each.value:
                for target in each.targets if isinstance(each, ast.Assign) else [each.target]:
                    if isinstance(target, ast.Name):
                        self.assigned.setdefault(target.id, []).append(each.value)
        taken, named = node.args.posonlyargs + node.args.args, node.args.kwonlyargs
        defaults = [None] * (len(taken) - len(node.args.defaults)) + node.args.defaults + node.args.kw_defaults
        for argument, default in zip(taken + named, defaults, strict=True):
            if argument.arg.split("_")[-1] in LIMITS and _is_none(default):
                self._report(node, f"def {node.name}(…, {argument.arg}=None): who leaves it out waits for ever")
        self.generic_visit(node)
        self.within.pop()
        self.assigned, self.bounded = outside

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function

    # --- waits -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _bounds(self, bounded: bool) -> Iterator[None]:
        before, self.bounded = self.bounded, self.bounded or bounded
        yield
        self.bounded = before

    def visit_Call(self, node: ast.Call) -> None:
        name = self._name(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in FUNCTIONS:
            endless = not _has_limit(node, FUNCTIONS[name])
        else:
            endless = _waits_for_ever(node, method) and (
                method == "result" or not self.bounded
            )  # a result blocks, whoever awaits
        if endless:
            self._report(node)
        with self._bounds(name == "asyncio.wait_for"):
            self.generic_visit(node)

    def visit_Await(self, node: ast.Await) -> None:
        if not self.bounded and self._is_endless(node.value):
            self._report(node)
        self.generic_visit(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        if not self.bounded:
            self._report(node, f"async for … in {ast.unparse(node.iter)}")
        self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        managers = [item.context_expr for item in node.items]
        timers = [
            m
            for m in managers
            if isinstance(m, ast.Call) and self._name(m.func) in ("asyncio.timeout", "asyncio.timeout_at")
        ]
        with self._bounds(any(timer.args and not _is_none(timer.args[0]) for timer in timers)):
            for lock in managers:  # a call makes its manager, what has a name was there before: a lock or a semaphore
                if not self.bounded and isinstance(lock, ast.Name | ast.Attribute):
                    self._report(node, f"async with {ast.unparse(lock)}")
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
        sleeps = any(self._name(call.func).split(".")[-1] == "sleep" for call in calls)
        polls = any(isinstance(each, ast.Attribute) and each.attr == "wait" for each in ast.walk(node.test))
        if (sleeps or polls) and not self.bounded and not any(map(_is_clock, ast.walk(node))):
            self._report(node, f"while {ast.unparse(node.test)}: …, and no clock")
        self.generic_visit(node)

    def _is_endless(self, awaited: ast.expr, if_unknown: bool = False, seen: frozenset[str] = frozenset()) -> bool:
        """Whether awaiting this waits for somebody else. What coroutines of ours wait for is seen where they stand."""

        def any_of(*parts: ast.expr, if_unknown: bool = if_unknown, seen: frozenset[str] = seen) -> bool:
            return any(self._is_endless(part, if_unknown, seen) for part in parts)

        match awaited:
            case ast.Call(func=ast.Attribute(attr="remote")):
                return True
            case ast.Call():
                name = self._name(awaited.func)
                gathers = name == "asyncio.gather"
                return (
                    name in ("asyncio.wrap_future", "anext")
                    or (gathers or name == "asyncio.shield")
                    and any_of(*awaited.args, if_unknown=gathers)
                )
            case ast.Name(id=name) if name in self.assigned and name not in seen:
                return any_of(*self.assigned[name], seen=seen | {name})
            case ast.Name() | ast.Attribute() | ast.Subscript():
                return if_unknown
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return any_of(*parts)
            case ast.ListComp(elt=part) | ast.GeneratorExp(elt=part) | ast.Starred(value=part):
                return any_of(part)
            case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, right=other):
                return any_of(one, other)
        return False


def _is_none(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _has_limit(call: ast.Call, place: int | None) -> bool:
    named = next((keyword.value for keyword in call.keywords if keyword.arg == "timeout"), None)
    limit = named or (call.args[place] if place is not None and place < len(call.args) else None)
    return limit is not None and not _is_none(limit)


def _waits_for_ever(call: ast.Call, method: str) -> bool:
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    if method in ("wait", "join", "result"):
        return all(map(_is_none, given))
    if method == "communicate":
        return not _has_limit(call, 1)
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if method == "acquire":
        blocking = named.get("blocking", call.args[0] if call.args else None)
        return not _has_limit(call, 1) and not (isinstance(blocking, ast.Constant) and blocking.value is False)
    if method == "get":  # of a queue; that of a dict has a key
        block = named.get("block", call.args[0] if call.args else None)
        blocks = block is None or isinstance(block, ast.Constant) and block.value is True
        return blocks and set(named) <= {"block", "timeout"} and not _has_limit(call, 1)
    return False


def _is_clock(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in (*CLOCKS, "time") or "deadline" in node.attr
    return isinstance(node, ast.Name) and (node.id in CLOCKS or "deadline" in node.id)


# --- the package -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def waits() -> list[Wait]:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 50
    return [
        wait
        for path in files
        for wait in unlimited(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix())
    ]


def test_no_wait_in_the_package_is_without_a_limit(waits: list[Wait]) -> None:
    faults = [str(wait) for wait in waits if (wait.file, wait.function) not in ALLOWED]
    assert not faults, (
        "give each a limit that ends in WaitTimeout, or say in ALLOWED what it lasts as long as:\n" + "\n".join(faults)
    )


def test_every_allowed_wait_is_there_and_hides_no_other(waits: list[Wait]) -> None:
    found = Counter((wait.file, wait.function) for wait in waits)
    assert {place: found[place] for place in ALLOWED} == dict.fromkeys(ALLOWED, 1)


# --- the checker -----------------------------------------------------------------------------------------------------

FAULTS = [
    "ray.get(x)",
    "ray.get(x, timeout=None)",
    "ray.wait(refs, num_returns=2)",
    "import ray as r; r.get(x)",
    "from ray import get; get(x)",
    "future.result()",
    "future.result(timeout=None)",
    "future.result(None)",
    "threading.Event().wait()",
    "process.wait(timeout=None)",
    "thread.join()",
    "self.commands.get()",
    "commands.get(True)",
    "commands.get(block=True)",
    "commands.get(timeout=None)",
    "lock.acquire()",
    "lock.acquire(True)",
    "process.communicate()",
    "process.communicate(words)",
    "requests.get(url)",
    "urllib.request.urlopen(url)",
    "from urllib.request import urlopen; urlopen(url, None)",
    "socket.create_connection((host, port))",
    "subprocess.run(command, check=True)",
    "from subprocess import check_output; check_output(command)",
    "subprocess.check_call(command, **options)",
    "concurrent.futures.wait(futures)",
    "def ask(url, timeout=None): pass",
    "def ask(url, timeout=None, /, name=None): pass",
    "def ask(url, *, read_timeout: float | None = None): pass",
    "async def f(): await actor.ask.remote(x)",
    "async def f(): await getattr(actor, 'ask').remote(x)",
    "async def f():\n  answer = actor.ask.remote(x)\n  await answer",
    "async def f(): await asyncio.wrap_future(future)",
    "async def f(): await asyncio.shield(actor.ask.remote(x))",
    "async def f(): await anext(texts)",
    "async def f(): await event.wait()",
    "async def f(): await asyncio.wait(tasks)",
    "async def f(): await asyncio.wait_for(event.wait(), None)",
    "async def f():\n  async with asyncio.timeout(None): await event.wait()",
    "async def f(): await asyncio.gather(*[actor.ask.remote(x) for actor in actors])",
    "async def f(): await asyncio.gather(*weights.buckets)",
    "async def f(work): await asyncio.gather(*work)",
    "async def f():\n  asked = [actor.ask.remote(x) for actor in actors]\n  await asyncio.gather(*asked)",
    "async def f():\n  async for text in texts: show(text)",
    "async def f():\n  async with self.slots: pass",
    "async def f(): await asyncio.wait_for(g(future.result()), 5)",
    "async def f():\n  async with asyncio.timeout(5):\n    async def g(): await event.wait()",
    "while not done():\n  time.sleep(1)",
    "from time import sleep\nwhile True:\n  sleep(1)\n  if done(): break",
    "async def f():\n  while pending: await asyncio.sleep(1)",
    "while not stopped.wait(1): pass",
]

GOOD = [
    "ray.get(x, timeout=5)",
    "ray.wait(refs, num_returns=2, timeout=limit)",
    "mapping.get(key)",
    "mapping.get('key', None)",
    "config.get(x)",
    "future.result(limit)",
    "future.result(timeout=5)",
    "event.wait(5)",
    "process.wait(timeout=limit)",
    "group.wait(references, what='load')",
    "thread.join(5)",
    "', '.join(words)",
    "commands.get(timeout=1)",
    "commands.get(True, 1)",
    "commands.get(block=False)",
    "commands.get(False)",
    "lock.acquire(timeout=1)",
    "lock.acquire(True, 1)",
    "lock.acquire(blocking=False)",
    "lock.acquire(False)",
    "process.communicate(timeout=5)",
    "requests.get(url, timeout=5)",
    "urllib.request.urlopen(url, timeout=5)",
    "urllib.request.urlopen(url, None, 5)",
    "socket.create_connection((host, port), 5)",
    "subprocess.run(command, timeout=5)",
    "subprocess.Popen(command)",
    "concurrent.futures.wait(futures, 5)",
    "def ask(url, timeout): pass",
    "def ask(url, timeout=5.0, name=None): pass",
    "actor.ask.remote(x)",
    "async def f(): await asyncio.wait_for(actor.ask.remote(x), 5)",
    "async def f(): await asyncio.wait_for(asyncio.wrap_future(future), timeout=5)",
    "async def f(): await asyncio.wait_for(event.wait(), limit)",
    "async def f(): await asyncio.wait_for(asyncio.gather(*work), limit)",
    "async def f(): await asyncio.wait(tasks, timeout=5)",
    "async def f():\n  async with asyncio.timeout(5): await event.wait()",
    "async def f():\n  async with asyncio.timeout(5), self.slots: await actor.ask.remote(x)",
    "async def f():\n  async with asyncio.timeout(5):\n    while pending: await asyncio.sleep(1)",
    "async def f(): await g(actor.ask.remote(x))",
    "async def f(): await asyncio.gather(g(x), h(x))",
    "async def f(): await asyncio.gather(*map(g, lives))",
    "async def f():\n  asked = [asyncio.wait_for(a.ask.remote(x), 5) for a in actors]\n  await asyncio.gather(*asked)",
    "async def f():\n  async with connected(url) as client: pass",
    "while time.monotonic() < end:\n  time.sleep(1)",
    "while not done():\n  time.sleep(1)\n  if late(deadline): raise WaitTimeout('late')",
    "while rows: rows.pop()",
]


@pytest.mark.parametrize("source", FAULTS)
def test_a_wait_without_a_limit_is_found_once(source: str) -> None:
    assert len(unlimited(source)) == 1


@pytest.mark.parametrize("source", GOOD)
def test_a_wait_with_a_limit_is_none(source: str) -> None:
    assert unlimited(source) == []


def test_a_fault_names_its_file_line_function_and_call() -> None:
    source = "class Fleet:\n    def wait(self):\n        return ray.get(self.answers)\n"
    assert [str(wait) for wait in unlimited(source, "fleet/control/fleet.py")] == [
        "zj_ray/fleet/control/fleet.py:3: ray.get(self.answers)  (in Fleet.wait)"
    ]


# --- limits of the waits for a job -----------------------------------------------------------------------------------


def _job_server(monkeypatch: pytest.MonkeyPatch, states: list[str], seconds: float) -> JobServer:
    """One whose job says a word and then, after so long, another; `states`: what it is, one after the other."""

    class Client:
        async def tail_job_logs(self, job_id: str) -> Any:
            yield "one\n"
            await asyncio.sleep(seconds)
            yield "two\n"

        def get_job_status(self, job_id: str) -> Any:
            return SimpleNamespace(value=states.pop(0))

    server = JobServer.__new__(JobServer)
    server.address, server._client = "http://head:8265", Client()  # type: ignore[assignment]
    monkeypatch.setattr(job_server, "REQUEST_SECONDS", 0.05)
    return server


def test_a_silent_job_is_followed_for_as_long_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    states, shown = ["RUNNING"] * 100, list[str]()
    _job_server(monkeypatch, states, seconds=0.3).follow("zj-a", shown.append)
    assert shown == ["one\n", "two\n"] and len(states) < 100


def test_output_that_does_not_end_with_its_job_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list[str]()
    with pytest.raises(
        WaitTimeout, match=r"http://head:8265: job zj-a has ended, but its output did not .* zj logs RUN"
    ):
        _job_server(monkeypatch, ["RUNNING", "SUCCEEDED"], seconds=60).follow("zj-a", shown.append)
    assert shown == ["one\n"]


def test_a_job_server_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server = _job_server(monkeypatch, [], seconds=60)

    def hang(job_id: str) -> None:
        raise WaitTimeout("no answer within 60 s", where=server.address)  # what _TimedClient makes of it

    monkeypatch.setattr(server._client, "get_job_status", hang)
    with pytest.raises(WaitTimeout, match="no answer"):
        server.follow("zj-a", lambda text: None)


def test_a_job_that_does_not_stop_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    server = _job_server(monkeypatch, ["RUNNING"] * 100, seconds=0)
    monkeypatch.setattr(server._client, "stop_job", lambda job_id: True, raising=False)
    monkeypatch.setattr(job_server, "POLL_SECONDS", 0.01)
    with pytest.raises(WaitTimeout, match=r"job zj-a did not end within 0\.05 s"):
        server.stop("zj-a", seconds=0.05)
