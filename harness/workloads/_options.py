"""What every kind of workload shares: the command, its surroundings, and how the image's own values fill the gaps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from harness.errors import UsageError
from harness.model.fields import DurationNs, Port, Strict, Strings, exactly_one
from harness.model.spec import ImageConfig, Ready, WorkloadSpec

# What a container engine gives a process whose image sets no PATH (moby, oci/defaults: DefaultPathEnvUnix).
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USER = re.compile(r"(\d+)(?::(\d+))?")
# Linux's largest user id; 2^32 - 1 means "no change" to chown(2) and setresuid(2).
_MAX_ID = 2**32 - 2


def _user(value: object) -> object:
    """Take `1000` as well as `"1000:1000"`, and no name."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _USER.fullmatch(text):
        raise ValueError(f"expected uid or uid:gid as numbers, got {value!r}")
    return text


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"expected a path that begins with /, got {value!r}")
    return value


def _environment(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{name!r} cannot be the name of a variable")
    return value


AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class ReadyCondition(Strict):
    """When the workload counts as ready: exactly one of these."""

    exit: Annotated[bool, Field(description="it has ended with code 0")] | None = None
    line: Annotated[str, Field(min_length=1, description="a line of its stdout contains this text")] | None = None
    tcp: Annotated[Port, Field(description="127.0.0.1:PORT accepts a connection inside")] | None = None

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        exactly_one(self, type(self).model_fields)
        if self.exit is False:
            raise ValueError("exit: false says nothing: write exit: true, or another condition")
        return self

    def ready(self) -> Ready:
        if self.line is not None:
            return Ready("line", text=self.line)
        if self.tcp is not None:
            return Ready("tcp", port=self.tcp)
        return Ready("exit")


class CommonOptions(Strict):
    """Options of every kind of workload; what is left out comes from the image."""

    argv: Strings | None = Field(default=None, min_length=1, description="program and arguments")
    env: Annotated[dict[str, str], AfterValidator(_environment)] = Field(
        default_factory=dict, description="variables, over those of the image"
    )
    cwd: AbsolutePath | None = Field(default=None, description="working directory inside")
    user: Annotated[str, BeforeValidator(_user)] | None = Field(default=None, description="uid or uid:gid, as numbers")
    timeout_ns: DurationNs = Field(
        default=60_000_000_000, gt=0, alias="timeout", description="how long it may take to be ready"
    )


def compile_common(options: CommonOptions, image: ImageConfig, ready: Ready) -> WorkloadSpec:
    """Return the workload: the scenario's values over the image's. Raises: UsageError for what neither says."""
    argv = options.argv or (*image.entrypoint, *image.cmd)
    if not argv:
        raise UsageError(
            "workload.argv: missing: the image has neither ENTRYPOINT nor CMD",
            hint="add `argv: [/path/to/program, argument]` to the workload, or CMD to the Containerfile",
        )
    uid, gid = _ids(options.user if options.user is not None else image.user)
    return WorkloadSpec(
        argv=argv,
        env=_merged({"PATH": DEFAULT_PATH}, image.env, options.env),
        cwd=options.cwd or image.workdir or "/",
        uid=uid,
        gid=gid,
        ready=ready,
        timeout_ns=options.timeout_ns,
    )


def _merged(*layers: Mapping[str, str]) -> dict[str, str]:
    """Return one environment; later layers win, the order of names is kept so that every arm gets the same bytes."""
    return {name: value for layer in layers for name, value in layer.items()}


def _ids(user: str) -> tuple[int, int]:
    """Return uid and gid of `uid[:gid]`; 0 where one is not given, as container engines do without a passwd entry."""
    match = _USER.fullmatch(user) if user else None
    if user and match is None:
        raise UsageError(
            f"workload.user: {user}: the image names its user, and names differ between images",
            hint="add `user: uid:gid` with numbers to the workload",
        )
    uid, gid = (int(match.group(1)), int(match.group(2) or 0)) if match else (0, 0)
    if max(uid, gid) > _MAX_ID:
        raise UsageError(f"workload.user: {user}: an id is larger than {_MAX_ID}")
    return uid, gid
