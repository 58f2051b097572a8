"""What a completion that runs as Python may not do, tried from inside; and what is refused without walls."""

from __future__ import annotations

import ast
import builtins
import ctypes
import importlib
import inspect
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from lowregret.errors import SpecError
from lowregret.tasks import Grader, Problem, open_task
from lowregret.tasks.confine import MEANS, MEMORY, clean_environment
from lowregret.tasks.gym import EVALUATING
from lowregret.tasks.registry import find_entry

SECRET = "a-token-of-nobody"
RUNS = "def runs(prompt, completion, row):\n    scope = {}\n    exec(completion, scope)\n    return scope['reward']\n"
"""A scorer that evaluates text, as some of reasoning-gym's do."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have limits only")
ATTEMPTS = {
    "connect": "import socket; socket.create_connection(('127.0.0.1', 9))",
    "unix": "import socket; socket.socket(socket.AF_UNIX)",
    "netlink": "import socket; socket.socket(16, 3, 0)",
    "datagrams": "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "packets": "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)",
    "make": "open('made', 'w')",
    "append": "open('kept', 'a')",
    "truncate": "import os; os.truncate('kept', 0)",
    "remove": "import os; os.remove('kept')",
    "rename": "import os; os.rename('kept', 'made')",
    "link": "import os; os.link('kept', 'made')",
    "symlink": "import os; os.symlink('kept', 'made')",
    "folder": "import os; os.mkdir('made')",
    "fifo": "import os; os.mkfifo('made')",
    "mode": "import os; os.chmod('kept', 0)",
    "owner": "import os; os.chown('kept', 1, 1)",
    "times": "import os; os.utime('kept')",
    "attribute": "import os; os.setxattr('kept', 'user.a', b'b')",
    "shared memory": "open('/dev/shm/made', 'w')",
    "memory file": "import os; os.memfd_create('made')",
    "fork": "import os; os.fork()",
    "program": "import subprocess; subprocess.run(['true'])",
    "spawn": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "replace": "import os; os.execv('/bin/true', ['true'])",
    "pool": "import multiprocessing; multiprocessing.get_context('fork').Process(target=print).start()",
    "signal": "import os; os.kill(PARENT, 0)",
    "signal of a pipe": "import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, PARENT)",
    "to a thread": "import fcntl, os, struct; fcntl.fcntl(os.pipe()[0], 15, struct.pack('ii', 1, PARENT))",
    "of a socket": "import fcntl, socket; fcntl.ioctl(socket.socketpair()[0], 0x8901, (PARENT).to_bytes(4, 'little'))",
    "of its group": "import fcntl, socket; fcntl.ioctl(socket.socketpair()[0], 0x8902, (PARENT).to_bytes(4, 'little'))",
    "limits": "import resource; resource.prlimit(PARENT, resource.RLIMIT_NOFILE)",
    "priority": "import os; os.setpriority(os.PRIO_PROCESS, PARENT, 19)",
    "environment": "open('/proc/PARENT/environ', 'rb').read()",
    "its memory": "open('/proc/PARENT/mem', 'rb')",
    "namespace": "import ctypes; assert not ctypes.CDLL(None).unshare(0x10000000)",
    "terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x')",
    "more memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scorer.py").write_text(RUNS)
    (tmp_path / "kept").write_text("kept")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_TOKEN", SECRET)
    return tmp_path


def run(grader: Grader, code: str) -> tuple[float, str]:
    """What a completion gets, and why it failed; the next one must be graded as if nothing had been."""
    code = f"{code}\nreward = 1".replace("PARENT", str(os.getpid()))
    found, after = grader([(code, Problem("")), ("reward = 0.5", Problem(""))])
    assert (after.reward, after.failure) == (0.5, None), code
    return found.reward, found.failure or ""


@pytest.fixture(scope="module")
def confined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Grader, Path]]:
    """One process for all attempts: none of them may change it."""
    home = tmp_path_factory.mktemp("home")
    (home / "scorer.py").write_text(RUNS)
    (home / "kept").write_text("kept")
    before = Path.cwd()
    os.chdir(home)
    os.environ["API_TOKEN"] = SECRET
    try:
        with Grader("scorer:runs", failure_reward=-1.0) as grader:
            grader.start()
            yield grader, home
    finally:
        os.chdir(before)
        del os.environ["API_TOKEN"]


@linux
@pytest.mark.parametrize("name", ATTEMPTS)
def test_what_a_completion_may_not_do(confined: tuple[Grader, Path], name: str) -> None:
    grader, home = confined
    assert grader.holds == dict.fromkeys(MEANS, True), "a kernel without Landlock and seccomp"
    process = grader._process
    reward, failure = run(grader, ATTEMPTS[name])
    assert reward == -1
    assert failure.startswith(("raised", "scorer:runs"))
    assert not failure.startswith("raised FileNotFoundError"), "tried nothing"
    assert (home / "kept").read_text() == "kept"
    assert not (home / "made").exists()
    assert grader._process is process, "the attempt ended the process, or was not undone"


@linux
def test_what_processes_share_by_number_is_out_of_reach(confined: tuple[Grader, Path]) -> None:
    """Memory, semaphores and queues of System V are whoever's of the same user who knows, or tries, their numbers."""
    libc = ctypes.CDLL(None)
    shared, turns, queue = libc.shmget(0, 4096, 0o1600), libc.semget(0, 1, 0o1600), libc.msgget(0, 0o1600)
    assert min(shared, turns, queue) >= 0
    calls = (
        f"shmat({shared}, None, 0)",
        f"shmctl({shared}, 0, None)",
        f"semctl({turns}, 0, 0)",
        f"semop({turns}, (ctypes.c_short * 3)(0, 1, 0), 1)",
        f"msgsnd({queue}, (ctypes.c_long * 2)(1, 1), 8, 0)",
        f"msgctl({queue}, 0, None)",
    )
    try:
        for call in calls:
            assert run(confined[0], f"import ctypes; assert ctypes.CDLL(None).{call} == -1, 'done'") == (1, ""), call
    finally:
        gone = (libc.shmctl(shared, 0, None), libc.semctl(turns, 0, 0), libc.msgctl(queue, 0, None))
    assert gone == (0, 0, 0), "they were there still"


@linux
@pytest.mark.parametrize(
    "code",
    [
        "import threading; t = threading.Thread(target=print); t.start(); t.join()",
        "import socket; a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'",
        "import asyncio; asyncio.run(asyncio.sleep(0))",
        "import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETFD, fcntl.FD_CLOEXEC)",
        "open('/dev/null', 'w').write('x')",
        "assert open('kept').read() == 'kept'",
        "x = bytearray(100 << 20)",
        "import os; assert not [n for n in os.environ if 'TOKEN' in n or 'KEY' in n]",
    ],
)
def test_what_a_reward_function_may_do(confined: tuple[Grader, Path], code: str) -> None:
    assert run(confined[0], code) == (1, "")


@linux
def test_what_a_file_imports_does_not_count_as_graded(folder: Path) -> None:
    (folder / "heavy.py").write_text("import numpy\nkept = bytes(300 << 20)\n" + RUNS)
    with Grader("heavy:runs") as grader:
        assert run(grader, "import numpy; x = numpy.ones((200, 200)) @ numpy.ones((200, 200))") == (1, "")


@linux
def test_memory_has_an_end_and_the_next_completion_has_all_of_it(confined: tuple[Grader, Path]) -> None:
    grader = confined[0]
    took = "scorer:runs took more memory than grading may"
    for code in (f"bytearray({2 * MEMORY})", f"keep = [bytes({MEMORY // 4}) for _ in range(8)]"):
        assert run(grader, code) == (-1, took)
    assert run(grader, f"bytearray({MEMORY // 2})") == (1, "")


@linux
@pytest.mark.parametrize(
    ("walls", "lacks"),
    [
        ((), {"network", "files", "processes", "environment"}),
        (("seccomp",), {"files", "environment"}),
        (("landlock",), {"network", "processes", "environment"}),
        (("namespaces",), {"network", "processes"}),
        (("namespaces", "seccomp"), set()),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_limit_is_said_to_hold_where_it_does_only(walls: tuple[str, ...], lacks: set[str]) -> None:
    with Grader("builtin:arithmetic", walls=walls) as grader:
        grader.start()
        if "namespaces" in walls and not grader.holds["files"]:
            pytest.skip("this user may not have a namespace")
        if "landlock" in walls and os.getuid() == 0:
            lacks = lacks - {"environment"} if grader.holds["environment"] else lacks
        assert {name for name, holds in grader.holds.items() if not holds} == lacks
        said = grader.line()
    for name, text in MEANS.items():
        assert (text in said.partition("; does not hold here: ")[2]) == (name in lacks)


@pytest.mark.parametrize("task", ["gym:countdown:size=2,test_size=1", "math"])
def test_text_is_not_evaluated_without_walls_but_by_a_word(task: str) -> None:
    pytest.importorskip(str(find_entry(task).needs))
    with Grader(task, walls=()) as grader, pytest.raises(SpecError, match=r"no network, no file written.*--trust-task"):
        grader.start()
    with Grader(task, walls=(), trusted=True) as grader:
        grader.start()
        assert grader.holds["network"] is False


def test_a_scorer_that_evaluates_nothing_needs_no_walls() -> None:
    with Grader("builtin:arithmetic", walls=()) as grader:
        assert grader([("Answer: 4", Problem("", {"answer": 4}))])[0].reward == 1


def test_a_trusted_function_is_free(folder: Path) -> None:
    with Grader("scorer:runs", trusted=True, failure_reward=-1.0) as grader:
        assert run(grader, f"import os; assert os.environ['API_TOKEN'] == {SECRET!r}; open('made', 'w')") == (1, "")
        assert grader.line() == "grading is not confined: --trust-task"
    assert (folder / "made").exists()


def test_the_environment_keeps_what_libraries_need() -> None:
    given = {"PATH": "/bin", "LC_ALL": "C", "HF_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "k", "SSH_AUTH_SOCK": "s"}
    assert clean_environment(given) == {"PATH": "/bin", "LC_ALL": "C"}


def test_what_completions_print_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("reasoning_gym")
    task = open_task("gym:n_queens:size=1,test_size=1")
    (problem,), _ = task.problems() or ([], [])
    with Grader("gym:n_queens:size=1,test_size=1") as grader:
        grader([("<answer>print('\\x1b]0;title')</answer>", problem)])
    assert capfd.readouterr() == ("", "")


def test_a_formula_without_end_takes_little_memory() -> None:
    pytest.importorskip("math_verify")
    task = open_task("math")
    problem = task.problem({"question": "?", "answer": "\\boxed{\\sqrt{2}}"}, None, None)
    with Grader("math", time_limit=20.0) as grader:
        grader.start()
        assert grader._process is not None
        before = _peak(grader._process.pid)
        process = grader._process
        grade = grader([("\\boxed{(9^{9^9})!}", problem)])[0]
        assert grade.reward == 0
        if grader._process is process:
            assert _peak(process.pid) - before < 300 << 10


def _peak(process: int) -> int:
    """Resident KiB at most."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# Which tasks of reasoning-gym evaluate text: read from the sources that are installed.

_EVALUATE = {"eval", "exec", "compile", "__import__", "parse_expr", "sympify", "simplify", "S", "Poly", "parse_latex"}


def test_the_tasks_that_evaluate_text_are_those_of_the_installed_package() -> None:
    pytest.importorskip("reasoning_gym")
    datasets = importlib.import_module("reasoning_gym.factory").DATASETS
    found = {name for name, (kind, _) in datasets.items() if evaluates(kind)}
    assert len(found) > 5
    assert found | {"composite"} == EVALUATING
    for name in datasets:
        assert find_entry(f"gym:{name}").evaluates(f"gym:{name}:size=3") == (name in EVALUATING)


def test_a_scorer_that_evaluates_by_another_function_is_found() -> None:
    class Scorer:
        def score_answer(self, answer: str) -> Any:
            return self._through(answer)

        def _through(self, answer: str) -> Any:
            return _helper(answer)

    assert evaluates(Scorer)


def _helper(text: str) -> Any:
    return eval(text)


def evaluates(kind: type) -> bool:
    """Whether a class's `score_answer`, or any function of its package that it calls, evaluates text."""
    waiting: list[Any] = [kind.score_answer]  # type: ignore[attr-defined]
    seen: set[Any] = set()
    while waiting:
        function = inspect.unwrap(waiting.pop())
        if function in seen:
            continue
        seen.add(function)
        for name, value in called(function, kind):
            if name in _EVALUATE and (value is None or foreign(value, kind)):
                return True
            if isinstance(value, FunctionType) and not foreign(value, kind):
                waiting.append(value)
    return False


def foreign(value: Any, kind: type) -> bool:
    """Whether it is not of the class's own package."""
    return (getattr(value, "__module__", None) or "").partition(".")[0] != kind.__module__.partition(".")[0]


def called(function: FunctionType, kind: type) -> Iterator[tuple[str, Any]]:
    """The names that a function calls, and what they are where that is known."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    known = {**vars(builtins), **function.__globals__}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, known.get(node.func.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = known.get(node.func.value.id) if isinstance(node.func.value, ast.Name) else None
            home = owner if isinstance(owner, ModuleType | type) else kind
            yield node.func.attr, getattr(home, node.func.attr, None)
