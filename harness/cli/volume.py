"""`harness volume ...`: directories that outlive the containers that write to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harness.cli._output import print_json
from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.engine.record import Shelf
    from harness.engine.volumes import User
    from harness.images.volumes import Volume

_SCHEMA = "harness.volume/1"
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def _shelf() -> Shelf:
    from harness.engine.record import Shelf  # noqa: PLC0415

    return Shelf()


@click.group()
def volume() -> None:
    """Keep data apart from containers: named volumes.

    A volume is a directory below the harness's own. Any number of containers may have it at once; it stays when they
    are gone, until it is removed. `harness container run -v NAME:/inside` makes one that is not there.

    \b
    Example:
      harness volume create app-data
      harness container run -v app-data:/app/data my-container
      harness volume inspect app-data
    """


@volume.command()
@click.argument("name", required=False)
@click.option("-l", "--label", "labels", metavar="NAME=VALUE", multiple=True, help="A label. Repeat it.")
@_JSON
def create(name: str | None, *, labels: tuple[str, ...], as_json: bool) -> None:
    """Make a volume and print its name; one that is there stays as it is. Without NAME, one is made up."""
    from harness.engine.request import parse_pairs  # noqa: PLC0415

    shelf = _shelf()
    with shelf.changing():
        made = shelf.volumes.create(name or shelf.new_id() + shelf.new_id(), parse_pairs("--label", labels))
    if as_json:
        print_json({"schema": _SCHEMA, "volume": _facts(made, [])})
    else:
        click.echo(made.name)


@volume.command()
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@_JSON
def ls(*, quiet: bool, as_json: bool) -> None:
    """List the volumes with what they take on the disk and which containers use them."""
    from harness.engine.volumes import users  # noqa: PLC0415

    shelf = _shelf()
    found, used = shelf.volumes.all(), users(shelf)
    if as_json:
        print_json({"schema": _SCHEMA, "volumes": [_facts(one, used.get(one.name, [])) for one in found]})
    elif quiet:
        for one in found:
            click.echo(one.name)
    elif not found:
        click.echo(f"no volumes in {shelf.volumes.path}; make one: harness volume create NAME", err=True)
    else:
        _print_table([_facts(one, used.get(one.name, [])) for one in found])


def _facts(one: Volume, users: Sequence[User]) -> dict[str, Any]:
    from harness.images.volumes import used_bytes  # noqa: PLC0415

    return {
        "name": one.name,
        "path": str(one.path),
        "created": one.created,
        "labels": dict(one.labels),
        "anonymous": one.anonymous,
        "used_bytes": used_bytes(one.path),
        "used_by": [{"container": user.container, "target": user.target} for user in users],
    }


def _print_table(found: Sequence[dict[str, Any]]) -> None:
    from harness.model.units import format_bytes  # noqa: PLC0415

    width = max(len(facts["name"]) for facts in found)
    click.echo(f"{'NAME':{width}}  {'SIZE':>9}  {'CREATED':20}  USED BY")
    for facts in found:
        users = ", ".join(dict.fromkeys(user["container"] for user in facts["used_by"])) or "-"
        size = format_bytes(facts["used_bytes"])
        click.echo(f"{facts['name']:{width}}  {size:>9}  {facts['created'] or '-':20}  {users}")


@volume.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_JSON
def inspect(names: tuple[str, ...], *, as_json: bool) -> None:
    """Show volumes: where they are, what they take, their labels, which containers have them where."""
    from harness.engine.volumes import users  # noqa: PLC0415
    from harness.model.units import format_bytes  # noqa: PLC0415

    shelf = _shelf()
    used = users(shelf)
    found = [_facts(shelf.volumes.find(name), used.get(name, [])) for name in names]
    if as_json:
        print_json({"schema": _SCHEMA, "volumes": found})
        return
    for facts in found:
        rows = [
            ("name", facts["name"]),
            ("path", facts["path"]),
            ("created", facts["created"] or "(not noted)"),
            ("takes", format_bytes(facts["used_bytes"])),
            *(("label", f"{key}={value}") for key, value in sorted(facts["labels"].items())),
            *(("used by", f"{user['container']} at {user['target']}") for user in facts["used_by"]),
        ]
        for key, value in rows:
            click.echo(f"{key:8} {value}")


@volume.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-f", "--force", is_flag=True, help="Do not mind one that is not there. A volume in use stays, even so.")
def rm(names: tuple[str, ...], *, force: bool) -> None:
    """Remove volumes with all that they hold, unless a container, running or stopped, uses them."""
    from harness.engine.volumes import remove  # noqa: PLC0415

    shelf = _shelf()
    failures: list[UsageError] = []
    for name in names:
        if force and not (shelf.volumes.path / name).exists():
            continue
        try:
            remove(shelf, name)
        except UsageError as error:
            failures.append(error)
        else:
            click.echo(name)
    if failures:
        raise UsageError("; ".join(error.message for error in failures), hint=failures[0].hint)


@volume.command()
@click.option("-a", "--all", "named", is_flag=True, help="Those that have a name too.")
@_JSON
def prune(*, named: bool, as_json: bool) -> None:
    """Remove the volumes without a name that no container uses: what killed containers left."""
    from harness.engine import volumes  # noqa: PLC0415

    removed = volumes.prune(_shelf(), named=named)
    if as_json:
        print_json({"schema": _SCHEMA, "removed": [one.name for one in removed]})
    for one in removed if not as_json else ():
        click.echo(one.name)
