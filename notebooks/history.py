# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # How a scenario moved over its runs
# Each run is compared with its own control, so that a faster host or a busier day cancels out; what is left is compared
# over runs. A step counts when at least three runs confirm it and it is larger than the margin.

# %%
from pathlib import Path

import harness
from harness import notebook
from harness.errors import HarnessError

RUNS = []  # directories of runs; none: those recorded in results/reference
HISTORY = ""  # the directory that `harness history add` writes to; empty: the recorded one
SCENARIO = ""  # which scenario of it; empty: the one of the run if it has a history, else the first that has
page = notebook.Page(RUNS)
root = Path(HISTORY or notebook.REFERENCE / "history")
known = sorted(path.name for path in root.glob("*") if path.is_dir())
own = page.run.meta.scenario
scenario = SCENARIO or (own if own in known else next(iter(known), own))

# %% [markdown]
# ## The newest run beside those before it
# Dots are runs with their 95 % interval, hollow where trials were disturbed. The line is the median of a segment, the band
# the margin around the newest. Dashed lines are declared changes (another image, scenario or host): the series starts anew.

# %%
try:
    frame = harness.history(scenario, root)
except HarnessError as error:
    frame = None
    page.missing(f"{error.message}; `harness history add RUN` after each run begins one")
else:
    newest = frame[frame["run_id"] == frame["run_id"].iloc[-1]]
    guarded = newest[newest["metric"].isin(["startup.ready", "memory.pss", "stop.deleted"])]
    for place in guarded[["runtime", "metric"]].drop_duplicates().itertuples():
        page.trend(scenario, place.runtime, place.metric, root)

# %% [markdown]
# ## The same in numbers
# `effect` is the ratio to the control of the same run.

# %%
if frame is not None:
    ready = frame[(frame["metric"] == "startup.ready") & frame["effect"].notna()]
    page.table(
        ("run", "runtime", "effect", "from", "to", "blocks", "disturbed trials"),
        [(row.run_id, row.runtime, *(f"{x:.3g}x" for x in (row.effect, row.effect_lo, row.effect_hi)), str(row.n), str(row.noisy))
         for row in ready.itertuples()],
        "history",
    )
