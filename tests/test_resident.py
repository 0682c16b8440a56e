"""A worker that stays: many jobs, one process, and whatever ends it costs one job."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import EdgekitError, InputError, WorkerError
from edgekit.machine.resident import Resident, limit_memory

HERE = Path(__file__).parent
on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux signals the end of the parent, keeps to limits"
)


def work(job: str, data: bytes) -> tuple[Any, bytes]:
    """What the worker is asked for in these tests: a function below."""
    return WORKS[job](data)


def backwards(data: bytes) -> tuple[int, bytes]:
    return len(data), data[::-1]


def pid_there(data: bytes) -> tuple[int, bytes]:
    return os.getpid(), b""


def prints(data: bytes) -> tuple[str, bytes]:
    print("from Python")
    os.write(1, b"from a library\n")
    os.write(2, b"a complaint\n")
    return "only this", b""


def refuses(data: bytes) -> tuple[Any, bytes]:
    raise InputError("no such thing", allowed="another", remedy="ask again")


def fails(data: bytes) -> tuple[Any, bytes]:
    raise ZeroDivisionError("last words")


def crashes(data: bytes) -> tuple[Any, bytes]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return "never", b""


def signalled(data: bytes) -> tuple[Any, bytes]:
    """By the system, late, of the end of the write that brought this job: as often as a file says."""
    left = Path(os.fsdecode(data))
    if count := int(left.read_text()):
        left.write_text(str(count - 1))
        os.kill(os.getpid(), signal.SIGIO)
    return "done", b""


def spins(data: bytes) -> tuple[Any, bytes]:
    while True:
        pass


def spins_in_c(data: bytes) -> tuple[Any, bytes]:
    """Which gives no other thread its turn."""
    return bool(re.match(r"(a*)*b", "a" * 64)), b""


def fills(data: bytes) -> tuple[int, bytes]:
    if data:
        limit_memory(50_000_000)
    return len(bytearray(200_000_000)), b""


def core_limit(data: bytes) -> tuple[int, bytes]:
    import resource

    return resource.getrlimit(resource.RLIMIT_CORE)[0], b""


WORKS: dict[str, Callable[[bytes], tuple[Any, bytes]]] = {
    "backwards": backwards,
    "pid": pid_there,
    "print": prints,
    "refuse": refuses,
    "fail": fails,
    "crash": crashes,
    "signal": signalled,
    "spin": spins,
    "spin in C": spins_in_c,
    "fill": fills,
    "core": core_limit,
}


@pytest.fixture(autouse=True)
def _functions_of_this_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]))


@pytest.fixture
def resident() -> Iterator[Resident]:
    made = Resident(work)
    yield made
    made.close()


def ask(resident: Resident, job: Any, data: bytes = b"", limit_s: float = 60, most: int = 1 << 30) -> tuple[Any, bytes]:
    return resident.ask(job, data, limit_s=limit_s, most=most)


def is_gone(pid: int, within_s: float = 20) -> bool:
    """Whether a process that is not ours ends; a zombie nobody has waited for yet did."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="Linux signals it")
@pytest.mark.parametrize(("times", "said"), [(0, "done"), (1, "done"), (2, None)])
def test_a_job_that_meets_the_end_of_our_own_write_is_done_again(
    times: int, said: str | None, resident: Resident, tmp_path: Path
) -> None:
    """One in some hundred thousand, on a machine that is busy."""
    (tmp_path / "left").write_text(str(times))
    if said:
        assert ask(resident, "signal", os.fsencode(tmp_path / "left"))[0] == said
    else:
        with pytest.raises(EdgekitError, match="SIGIO, twice"):
            ask(resident, "signal", os.fsencode(tmp_path / "left"))
    assert ask(resident, "backwards", b"ab")[1] == b"ba"


def test_bytes_go_there_and_back_in_one_process(resident: Resident) -> None:
    data = os.urandom(5_000_000)  # more than a pipe holds
    assert ask(resident, "backwards", data) == (len(data), data[::-1])
    assert ask(resident, "backwards") == (0, b"")
    pids = {ask(resident, "pid")[0] for _ in range(5)}
    assert pids == {resident.pid}
    assert os.getpid() not in pids


def test_what_is_printed_there_is_no_answer(resident: Resident, capfd: pytest.CaptureFixture[str]) -> None:
    assert ask(resident, "print") == ("only this", b"")
    assert ask(resident, "backwards", b"ab") == (2, b"ba")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_an_error_of_ours_leaves_it_at_work(resident: Resident) -> None:
    pid = ask(resident, "pid")[0]
    with pytest.raises(EdgekitError, match="no such thing") as caught:
        ask(resident, "refuse")
    assert (caught.value.allowed, caught.value.remedy) == ("another", "ask again")
    assert ask(resident, "pid")[0] == pid


@pytest.mark.parametrize(("job", "match"), [("crash", "died with SIGSEGV"), ("fail", "exit code 1.*: last words")])
def test_a_death_costs_one_job(resident: Resident, job: str, match: str) -> None:
    ask(resident, "print")  # whose complaint is not of this job
    with pytest.raises(EdgekitError, match=match) as caught:
        ask(resident, job)
    assert "complaint" not in str(caught.value)
    assert ask(resident, "backwards", b"abc") == (3, b"cba")


def test_a_death_between_jobs_costs_none(resident: Resident) -> None:
    pid = ask(resident, "pid")[0]
    os.kill(pid, signal.SIGKILL)
    assert is_gone(pid)
    assert ask(resident, "backwards", b"abc") == (3, b"cba")


@pytest.mark.parametrize("job", ["spin", "spin in C"])
def test_a_time_limit(resident: Resident, job: str) -> None:
    pid = ask(resident, "pid")[0]
    with pytest.raises(EdgekitError, match="stopped after 0 s"):
        ask(resident, job, limit_s=0.3)
    assert is_gone(pid)
    assert ask(resident, "backwards", b"abc") == (3, b"cba")


def test_an_answer_longer_than_it_may_be_is_not_believed(resident: Resident) -> None:
    with pytest.raises(EdgekitError, match="no answer but"):
        ask(resident, "backwards", bytes(1001), most=1000)
    assert ask(resident, "backwards", bytes(1000), most=1000)[0] == 1000


@on_linux
def test_a_memory_limit_ends_with_its_job(resident: Resident) -> None:
    with pytest.raises(EdgekitError, match="MemoryError"):
        ask(resident, "fill", b"limited")
    assert ask(resident, "fill")[0] == 200_000_000
    assert ask(resident, "backwards", bytes(1000))[0] == 1000


def test_threads_take_turns(resident: Resident) -> None:
    wrong: list[Any] = []

    def many(seed: int) -> None:
        for i in range(25):
            data = bytes([seed, i]) * (1 + 1000 * i)
            if ask(resident, "backwards", data) != (len(data), data[::-1]):
                wrong.append((seed, i))

    threads = [threading.Thread(target=many, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_after_a_fork_each_has_its_own(resident: Resident) -> None:
    pid = ask(resident, "pid")[0]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            own = ask(resident, "pid")[0]
            code = 0 if own != pid and ask(resident, "backwards", b"abc") == (3, b"cba") else 2
            resident.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ask(resident, "pid")[0] == pid


def program(text: str, **options: Any) -> subprocess.Popen[str]:
    setup = (
        "import os, sys, time; from test_resident import *; r = Resident(work); print(ask(r, 'pid')[0], flush=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", setup + text], stdout=subprocess.PIPE, text=True, **options)


def pid_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout
    return int(process.stdout.readline())


@on_linux
@pytest.mark.parametrize("text", ["time.sleep(600)", "ask(r, 'spin', limit_s=600)", "ask(r, 'spin in C', limit_s=600)"])
def test_it_ends_with_a_parent_that_is_killed(text: str) -> None:
    with program(text) as process:
        pid = pid_of(process)
        time.sleep(0.3)  # the job may be under way, or not yet
        process.kill()
        process.wait()
        assert is_gone(pid)


@on_linux
def test_a_forked_child_that_lives_on_does_not_keep_it() -> None:
    text = "child = os.fork()\nif not child: time.sleep(600)\nprint(child, flush=True)\ntime.sleep(600)"
    with program(text) as process:
        pid, child = pid_of(process), pid_of(process)
        process.kill()
        process.wait()
        try:
            assert is_gone(pid)
        finally:
            os.kill(child, signal.SIGKILL)


@on_linux
def test_it_ends_with_a_program_that_ends() -> None:
    for text in ("", "raise SystemExit(3)", "os._exit(0)"):
        with program(text) as process:
            pid = pid_of(process)
            process.wait(60)
            assert is_gone(pid)


@on_linux
def test_an_interrupt_of_the_whole_group_does_not_end_it() -> None:
    """Ctrl-C in a notebook's terminal reaches both; whether to go on is the parent's decision."""
    text = (
        "try:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print(ask(r, 'pid')[0], flush=True)\n"
        "try:\n    print(0, flush=True); ask(r, 'spin', limit_s=600)\n"
        "except KeyboardInterrupt:\n    print(*ask(r, 'backwards', b'abc'), flush=True)"
    )
    with program(text, start_new_session=True) as process:
        assert process.stdout
        pid = pid_of(process)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        assert pid_of(process) == pid
        assert pid_of(process) == 0
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "3 b'cba'\n"
        assert process.wait(60) == 0
        assert is_gone(pid)


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/true", "", None])
def test_a_program_that_is_no_python(resident: Resident, monkeypatch: pytest.MonkeyPatch, program: str | None) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(WorkerError, match="worker process") as caught:
        ask(resident, "pid")
    assert "arrays, Pillow images" in str(caught.value.remedy)
    assert resident.pid is None


def test_a_frozen_program_is_not_started_again(resident: Resident, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(WorkerError, match="contains its Python"):
        ask(resident, "pid")


@on_linux
def test_a_crash_leaves_no_core(resident: Resident) -> None:
    assert ask(resident, "core")[0] == 0
