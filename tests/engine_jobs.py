"""What engines of the tests do: chat, and whatever a process can do wrong."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.inputs.message import Image, Message
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.model import Generation
from edgekit.serve.jobs import Event, Job

Events = Generator[Event, None, None]


def chat(model: Any, job: Job, cancelled: threading.Event) -> Events:
    """A conversation's answer, as the server's own engines give it."""
    messages = [
        Message(one["role"], *[part.get("text") or Image(job.images[part["image"]]) for part in one["parts"]])
        for one in job.body["messages"]
    ]
    options = dict(job.body["options"])
    options["logit_bias"] = {int(token): bias for token, bias in options.get("logit_bias", {}).items()}
    for item in model.generate(messages, GenerationOptions(**options, cancelled=cancelled)):
        if isinstance(item, Generation):
            yield Event("answer", {"text": item.text, "output_tokens": item.output_tokens, "stopped": item.stopped})
        else:
            yield Event("piece", {"text": str(item)})


def misbehave(model: Any, job: Job, cancelled: threading.Event) -> Events:
    """Does what `do` says; without it, a chat."""
    does = job.body.get("do")
    if does is None:
        yield from chat(model, job, cancelled)
    else:
        yield from DOES[does](job, cancelled)


def echo(job: Job, cancelled: threading.Event) -> Events:
    yield Event("result", {"lengths": list(map(len, job.images))}, b"".join(job.images))


def crash(job: Job, cancelled: threading.Event) -> Events:
    yield Event("piece", {"text": "before"})
    time.sleep(job.body.get("after_s", 0))
    signal.raise_signal(signal.SIGSEGV)  # at this very thread, which does not go on meanwhile


def refuse(job: Job, cancelled: threading.Event) -> Events:
    raise InputError("no such thing", allowed="another", remedy="ask otherwise")
    yield


def mistake(job: Job, cancelled: threading.Event) -> Events:
    raise ValueError("what Erika Mustermann said")
    yield


def wait(job: Job, cancelled: threading.Event) -> Events:
    """Until it is cancelled, or for so long."""
    yield Event("piece", {"text": "waiting"})
    cancelled.wait(job.body.get("seconds", 60))
    yield Event("result", {})


def ignore(job: Job, cancelled: threading.Event) -> Events:
    """A library that cannot be interrupted."""
    yield Event("piece", {"text": "deaf"})
    time.sleep(job.body["seconds"])
    yield Event("result", {})


def hold(job: Job, cancelled: threading.Event) -> Events:
    """A library that neither returns nor lets other threads run."""
    yield Event("piece", {"text": "holds"})
    ctypes.PyDLL(None).sleep(job.body["seconds"])
    yield Event("result", {})


def count(job: Job, cancelled: threading.Event) -> Events:
    """More than anybody reads; how far it came stands in a file."""
    for number in range(job.body["events"]):
        if "file" in job.body and number % 100 == 0:
            Path(job.body["file"]).write_text(str(number))
        yield Event("piece", {"text": str(number)})


def _raw(data: bytes) -> Events:
    """Bytes where frames should be: the process's descriptors that are pipes, but the first, which it reads."""
    pipes = [fd for fd in range(3, 10) if _is_written(fd)]
    os.write(pipes[0], data)
    time.sleep(60)
    yield Event("result", {})


def _is_written(descriptor: int) -> bool:
    try:
        link = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        flags = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split("flags:")[1].split()[0]
    except OSError:
        return False
    return link.startswith("pipe:") and int(flags, 8) & os.O_ACCMODE == os.O_WRONLY


def rubbish(job: Job, cancelled: threading.Event) -> Events:
    yield from _raw(bytes.fromhex(job.body["bytes"]))


def half_a_frame(job: Job, cancelled: threading.Event) -> Events:
    os.write(next(fd for fd in range(3, 10) if _is_written(fd)), struct.pack(">II", 100, 0) + b'{"half": ')
    signal.raise_signal(signal.SIGKILL)
    yield


DOES = {
    "echo": echo,
    "crash": crash,
    "refuse": refuse,
    "mistake": mistake,
    "wait": wait,
    "ignore": ignore,
    "hold": hold,
    "count": count,
    "rubbish": rubbish,
    "half a frame": half_a_frame,
}
