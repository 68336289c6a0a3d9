# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Where a start spends its time
# From `requested` to `ready`, milestone by milestone, all on the host's clock.

# %%
from harness import notebook

RUNS = []  # directories of runs, the one to explain first; none: those recorded in results/reference
page = notebook.Page(RUNS)
run = page.run

# %% [markdown]
# ## How long until ready

# %%
page.try_show(lambda: run.plot.values("startup.ready"), "one dot a start, median with its 95 % interval")

# %% [markdown]
# ## Phases
# Each bar reaches from one milestone to the next (medians). `init` is what the agent does as pid 1 before it executes the
# workload, `exec to ready` the workload itself until its readiness condition holds. Before that a container has a launcher
# that makes its isolation, and a VM has a VMM, a firmware and a kernel.

# %%
for name in run.meta.runtimes:
    page.try_show(lambda name=name: run.plot.phases(name), f"medians of the milestones of {name}")

# %% [markdown]
# ## Milestones in numbers

# %%
page.measured("startup.")

# %% [markdown]
# ## What the marks themselves cost
# A mark that reaches the host late makes its milestone late: `marker.delivery` is how late, `marker.write` what the sender
# paid. In a VM only the part above the quickest mark can be told: guest clocks are never subtracted from the host's.

# %%
page.measured("marker.")
