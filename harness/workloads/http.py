"""An HTTP server; ready when the agent beside it gets an answer to a GET, from inside, the same way on every side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from harness.interfaces import Workload
from harness.model.fields import Port
from harness.model.metrics import Absent, Measurement, Metric
from harness.model.spec import ImageConfig, Ready, WorkloadSpec
from harness.workloads._options import CommonOptions, ReadyCondition, compile_common


def _request_path(value: str) -> str:
    """Take what can stand in a request line (RFC 9112, section 3.2): no spaces, no controls, ASCII."""
    if not value.startswith("/") or not all("!" <= letter <= "~" for letter in value):
        raise ValueError(f"expected a path of ASCII letters without spaces that begins with /, got {value!r}")
    return value


RequestPath = Annotated[str, AfterValidator(_request_path)]


class HttpReady(ReadyCondition):
    """As for a command, and `http`: a GET of this path is answered with a status below 500."""

    http: Annotated[RequestPath, Field(description="a GET of this path is answered")] | None = None


class Options(CommonOptions):
    """`workload: {kind: http, port: 8080, ...}`"""

    port: Port = Field(description="the port that the server listens on, inside")
    ready: HttpReady = Field(default=HttpReady(http="/"), description="default: http: /")


class _Http:
    name = "http"
    doc = "an HTTP server: ready when a GET is answered with a status below 500"
    options = Options
    metrics: tuple[Metric, ...] = ()

    def compile(self, options: BaseModel, image: ImageConfig) -> WorkloadSpec:
        assert isinstance(options, Options)
        path = options.ready.http
        ready = options.ready.ready() if path is None else Ready("http", port=options.port, path=path)
        return compile_common(options, image, ready)

    def parse(self, stdout: bytes, stderr: bytes) -> Iterable[Measurement | Absent]:
        """It says nothing about itself: probes measure it."""
        return ()


PLUGIN: Workload = _Http()
