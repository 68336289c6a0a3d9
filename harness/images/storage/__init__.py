"""Storage drivers: how read-only layers and a writable one become a root file system.

    seam.py      the seam: Driver, Kind, Mounted; containerd's snapshotter is the model
    kinds.py     the drivers by name, and a real probe of each
    overlay.py  fuse_overlayfs.py  vfs.py  btrfs.py  erofs.py  devicemapper.py  aufs.py     one file a driver
    detached.py  mounts that no mount namespace holds: they end with their fds, and the host never sees them
    applying.py  a layer in overlay's form onto a directory, or into the form of aufs
    loop.py      files as block devices, which end with their last user
    usage.py     bytes that a tree takes for itself alone
    padding.py   layers that change nothing
    leftovers.py what a dead run left

Layers are directories in overlay's own form (a whiteout is a character device 0:0, an opaque directory has the extended
attribute trusted.overlay.opaque=y), as `harness.images.stack` has them. It all runs in a guest too: nothing but the
standard library is imported.
"""
