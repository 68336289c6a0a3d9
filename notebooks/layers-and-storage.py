# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Layers and storage
# What layers save, what the build cache saves, what moving an image costs, and what each way to store a container's files
# costs the workload. Name several runs: each part takes the one that measured it.

# %%
from harness import notebook

RUNS = []  # directories of runs, the one to explain first; none: those recorded in results/reference
page = notebook.Page(RUNS)
run = page.run

# %% [markdown]
# ## Shared layers
# Several images on one base, with layers and without; beside them as many disks of VMs. Sharing is measured on the disk
# and in the page cache: what a second container that reads the base adds to it.

# %%
layers = page.of("layers")
if layers:
    page.try_show(lambda: layers.plot.values("layers.disk"), "disk space of all images together", run=layers)
    page.measured("layers.", run=layers)
else:
    page.missing("layers beside flattened images", "layers")

# %% [markdown]
# ## The build cache
# One Containerfile, built from nothing, built again, and with one line changed at the top, in the middle, at the end.

# %%
build = page.of("build-cache")
if build:
    page.try_show(lambda: build.plot.values("build.duration"), "duration of a build", run=build)
    page.measured("build.", run=build)
else:
    page.missing("what the build cache saves", "build-cache")

# %% [markdown]
# ## Moving an image
# The same files as an image for containers and as a VM with disk, kernel and initramfs: bytes to ship, time to pack, to
# unpack in an empty place, and to start there once.

# %%
moved = page.of("portability")
if moved:
    page.try_show(lambda: moved.plot.values("portability.bytes"), "bytes to ship", run=moved)
    steps = {f"portability.{name}": name for name in ("export", "import", "first")}
    page.try_show(lambda: moved.plot.family(steps, "Packing, unpacking, first start"), "time of each step", run=moved)
    page.measured("portability.", run=moved)
else:
    page.missing("what moving an image costs", "portability")

# %% [markdown]
# ## The writable layer
# Read-only layers and a writable one above them are one root. The first write to a file of the image copies it up; how
# much is copied depends on the driver: the whole file (overlay), one block (btrfs, thin devices), or nothing at all,
# because the copy was made before the start (vfs). Two heaps of one runtime are two kinds of file systems below it.

# %%
SIZES = {"storage.first_write.4k": "4 KiB", "storage.first_write.1m": "1 MiB", "storage.first_write.16m": "16 MiB"}
drivers = page.of("storage-drivers", "storage-depth")
if drivers:
    page.try_show(lambda: drivers.plot.family(SIZES, "First write to a file of the image"), "by the file's size",
                  run=drivers)
    page.measured("storage.", run=drivers)
else:
    page.missing("storage drivers under a workload", "storage-drivers")

# %% [markdown]
# ## Drivers by operation
# OverlayFS, aufs and Device Mapper, with a writable layer over 20 others. What this host's kernel lacks is measured in a
# guest, where times compare with each other only; aufs is in no distribution's kernel.

# %%
OPERATIONS = {f"driver.{name}": name for name in ("prepare", "mount", "copy_up.4k", "copy_up.1m", "unmount", "remove")}
for name in ("storage-operations", "storage-drivers-guest"):
    operations = page.of(name)
    if operations:
        page.try_show(lambda: operations.plot.family(OPERATIONS, f"Operations of storage drivers ({name})"),
                      "one dot a trial, median with its 95 % interval", run=operations)
        page.measured("driver.", run=operations)
        for absent in page.report(operations).missing:
            page.missing(f"{', '.join(absent.runtimes)}: {absent.reason}")
    else:
        page.missing(f"drivers by operation ({name})", name)

# %% [markdown]
# ## Volumes and bind mounts
# Data that outlives a container lies outside its writable layer: on a volume, or in a directory of the host.

# %%
volumes = page.of("volumes")
if volumes:
    page.try_show(lambda: volumes.plot.family(SIZES, "First write, by where the data lies"), "by the file's size", run=volumes)
    page.measured("storage.first_write", "storage.sequential", run=volumes)
else:
    page.missing("volumes, bind mounts and tmpfs beside the writable layer", "volumes")
