"""SQLite: a mix of small transactions through its shell, each of them committed to the disk."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, Field

from harness.interfaces import Driven, Site
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.workloads import _driven
from harness.workloads._options import AbsolutePath

RATE = Metric(
    "sqlite.rate", Unit.PER_S, Better.HIGHER,
    "transactions a second, each an INSERT, an UPDATE and a SELECT, committed with fsync; by the host's clock, with "
    "the start of the shell",
)  # fmt: skip
CPU = _driven.cpu_metric("sqlite", "transaction")

_ACCOUNTS = 1000
# All of them must fit into one argument (MAX_ARG_STRLEN, 128 KiB), so that the shell starts once.
_ONE = "BEGIN;INSERT INTO h VALUES({n},{a});UPDATE t SET v=v+1 WHERE k={a};SELECT v FROM t WHERE k={b};COMMIT;"


class Options(_driven.InsideOptions):
    """`workload: {kind: sqlite}`"""

    program: str = Field(default="sqlite3", min_length=1, description="SQLite's shell inside the image")
    directory: AbsolutePath = Field(default="/tmp", description="where its database is, inside; writable")
    transactions: int = Field(default=500, ge=10, le=1000, description="how many")
    journal: str = Field(
        default="wal", pattern="^(wal|delete|truncate)$", description="journal mode: wal, delete, truncate"
    )


class _Sqlite(_driven.Inside):
    name = "sqlite"
    doc = "small SQLite transactions on a file system inside; the sums in the database are checked"
    options = Options
    metrics = (RATE, CPU)

    def drive(self, options: BaseModel, site: Site) -> Iterable[Measurement | Absent]:
        assert isinstance(options, Options)
        shell = (options.program, "-batch", f"{options.directory}/harness.sqlite")
        numbers = f"WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x+1 FROM c WHERE x<{_ACCOUNTS - 1})"
        make = (
            f"PRAGMA journal_mode={options.journal};CREATE TABLE t(k INTEGER PRIMARY KEY, v INTEGER);"
            f"CREATE TABLE h(n INTEGER, k INTEGER);INSERT INTO t {numbers} SELECT x, 0 FROM c;"
        )
        _driven.succeeded(site.inside((*shell, make), options.timeout_ns), options.program)
        mix = "PRAGMA synchronous=FULL;" + "".join(_transaction(n) for n in range(options.transactions))
        did, spent = _driven.spending(site, lambda: site.inside((*shell, mix), options.timeout_ns))
        _driven.succeeded(did, options.program)
        sums = site.inside((*shell, "SELECT (SELECT count(*) FROM h), (SELECT sum(v) FROM t);"), options.timeout_ns)
        found = _driven.succeeded(sums, options.program).stdout.decode().strip()
        if found != f"{options.transactions}|{options.transactions}":
            raise ValueError(f"{options.transactions} transactions were committed, the database holds {found}")
        rate = options.transactions * 1e9 / did.took_ns
        return (Measurement(RATE, rate, {"journal": options.journal}), spent.per(CPU, options.transactions))


def _transaction(number: int) -> str:
    return _ONE.format(n=number, a=number * 7919 % _ACCOUNTS, b=number * 104729 % _ACCOUNTS)


PLUGIN: Driven = _Sqlite()
