"""The processes that train one network together: who this one is, how the others are started, and how all of them end.

On one machine they are started from here, each with the environment that ``torchrun`` would give it; under
``torchrun`` they are there already. All do the same, and only the first of all writes anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar, cast

from anomaly_spotter.errors import ConfigError, SpotterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from anomaly_spotter.config import TrainingConfig

    _Member = tuple[SpawnProcess, "Connection"]

Found = TypeVar("Found")

LOST = "another process of this training has ended; the same command with --resume goes on after the last whole epoch"
_LOCAL = "127.0.0.1"
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}
_ELSEWHERE = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")  # what the machines must be told to find each other


@dataclass(frozen=True, slots=True)
class Member:
    """One of the processes that train together.

    Attributes:
        rank: Its number among all.
        count: How many there are.
        devices: How many of them are on this machine.
    """

    rank: int = 0
    count: int = 1
    devices: int = 1


def member() -> Member:
    """Who this process is; the only one, where ``torchrun`` or :func:`together` has not started it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Member()
    return Member(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))


def leads(settings: TrainingConfig) -> bool:
    """Whether this process is the one that writes and speaks."""
    if "TORCHELASTIC_RUN_ID" in os.environ or settings.nodes == 1:
        return member().rank == 0
    return int(os.environ.get("NODE_RANK", "0")) == 0


def starts_others(settings: TrainingConfig) -> bool:
    """Whether the processes are to be started from here.

    Raises:
        ConfigError: The settings ask for others than those that ``torchrun`` has started, or for more graphics cards
            than there are, or the machines were not told how to find each other.
    """
    here, count = member(), settings.devices * settings.nodes
    if here.count > 1:
        if (here.devices, here.count) != (settings.devices, count):
            raise ConfigError(
                f"torchrun started {here.devices} of {here.count} processes here, the settings say {settings.devices} of "
                f"{count}; set training.devices={here.devices} and training.nodes={here.count // here.devices}"
            )
        return False
    if settings.nodes > 1 and (missing := [name for name in _ELSEWHERE if name not in os.environ]):
        raise ConfigError(
            f"training.nodes is {settings.nodes}, but {', '.join(missing)} is not set; start with torchrun, or set "
            f"{', '.join(_ELSEWHERE)} on every machine"
        )
    _require_cards(settings.devices)
    return count > 1


def together(work: Callable[[ctypes.c_bool], Found], settings: TrainingConfig) -> Found:
    """Run ``work`` in all of this machine's processes; gives what the first of them returned.

    Args:
        work: Can be pickled; it ends soon after the value that it is called with becomes true, upon Ctrl-C.
        settings: How many processes.

    Raises:
        SpotterError: One of them raised it, or ended without a word, killed for example; the others are ended then.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.RawValue(ctypes.c_bool, False)
    meeting, whole = (
        _meeting_point(settings),
        pickle.dumps(work),
    )  # as bytes: tensors would be shared otherwise
    members: list[_Member] = []
    try:
        with _deaf_to_ctrl_c():
            for device in range(settings.devices):
                receiver, sender = context.Pipe(duplex=False)
                environment = meeting | _environment(settings, device)
                process = context.Process(target=_work, args=(whole, stop, environment, sender), daemon=True)
                process.start()
                sender.close()  # only the process itself holds it now: its end is the end of the pipe
                members.append((process, receiver))
        with requested_by_ctrl_c(stop):
            return cast("Found", _answers(members)[0])
    finally:
        for process, _ in members:
            process.kill()  # one that has ended does not mind; files are written whole or not at all
            process.join()


@contextlib.contextmanager
def requested_by_ctrl_c(stop: ctypes.c_bool) -> Iterator[None]:
    """Ctrl-C makes ``stop`` true instead of tearing through a step or a write."""
    if threading.current_thread() is not threading.main_thread():  # signals reach only the main thread
        yield
        return

    def request(*_: object) -> None:
        stop.value = True

    before = signal.signal(signal.SIGINT, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _answers(members: Sequence[_Member]) -> list[Any]:
    answers: dict[Connection, Any] = {}
    waiting = {receiver: process for process, receiver in members}
    while waiting:
        errors = []
        for receiver in cast("list[Connection]", wait(list(waiting))):
            process = waiting.pop(receiver)
            try:
                answers[receiver] = receiver.recv()
            except (EOFError, OSError):
                process.join()
                raise SpotterError(f"{process.name} {_ending(process.exitcode)}: {LOST}") from None
            if isinstance(answers[receiver], Exception):
                errors.append(answers[receiver])
        if errors:  # only now: a process that was killed says more than those that miss it
            raise errors[0]
    return [answers[receiver] for _, receiver in members]


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"was killed by {signal.Signals(-exitcode).name}"
    return f"ended with code {exitcode}"


def _work(work: bytes, stop: ctypes.c_bool, environment: Mapping[str, str], sender: Connection) -> None:
    """What a started process does."""
    import cv2
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    threads = max(1, torch.get_num_threads() // int(environment["LOCAL_WORLD_SIZE"]))
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        answer = pickle.loads(work)(stop)  # noqa: S301  the parent's own
        torch.distributed.destroy_process_group()
    except Exception as error:  # noqa: BLE001  whatever it is, it is raised where the user called
        if "ANOMALY_SPOTTER_DEBUG" in os.environ:
            traceback.print_exc()
        known = isinstance(error, SpotterError | MemoryError)
        answer = error if known else RuntimeError(f"{type(error).__name__}: {error}")
    sender.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Started processes inherit it: a terminal sends Ctrl-C to all, but only the parent knows how to end them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _meeting_point(settings: TrainingConfig) -> dict[str, str]:
    if settings.nodes > 1:
        return {name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
    with socket.socket() as free:
        free.bind((_LOCAL, 0))
        found = {"MASTER_ADDR": _LOCAL, "MASTER_PORT": str(free.getsockname()[1])}
    if sys.platform in _LOOPBACK:  # no packet needs to leave this machine
        found["GLOO_SOCKET_IFNAME"] = _LOOPBACK[sys.platform]
    return found


def _environment(settings: TrainingConfig, device: int) -> dict[str, str]:
    """What ``torchrun`` tells a process."""
    node = int(os.environ["NODE_RANK"]) if settings.nodes > 1 else 0
    return {
        "TORCHELASTIC_RUN_ID": "anomaly-spotter",
        "GROUP_RANK": str(node),
        "RANK": str(node * settings.devices + device),
        "LOCAL_RANK": str(device),
        "WORLD_SIZE": str(settings.nodes * settings.devices),
        "LOCAL_WORLD_SIZE": str(settings.devices),
    }


def _require_cards(devices: int) -> None:
    import torch

    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise ConfigError(
            f"training.devices is {devices}, this machine has {torch.cuda.device_count()} graphics cards; ask for as many"
        )


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether an error of a collective operation says that another process is gone."""
    import torch

    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in words)
