# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # What each runtime isolates
# Properties read from inside each instance: exact, without statistics. A composite number would hide which of them fails.

# %%
from harness import notebook

RUNS = []  # directories of runs, the one to explain first; none: those recorded in results/reference
page = notebook.Page(RUNS)
run = page.run

# %% [markdown]
# ## The grid
# Green is the best of these runtimes, orange the worst. A star marks what acts on a kernel of the guest's own: full
# capabilities over that kernel are no power over the host, which is why no colour is given.

# %%
page.try_show(run.plot.isolation, "one column a runtime, one row a property")

# %% [markdown]
# ## What was counted
# The labels behind a number name what it counts.

# %%
last = {record.spec.runtime: record for record in run.records if record.status == "ok"}
counted = sorted(
    (metric.removeprefix("isolation."), runtime, f"{value.value:g}", ", ".join(map(": ".join, value.labels.items())))
    for runtime, record in last.items()
    for metric, value in record.metrics.items()
    if metric.startswith("isolation.")
)
if counted:
    page.table(("property", "runtime", "value", "what"), counted, "properties with what they count")
else:
    page.missing("isolation", "quickstart")
