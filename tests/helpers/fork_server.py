"""Processes that begin with the libraries imported: forks of one that has done nothing else.

Importing torch and transformers takes some seconds, which tests with servers of their own would
spend again and again. `python -m tests.helpers.fork_server` imports them once, and forks a process
for every request, which runs a module as `python -m` would. It has one thread and has run no model,
so a fork of it is as good as a new interpreter, except that all have one hash seed, and one thread.
"""

import contextlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache

_MOST_BYTES = 1 << 20
_NO_CODE = b""


class ForkedProcess:
    """A process as `subprocess.Popen` has it, with its output in one pipe.

    Args:
        arguments: the module, and what it is given.
        environment: all variables of the process.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.args = list(arguments)
        self.returncode: int | None = None
        output, written = os.pipe()
        self._ended, ended = os.pipe()
        try:
            self.pid = _fork_server().fork(arguments, environment, written, ended)
        finally:
            os.close(written)
            os.close(ended)
        self.stdout = open(output, encoding="utf-8", errors="replace")  # noqa: SIM115
        self._read: list[str] = []
        self._reader = threading.Thread(
            target=lambda: self._read.append(self.stdout.read()), daemon=True
        )

    def poll(self) -> int | None:
        """The exit status, once it has ended; negative after a signal."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._ended, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            code = os.read(self._ended, 16)
            os.close(self._ended)
            if code == _NO_CODE:
                raise RuntimeError("the fork server has ended")
            self.returncode = int(code)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All of its output that was not read before, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not; the same may be asked again.
        """
        if not self._reader.is_alive() and not self._read:
            self._reader.start()
        self._reader.join(timeout)
        if self._reader.is_alive():
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(timeout)
        self.stdout.close()
        return self._read[0], None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class _ForkServer:
    """The process that forks, which ends with this one."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: int, ended: int
    ) -> int:
        """The id of a new process that writes to `output` and whose end is told at `ended`."""
        message = json.dumps([list(arguments), dict(environment), os.getcwd()]).encode()
        socket.send_fds(self._socket, [message], [output, ended])
        return int(self._socket.recv(16))


@cache
def _fork_server() -> _ForkServer:
    return _ForkServer()


def _serve(requests: socket.socket) -> list[str]:
    """Fork for every request. Returns in the forks only, what they are to run."""
    import trainer_jobs.stages  # noqa: F401

    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    told_at: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if woken in ready:
                os.read(woken, 512)
                _tell_ended(told_at)
            if requests not in ready:
                continue
            message, descriptors, _, _ = socket.recv_fds(requests, _MOST_BYTES, 2)
            if not message:
                os._exit(0)
            output, ended = descriptors
            arguments, environment, folder = json.loads(message)
            process = os.fork()
            if process == 0:
                break
            told_at[process] = ended
            os.close(output)
            requests.send(str(process).encode())
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in (woken, wake, ended, *told_at.values()):
        os.close(descriptor)
    requests.close()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    # made anew, since they remember whether the fork server's own were files
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return [str(argument) for argument in arguments]


def _tell_ended(told_at: dict[int, int]) -> None:
    while told_at:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return
        ended = told_at.pop(process)
        with contextlib.suppress(BrokenPipeError):
            os.write(ended, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(ended)


if __name__ == "__main__":
    name, *sys.argv[1:] = _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module(name, run_name="__main__", alter_sys=True)
