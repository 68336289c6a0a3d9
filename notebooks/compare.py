# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Compare the runtimes of a run
# How much more does one runtime cost than another, and how sure is that?
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
# ## Every trial
# A dot is one start. The diamond is the median, the line its 95 % interval (order statistics: no assumption on the
# distribution). Where dots lie in two heaps, a median says little: look at the distribution below.

# %%
show(run.plot.values(), "values")

# %% [markdown]
# ## Against the control
# In each block every runtime started once, in random order. What is compared is the ratio within a block, so that a slow
# moment of the host falls on both sides. The interval is exact (signed ranks); `1x` means no difference.

# %%
show(run.plot.paired(), "paired")

# %%
found = run.compare()
found.loc[[gated]].round(3)

# %% [markdown]
# ## Distribution and order
# A slope over the run is drift; a red edge is a trial during which the host was disturbed. Nothing was dropped.

# %%
show(run.plot.ecdf(), "ecdf")

# %%
show(run.plot.order(), "order")

# %% [markdown]
# ## All metrics
# `p_holm` is corrected for the number of rows: among so many comparisons some small p is to be expected by chance.

# %%
found[["kind", "effect", "lo", "hi", "n", "p_holm"]].round(3)
