# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # What each runtime isolates
# Properties read from inside each instance: exact, without statistics. A composite number would hide which of them fails.
# Set `RUN` to a run directory; without it the recorded reference run is shown.

# %%
import sys
from pathlib import Path

import harness
from harness.charts import style

HERE = Path(__file__).parent if "__file__" in globals() else Path.cwd()
ARGUMENTS = sys.argv[1:] if "__file__" in globals() else []
RUN = Path(ARGUMENTS[0]) if ARGUMENTS else max((HERE.parent / "results" / "reference").glob("*/run.json")).parent
CHARTS = Path(ARGUMENTS[1]) if len(ARGUMENTS) > 1 else None

run = harness.load(RUN)
gated = run.meta.headline


def show(axes, name):
    """Show a chart in the notebook; save it where the command line asks for it."""
    picture = style.to_png(axes.figure)
    if CHARTS is not None:
        CHARTS.mkdir(parents=True, exist_ok=True)
        (CHARTS / f"{name}.png").write_bytes(picture)
    elif "__file__" not in globals():
        from IPython.display import Image, display

        display(Image(picture, width=720, alt=f"{axes.get_title()} ({run.meta.run_id})"))


# %% [markdown]
# ## The grid
# Green is the best of these runtimes, orange the worst. A star marks what acts on a kernel of the guest's own: full
# capabilities over that kernel are no power over the host, which is why no colour is given.

# %%
show(run.plot.isolation(), "isolation")

# %% [markdown]
# ## What was counted
# The labels behind a number name what it counts.

# %%
import pandas as pd

last = {record.spec.runtime: record for record in run.records if record.status == "ok"}
rows = [
    (metric, runtime, value.value, ", ".join(f"{key}: {text}" for key, text in value.labels.items()))
    for runtime, record in last.items()
    for metric, value in record.metrics.items()
    if metric.startswith("isolation.")
]
pd.DataFrame(rows, columns=["metric", "runtime", "value", "labels"]).sort_values(["metric", "runtime"])
