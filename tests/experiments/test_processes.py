"""Whatever happens to the process, the caller learns it in one line and lives on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments import processes
from recbole_r3vae.experiments.processes import in_own_process, in_own_processes


def double(x):
    return 2 * x, os.getpid()


def fail_as_user():
    raise UserError("give\n  another value")


def crash():
    raise ZeroDivisionError("by zero")


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def exit_early():
    os._exit(7)


def wait_forever(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def test_the_value_comes_from_another_process():
    (value, pid), error = in_own_process(double, 21)
    assert value == 42 and error is None and pid != os.getpid()


def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.01)


def write_or_wait(path, writes):
    Path(path).touch() if writes else wait_for(path)
    return writes, os.environ["OMP_NUM_THREADS"]


def test_several_run_at_once_each_with_its_threads(tmp_path, monkeypatch):
    """The first ends only when the second has run."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    path = str(tmp_path / "signal")
    ended = sorted(in_own_processes(write_or_wait, [(path, False), (path, True)], workers=2, threads=3))
    assert ended == [(0, (False, "3"), None), (1, (True, "3"), None)] and os.environ["OMP_NUM_THREADS"] == "7"


def test_an_interrupted_caller_ends_those_that_run(tmp_path):
    ending = in_own_processes(be_first_or_wait, [(str(tmp_path), number) for number in range(2)], workers=2)
    assert next(ending) == (0, None, None)
    pid = int((tmp_path / "1").read_text())
    assert alive(pid)
    ending.close()
    assert not alive(pid)


def be_first_or_wait(folder, number):
    if number:
        wait_forever(Path(folder) / "1")
    wait_until(lambda: (Path(folder) / "1").is_file() and (Path(folder) / "1").read_text())


@pytest.mark.parametrize("function, expected", [
    (fail_as_user, "give another value"),
    (crash, "ZeroDivisionError: by zero"),
    (be_killed, "killed by SIGKILL, as the system does when memory runs out"),
    (exit_early, "exit status 7"),
])  # fmt: skip
def test_failures_are_one_line(function, expected, capfd):
    value, error = in_own_process(function)
    assert value is None and expected in error and "\n" not in error
    assert ("Traceback" in capfd.readouterr().err) == (function is crash)  # only a mistake of ours needs one


def test_a_killed_caller_leaves_no_process_behind(tmp_path):
    script = "from test_processes import *\nif __name__ == '__main__': in_own_process(wait_forever, 'pid')"
    (tmp_path / "script.py").write_text(script)
    here = str(Path(__file__).parent)
    paths = os.pathsep.join([here, *filter(None, sys.path)])
    parent = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths})
    pid = tmp_path / "pid"
    wait_until(lambda: pid.is_file() and pid.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not alive(int(pid.read_text())))


def wait_until(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("waited in vain")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about yet does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_process_that_dies_within_its_answer_is_a_failure_of_its_own(monkeypatch):
    class Dead:
        exitcode = -signal.SIGKILL

        def join(self):
            pass

    def half_an_answer(*_):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        os.write(sender.fileno(), struct.pack("!i", 100) + b"x")  # announces 100 bytes
        sender.close()
        return Dead(), receiver

    monkeypatch.setattr(processes, "_start", half_an_answer)
    [(place, value, error)] = processes.in_own_processes(len, [("a",)])
    assert (place, value) == (0, None) and "kill" in error.lower()
