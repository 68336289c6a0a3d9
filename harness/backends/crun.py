"""crun, the runtime below Podman, by its own command line."""

from harness.backends._oci import OciBackend

PLUGIN = OciBackend("crun", "crun (below Podman) by its command line, on an overlay mounted for it", "crun")
