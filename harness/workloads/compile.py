"""A C project built from its sources with gcc and make, which the image must have."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import BaseModel, Field

from harness.interfaces import Driven, Site
from harness.model.fields import DurationNs, Strings
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.workloads import _driven

TIME = Metric("compile.time", Unit.NS, Better.LOWER, "build everything anew and link it; by the host's clock")
CPU = _driven.cpu_metric("compile", "build of everything")
# The sum of the first thousand squares: 1000 * 1001 * 2001 / 6.
_SQUARES = "local sum = 0; for i = 1, 1000 do sum = sum + i * i end; print('result ' .. sum)"
_RESULT = re.compile(rb"^result (\d+)\s*$", re.MULTILINE)


class Options(_driven.InsideOptions):
    """`workload: {kind: compile}`"""

    timeout_ns: DurationNs = Field(
        default=600_000_000_000, gt=0, alias="timeout", description="how long building, and running, may take"
    )
    build: Strings = Field(
        default=("make", "-s", "-B", "-C", "/src", "lua", "CFLAGS=-O0 -DLUA_USE_POSIX"), min_length=1,
        description="what builds all of it; default: Lua, as images/packages/compile.Containerfile has it",
    )  # fmt: skip
    run: Strings = Field(
        default=("/src/lua", "-e", _SQUARES), min_length=1, description="what was built; it prints `result NUMBER`"
    )
    result: int = Field(default=333_833_500, description="that number")


class _Compile(_driven.Inside):
    name = "compile"
    doc = "build a C project with gcc; what was built is run and its result checked"
    options = Options
    metrics = (TIME, CPU)

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        assert isinstance(options, Options)
        did, spent = _driven.spending(site, lambda: site.inside(options.build, options.timeout_ns))
        _driven.succeeded(did, options.build[0])
        output = _driven.succeeded(site.inside(options.run, options.timeout_ns), options.run[0]).stdout
        found = _RESULT.search(output)
        if found is None or int(found[1]) != options.result:
            raise ValueError(f"{options.run[0]}: printed {output[-80:]!r}, result {options.result} is right")
        return (Measurement(TIME, did.took_ns), spent.per(CPU, 1))


PLUGIN: Driven = _Compile()
