"""What all of `harness image` share: the store, and how an image is told."""

from __future__ import annotations

import json
from typing import Any

import click

from harness.host.paths import data_dir
from harness.images.oci import Image
from harness.images.store import Store

_SCHEMA = "harness.image/1"
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def open_store() -> Store:
    """Return the user's image store."""
    return Store(data_dir() / "images")


def tell(text: str) -> None:
    """Say on stderr how it goes; stdout is for results."""
    click.echo(text, err=True)


def print_json(**content: Any) -> None:
    """Print the one document of `--json`."""
    click.echo(json.dumps({"schema": _SCHEMA, **content}, indent=2))


def image_facts(name: str, image: Image) -> dict[str, Any]:
    """Return what every list of images tells of one."""
    return {
        "name": name,
        "digest": image.manifest.digest,
        "size_bytes": sum(layer.blob.size_bytes for layer in image.layers),
        "layers": len(image.layers),
    }
