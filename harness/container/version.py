"""The version of the runtime, which stands alone: the distribution's own is taken from here."""

VERSION = "0.1.0"
