"""The built-in container runtime. It stands alone: nothing else of harness, no third-party package.

    plan.py      what a container is, as data, and the steps that make it (pure)
    cgroups.py   groups in cgroup v1, v2 and hybrid hosts: limits, memory, kill, remove (cgroupfs.py: their files)
    launcher.py  start `harness-launch` (src/, C) with a plan and the fds that the container shall have
    runtime.py   Container: start, kill, wait, delete
    hostroot.py  the root of the control, which has no namespaces: the only mounts that the host sees
    mountinfo.py what is mounted here
    syscalls.py  the only place with ctypes

It raises ContainerError (`errors.py`) alone; backends translate it. How a start works: docs/container-runtime.md.
"""
