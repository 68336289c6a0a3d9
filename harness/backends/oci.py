"""Any other OCI runtime by its path: youki, or our own `harness-oci`, called as an engine calls it."""

from harness.backends._oci import OciBackend

PLUGIN = OciBackend("oci", "any OCI runtime, by `path:` of its program (youki, harness-oci)", None)
