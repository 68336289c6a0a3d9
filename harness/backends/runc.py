"""runc, the runtime below Docker and containerd, by its own command line."""

from harness.backends._oci import OciBackend

PLUGIN = OciBackend(
    "runc", "runc (below Docker and containerd) by its command line, on an overlay mounted for it", "runc"
)
