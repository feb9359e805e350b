"""Whatever happens to the process, the caller learns it in one line and lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_r3vae.benchmark.processes import in_own_process
from recbole_r3vae.errors import UserError


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
