"""Where an image lies in a registry: [REGISTRY/]REPOSITORY[:TAG] or [REGISTRY/]REPOSITORY@DIGEST, taken apart."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import ImageError, UsageError
from harness.images import oci

DOCKER_HUB = "docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    """One image of a registry. Exactly one of `tag` and `digest` says which."""

    registry: str
    repository: str
    tag: str
    digest: str

    def __str__(self) -> str:
        return f"{self.place}@{self.digest}" if self.digest else f"{self.place}:{self.tag}"

    @property
    def place(self) -> str:
        """The repository with its registry, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def local_name(self) -> str:
        """The name in the store: Docker Hub's short; what is fetched by digest gets the tag sha256-HEX."""
        return oci.full_name(f"{self.place}:{self.tag or self.digest.replace(':', '-')}")

    def at(self, digest: str) -> Reference:
        """Return the image of that digest in the same repository."""
        return Reference(self.registry, self.repository, "", digest)


def parse_reference(text: str) -> Reference:
    """Return what a reference says; without a registry it is Docker Hub, without a tag `latest`.

    A first part with a dot or a port, or `localhost`, is the registry. Where there is a digest, a tag says nothing.
    Raises: UsageError.
    """
    name, at, digest = text.partition("@")
    if at:
        try:
            oci.check_digest(digest, f"image reference: {text}")
        except ImageError as error:
            raise UsageError(f"image reference: {text}: not of the form NAME@sha256:HEX") from error
    oci.full_name(name)
    first, slash, rest = name.partition("/")
    registry, path = (first, rest) if slash and _is_host(first) else (DOCKER_HUB, name)
    repository, _, tag = path.partition(":")
    if registry in {DOCKER_HUB, "index.docker.io"}:
        registry, repository = DOCKER_HUB, repository if "/" in repository else f"library/{repository}"
    return Reference(registry, repository, "" if digest else tag or "latest", digest)


def _is_host(part: str) -> bool:
    return "." in part or ":" in part or part == "localhost"
