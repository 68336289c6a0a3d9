"""The instructions that change only the configuration of an image: pure, each a few lines.

Source: Dockerfile reference; image-spec config.md for the names of the fields.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from harness.images import words
from harness.images.containerfile import Instruction
from harness.images.oci import Document
from harness.images.words import WordError

_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?")
_MAX_PORT = 65535


class NotSupportedError(ValueError):
    """An instruction that is understood and not carried out. `hint` says what to do instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(slots=True)
class Settings:
    """The configuration that a build works on. `arguments` are the ARG seen so far; `given` come from outside."""

    config: Document
    given: Mapping[str, str]
    defaults: Mapping[str, str]
    escape: str = "\\"
    env: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    has_cmd: bool = False

    @property
    def shell(self) -> tuple[str, ...]:
        """What the shell forms run in: Docker keeps SHELL in the image, and what is built on it has it too."""
        return tuple(self.config.get("Shell") or ("/bin/sh", "-c"))

    @property
    def variables(self) -> dict[str, str]:
        """What $NAME means now: ENV wins over ARG."""
        return {**self.arguments, **self.env}

    @property
    def workdir(self) -> str:
        return str(self.config.get("WorkingDir") or "/")

    def expand(self, text: str) -> str:
        return words.expand(text, self.variables, escape=self.escape)

    def split(self, text: str) -> list[str]:
        return words.split(text, self.variables, escape=self.escape)

    def expand_document(self, text: str) -> str:
        return words.expand_document(text, self.variables, escape=self.escape)

    def assignments(self, text: str) -> dict[str, str]:
        return words.assignments(text, self.variables, escape=self.escape)


def _arg(settings: Settings, instruction: Instruction) -> None:
    for word in words.split_raw(instruction.text, escape=settings.escape):
        name, equals, default = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise WordError(f"{name}: no name of a variable")
        if name in settings.given:
            settings.arguments[name] = settings.given[name]
        elif equals:
            settings.arguments[name] = settings.expand(default)
        elif name in settings.defaults:
            settings.arguments[name] = settings.defaults[name]


def _env(settings: Settings, instruction: Instruction) -> None:
    settings.env.update(settings.assignments(instruction.text))
    settings.config["Env"] = [f"{name}={value}" for name, value in settings.env.items()]


def _label(settings: Settings, instruction: Instruction) -> None:
    settings.config.setdefault("Labels", {}).update(settings.assignments(instruction.text))


def _user(settings: Settings, instruction: Instruction) -> None:
    settings.config["User"] = settings.expand(instruction.text)


def _workdir(settings: Settings, instruction: Instruction) -> None:
    path = os.path.join(settings.workdir, settings.expand(instruction.text))  # noqa: PTH118 - a path of the image
    settings.config["WorkingDir"] = os.path.normpath("/" + path.lstrip("/"))


def _expose(settings: Settings, instruction: Instruction) -> None:
    for word in settings.split(instruction.text):
        match = _PORT.fullmatch(word)
        first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (0, 0)
        if not match or not 0 < first <= last <= _MAX_PORT:
            raise WordError(f"{word}: expected PORT, PORT-PORT or PORT/PROTOCOL")
        for port in range(first, last + 1):
            settings.config.setdefault("ExposedPorts", {})[f"{port}/{match.group(3) or 'tcp'}"] = {}


def _command(settings: Settings, instruction: Instruction) -> list[str]:
    if instruction.exec_form is not None:
        return list(instruction.exec_form)
    return [*settings.shell, instruction.text]


def _cmd(settings: Settings, instruction: Instruction) -> None:
    settings.config["Cmd"] = _command(settings, instruction)
    settings.has_cmd = True


def _entrypoint(settings: Settings, instruction: Instruction) -> None:
    settings.config["Entrypoint"] = _command(settings, instruction)
    if not settings.has_cmd:  # the base's CMD was meant for the base's ENTRYPOINT
        settings.config.pop("Cmd", None)


def _volume(settings: Settings, instruction: Instruction) -> None:
    form = instruction.exec_form
    paths = [settings.expand(word) for word in form] if form is not None else settings.split(instruction.text)
    for path in paths:
        settings.config.setdefault("Volumes", {})[path] = {}


def _stopsignal(settings: Settings, instruction: Instruction) -> None:
    name = settings.expand(instruction.text)
    known = {member.name for member in signal.Signals}
    if not name.isdigit() and f"SIG{name.upper().removeprefix('SIG')}" not in known:
        raise WordError(f"{name}: no signal")
    settings.config["StopSignal"] = name


def _shell(settings: Settings, instruction: Instruction) -> None:
    if not instruction.exec_form:
        raise WordError('expected a JSON list, such as ["/bin/sh", "-c"]')
    settings.config["Shell"] = list(instruction.exec_form)


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_UNITS_NS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "µs": 10**3, "ns": 1}
_TIMES = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}


def _duration_ns(text: str) -> int:
    """Return what Go writes as 1m30s, in ns. Raises: WordError."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise WordError(f"{text}: expected a duration, such as 30s or 1m30s")
    return sum(round(float(number) * _UNITS_NS[unit]) for number, unit in parts)


def _healthcheck(settings: Settings, instruction: Instruction) -> None:
    """Docker's own field: it is not part of the OCI image format, and readers of that ignore it."""
    kind, _, command = instruction.text.partition(" ")
    if kind.upper() == "NONE" and not command.strip():
        settings.config["Healthcheck"] = {"Test": ["NONE"]}
        return
    if kind.upper() != "CMD" or not command.strip():
        raise WordError(f"{instruction.text}: expected NONE or CMD COMMAND")
    form = instruction.exec_form
    check: Document = {"Test": ["CMD", *form] if form is not None else ["CMD-SHELL", command.strip()]}
    for name, value in instruction.flags:
        if name in _TIMES:
            check[_TIMES[name]] = _duration_ns(settings.expand(value))
        elif name == "retries" and value.isdigit():
            check["Retries"] = int(value)
        else:
            raise WordError(f"--{name}={value}: expected --retries=N or one of --{', --'.join(_TIMES)} with a duration")
    settings.config["Healthcheck"] = check


def _onbuild(settings: Settings, instruction: Instruction) -> None:
    """Docker's own field: a build FROM this image takes these instructions first."""
    settings.config["OnBuild"] = [*(settings.config.get("OnBuild") or []), instruction.text]


def _maintainer(_: Settings, __: Instruction) -> None:
    raise NotSupportedError("deprecated", "LABEL org.opencontainers.image.authors=...")


HANDLERS: Mapping[str, Callable[[Settings, Instruction], None]] = {
    "ARG": _arg, "CMD": _cmd, "ENTRYPOINT": _entrypoint, "ENV": _env, "EXPOSE": _expose, "HEALTHCHECK": _healthcheck,
    "LABEL": _label, "MAINTAINER": _maintainer, "ONBUILD": _onbuild, "SHELL": _shell,
    "STOPSIGNAL": _stopsignal, "USER": _user, "VOLUME": _volume, "WORKDIR": _workdir,
}  # fmt: skip
