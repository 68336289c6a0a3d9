# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Compare the runtimes of a run
# How much more does one runtime cost than another, and how sure is that?

# %%
from harness import notebook

RUNS = []  # directories of runs, the one to explain first; none: those recorded in results/reference
page = notebook.Page(RUNS)
run = page.run

# %% [markdown]
# ## Every trial
# A dot is one start. The diamond is the median, the line its 95 % interval (order statistics: no assumption on the
# distribution). Where dots lie in two heaps, a median says little: look at the distribution below.

# %%
page.try_show(run.plot.values, "one dot a trial, median with its 95 % interval")

# %% [markdown]
# ## Against the control
# In each block every runtime started once, in random order. What is compared is the ratio within a block, so that a slow
# moment of the host falls on both sides. The interval is exact (signed ranks); `1x` means no difference.

# %%
page.try_show(run.plot.paired, "one dot a block, Hodges-Lehmann estimate with its exact 95 % interval")

# %%
page.measured(run.meta.headline)

# %% [markdown]
# ## Distribution and order
# A slope over the run is drift; a red edge is a trial during which the host was disturbed. Nothing was dropped.

# %%
page.try_show(run.plot.ecdf, "share of trials at or below each value")

# %%
page.try_show(run.plot.order, "values in the order in which trials ran")

# %% [markdown]
# ## All metrics
# `p_holm` is corrected for the number of rows: among so many comparisons some small p is to be expected by chance.

# %%
found = run.compare().reset_index()
page.table(
    ("metric", "runtime", "kind", "effect", "from", "to", "n", "p_holm"),
    [(row.metric, row.runtime, row.kind, *(f"{x:.4g}" for x in (row.effect, row.lo, row.hi)), str(row.n), f"{row.p_holm:.2g}")
     for row in found.itertuples()],
    "all metrics",
)
