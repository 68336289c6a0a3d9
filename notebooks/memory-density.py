# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Memory, and how many fit
# Who holds the memory of one instance, and what does the host give for each further one?

# %%
from harness import notebook

RUNS = []  # directories of runs, the one to explain first; none: those recorded in results/reference
page = notebook.Page(RUNS)
run = page.run

# %% [markdown]
# ## One instance
# Every page counts once: a page that several processes share is split between them (proportional set size). A VM's is
# split into the guest's RAM, what the emulation adds, and the rest of the VMM. Kernel memory that is charged to the
# instance's cgroup comes on top. Under TCG the emulator's translated code is a large part that no VM with KVM has.

# %%
single = next((one for one in (run, *page.runs) if one in page.having("memory.pss")), None)
if single:
    page.try_show(single.plot.memory, "medians; dots are single trials", run=single)
    page.measured("memory.", run=single)
else:
    page.missing("memory of one instance", "quickstart")

# %% [markdown]
# ## One more, and one more
# What a further instance costs is not what the first one cost: page cache, the image's layers and the programs are shared
# from the second on. So each trial starts 1, 2, 3 ... instances of one runtime, reads the host at each number, and the line
# through these readings is what one more takes (`memory.marginal`). `density.host` is everything the host has less, and
# feels every neighbour on that host; `density.pss` is what the instances' own processes map.

# %%
many = next((one for one in (run, *page.runs) if not one.density.empty), None)
if many:
    for metric in ("density.pss", "density.host", "density.cpu", "density.ready"):
        page.try_show(lambda metric=metric: many.plot.density(metric), f"{metric} by the number of instances", run=many)
    page.measured("memory.marginal", "cpu.marginal", "density.", run=many)
else:
    page.missing("memory by the number of instances", "three-by-three")
