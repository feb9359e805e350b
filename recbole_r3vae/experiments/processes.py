"""Work in a process of its own: its memory can be measured, and what kills it kills nothing else."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from recbole_r3vae.errors import UserError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def in_own_process(function: Callable, *arguments: Any) -> tuple[Any, str | None]:
    """Call a function in a new process, and wait for it.

    Args:
        function: of a module, so that the new process finds it by name.
        *arguments: plain data.

    Returns:
        What it returned and ``None``; or ``None`` and, in one line, why it did not.
    """
    [(_, value, error)] = in_own_processes(function, [arguments])
    return value, error


def in_own_processes(
    function: Callable, calls: Iterable[tuple], workers: int = 1, threads: int | None = None
) -> Iterator[tuple[int, Any, str | None]]:
    """Call a function many times, each time in a new process.

    Args:
        function: of a module, so that the new process finds it by name.
        calls: the arguments of each call, plain data.
        workers: so many processes at once.
        threads: of a process's numerical libraries; ``None`` leaves them their own choice.

    Yields:
        As each call ends, its place among the calls, and value and error as of :func:`in_own_process`.
    """
    waiting, running = deque(enumerate(calls)), {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                place, arguments = waiting.popleft()
                process, receiver = _start(function, arguments, threads)
                running[receiver] = place, process
            for receiver in multiprocessing.connection.wait(list(running)):
                try:
                    answer = receiver.recv()
                except (EOFError, OSError):  # it died before its answer, or within
                    answer = None
                place, process = running.pop(receiver)
                process.join()
                yield place, *(answer or (None, _cause_of_death(process.exitcode)))
    finally:  # those that run still, where the caller is interrupted
        for _, process in running.values():
            process.terminate()
            process.join()


def _start(function: Callable, arguments: tuple, threads: int | None):
    context = multiprocessing.get_context("spawn")  # a forked child would inherit this process's memory and locked threads
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, function, arguments))
    # The libraries read these when they are loaded, which is before any code of ours runs in the new process.
    with _environment({} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))):
        process.start()
    sender.close()
    return process, receiver


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(sender, function: Callable, arguments: tuple) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sender.send((function(*arguments), None))
    except UserError as error:
        sender.send((None, _one_line(error)))
    except KeyboardInterrupt:
        os._exit(130)  # the parent was interrupted too and says so
    except Exception as error:
        traceback.print_exc()
        sender.send((None, f"{type(error).__name__}: {_one_line(error)}"))


def _end_with_parent() -> None:
    """A benchmark that is killed must not leave a training behind that nobody waits for."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _cause_of_death(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with exit status {exit_code} and no result"
    name = signal.Signals(-exit_code).name
    memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{memory}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
