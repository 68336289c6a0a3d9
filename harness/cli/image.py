"""`harness image ...`: the images that workloads run on."""

from __future__ import annotations

import json
from typing import Any

import click

from harness.cli import _image_transfer as transfer
from harness.cli._image import JSON, image_facts, open_store, print_json
from harness.cli._image_build import build
from harness.cli._image_registry import login, logout, pull, push
from harness.cli._image_space import du, gc, rm
from harness.images import oci
from harness.images.disk import disk_image
from harness.images.oci import Image, Layer
from harness.images.roots import open_tree
from harness.model.units import format_bytes


@click.group()
def image() -> None:
    """Build, fetch, look at and pass on images.

    An image is what every runtime of a scenario starts from: containers get its files as their root, VMs get the same
    files as a read-only disk. Images live in a store on this machine, an OCI layout that other tools can read.

    \b
    First steps:
      harness image bootstrap busybox       a small base image, from Debian's package
      harness image pull debian:12-slim     or one from a registry
      harness image build images/webserver  an image of your own
      harness image ls
    """


@image.command(short_help="List the images of the store.")
@JSON
def ls(*, as_json: bool) -> None:
    """List the images of the store by name, with their digests and the size of their layers."""
    store = open_store()
    found = [image_facts(name, store.read_image(manifest)) for name, manifest in store.names().items()]
    if as_json:
        print_json(store=str(store.path), images=found)
        return
    if not found:
        click.echo(f"no images in {store.path}; make one: harness image bootstrap busybox", err=True)
        return
    width = max(len(facts["name"]) for facts in found)
    click.echo(f"{'NAME':{width}}  {'DIGEST':19}  {'LAYERS':>6}  {'SIZE':>9}")
    for facts in found:
        size = format_bytes(facts["size_bytes"])
        click.echo(f"{facts['name']:{width}}  {facts['digest'][:19]}  {facts['layers']:>6}  {size:>9}")


@image.command(short_help="Show one image: how it is run, its layers, its history.")
@click.argument("name")
@JSON
def inspect(name: str, *, as_json: bool) -> None:
    """Show one image: how it is run, its layers, and how each of them came to be."""
    store = open_store()
    found = store.find(name)
    layers = [{"digest": layer.blob.digest, "diff_id": layer.diff_id, "size_bytes": layer.blob.size_bytes}
              for layer in found.layers]  # fmt: skip
    if as_json:
        facts = {**image_facts(oci.full_name(name), found), "layers": layers, "configuration": found.document}
        print_json(image=facts)
        return
    config = found.config
    rows = [
        ("name", oci.full_name(name)),
        ("digest", found.manifest.digest),
        ("runs", json.dumps([*config.entrypoint, *config.cmd])),
        ("workdir", config.workdir),
        ("user", config.user or "0"),
        ("ports", " ".join(config.exposed_ports)),
    ]
    rows += [("env", f"{key}={value}") for key, value in config.env.items()]
    rows += [("label", f"{key}={value}") for key, value in sorted(config.labels.items())]
    rows += [("layer", f"{layer['digest']} {format_bytes(int(str(layer['size_bytes'])))}") for layer in layers]
    rows += [("made by", str(step.get("created_by", ""))) for step in found.document.get("history") or []]
    for key, value in rows:
        click.echo(f"{key:8} {value}")


@image.command(short_help="Show how an image was made, step by step.")
@click.argument("name")
@JSON
def history(name: str, *, as_json: bool) -> None:
    """Show how the image NAME was made: each step, last first, with the layer that it added."""
    steps = _steps(open_store().find(name))
    if as_json:
        print_json(name=oci.full_name(name), history=steps)
        return
    click.echo(f"{'CREATED':20}  {'SIZE':>9}  {'LAYER':19}  STEP")
    for step in reversed(steps):
        size = "-" if step["size_bytes"] is None else format_bytes(step["size_bytes"])
        made = str(step["created_by"]).removeprefix("/bin/sh -c #(nop) ").replace("\n", " ")
        click.echo(f"{step['created'] or '-':20.20}  {size:>9}  {step['layer'] or '-':19.19}  {made}")


def _steps(found: Image) -> list[dict[str, Any]]:
    """Return the history joined with the layers; layers of which it does not tell (it is optional) come last."""
    left, steps = list(found.layers), list[dict[str, Any]]()
    for entry in found.document.get("history") or []:
        layer = left.pop(0) if left and not entry.get("empty_layer") else None
        steps.append(_step(layer, str(entry.get("created") or ""), str(entry.get("created_by") or "")))
    return steps + [_step(layer, "", "") for layer in left]


def _step(layer: Layer | None, created: str, created_by: str) -> dict[str, Any]:
    return {
        "created": created or None,
        "created_by": created_by,
        "layer": layer.blob.digest if layer else None,
        "size_bytes": layer.blob.size_bytes if layer else None,
    }


@image.command(short_help="Make the disk on which a VM gets an image.")
@click.argument("name")
@click.option("--fs", type=click.Choice(["erofs", "ext4"]), default="erofs", show_default=True,
              help="ext4 is for guests whose kernel has no erofs.")  # fmt: skip
@JSON
def disk(name: str, fs: str, *, as_json: bool) -> None:
    """Make the disk on which a VM gets the image NAME, and print its path. It is made once and kept.

    The disk is a bare, read-only file system with exactly the files of the image: its root digest is the tree's.
    """
    store = open_store()
    tree = open_tree(store, store.find(name), name)
    made = disk_image(tree, store.path / "disks", "ext4" if fs == "ext4" else "erofs")
    if as_json:
        print_json(
            disk={"path": str(made.path), "fs": made.fs, "size_bytes": made.size_bytes, "root_digest": tree.digest}
        )
    else:
        click.echo(str(made.path))


for _command in (du, gc, rm, build, transfer.import_, transfer.export, transfer.bootstrap, pull, push, login, logout):
    image.add_command(_command)
