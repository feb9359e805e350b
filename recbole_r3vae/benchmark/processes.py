"""Work in a process of its own: its memory can be measured, and what kills it kills nothing else."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

from recbole_r3vae.errors import UserError


def in_own_process(function: Callable, *arguments: Any) -> tuple[Any, str | None]:
    """Call a function in a new process, and wait for it.

    Args:
        function: of a module, so that the new process finds it by name.
        *arguments: plain data.

    Returns:
        What it returned and ``None``; or ``None`` and, in one line, why it did not.
    """
    context = multiprocessing.get_context("spawn")  # a forked child would inherit this process's memory and locked threads
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        answer = None
    except BaseException:  # interrupted while waiting
        process.terminate()
        raise
    finally:
        process.join()
    return answer or (None, _cause_of_death(process.exitcode))


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
