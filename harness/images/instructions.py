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
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    has_cmd: bool = False

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
    settings.shell = instruction.exec_form


def _healthcheck(_: Settings, __: Instruction) -> None:
    raise NotSupportedError("not part of an OCI image", "say when it is ready in the scenario: workload.ready")


def _onbuild(_: Settings, __: Instruction) -> None:
    raise NotSupportedError("not part of an OCI image", "write the instruction in the Containerfile that needs it")


def _maintainer(_: Settings, __: Instruction) -> None:
    raise NotSupportedError("deprecated", "LABEL org.opencontainers.image.authors=...")


def _run(_: Settings, __: Instruction) -> None:
    raise NotSupportedError(
        "not supported yet: the built-in builder starts no container", "make the files beforehand and COPY them"
    )


HANDLERS: Mapping[str, Callable[[Settings, Instruction], None]] = {
    "ARG": _arg, "CMD": _cmd, "ENTRYPOINT": _entrypoint, "ENV": _env, "EXPOSE": _expose, "HEALTHCHECK": _healthcheck,
    "LABEL": _label, "MAINTAINER": _maintainer, "ONBUILD": _onbuild, "RUN": _run, "SHELL": _shell,
    "STOPSIGNAL": _stopsignal, "USER": _user, "VOLUME": _volume, "WORKDIR": _workdir,
}  # fmt: skip
