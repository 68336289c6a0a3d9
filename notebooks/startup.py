# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Where a start spends its time
# From `requested` to `ready`, milestone by milestone, all on the host's clock.
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
# ## Phases
# Each bar reaches from one milestone to the next (medians). `init` is the agent as pid 1, `exec` the workload's execve,
# `ready` the moment at which its readiness condition holds. A VM has a firmware and a kernel to start before that.

# %%
for name in run.meta.runtimes:
    show(run.plot.phases(name), f"phases-{name}")

# %% [markdown]
# ## Milestones in numbers
# Medians in ms since `requested`.

# %%
medians = run.summary()["median"].unstack("runtime")
milestones = medians[medians.index.str.startswith("startup.")] / 1e6
milestones.round(2)

# %% [markdown]
# ## What the marks themselves cost
# A mark that reaches the host late makes its milestone late: `marker.delivery` is how late, `marker.write` what the sender
# paid. In a VM only the part above the quickest mark can be told: guest clocks are never subtracted from the host's.

# %%
(medians[medians.index.str.startswith("marker.")] / 1e3).round(1)
