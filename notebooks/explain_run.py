# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Explain a run
# How long does each runtime take until the workload is ready, where does that time go, and who holds the memory?
# Set `RUN` to a run directory; without it the recorded reference run is shown.

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt

import harness

HERE = Path(__file__).parent if "__file__" in globals() else Path.cwd()
ARGUMENTS = sys.argv[1:] if "__file__" in globals() else []
RUN = Path(ARGUMENTS[0]) if ARGUMENTS else max((HERE.parent / "results" / "reference").glob("*/run.json")).parent
CHARTS = Path(ARGUMENTS[1]) if len(ARGUMENTS) > 1 else None

run = harness.load(RUN)
trials = run.trials
runtimes = list(run.meta.runtimes)
counted = trials[~trials["warmup"] & (trials["status"] == "ok")]
labels = {
    name: f"{name} (tcg)" if run.meta.arms[name].get("accelerator") == "tcg" else name for name in runtimes
}
COLOURS = dict(zip(runtimes, ["#4c72b0", "#55a868", "#c44e52", "#8172b2", "#ccb974"], strict=False))


def show(figure: plt.Figure, name: str) -> None:
    """Save the chart where the command line asks for it, else leave it to the notebook."""
    if CHARTS is not None:
        CHARTS.mkdir(parents=True, exist_ok=True)
        figure.savefig(CHARTS / f"{name}.png", dpi=120, bbox_inches="tight")


def values_of(metric: str, runtime: str):
    chosen = counted[(counted["metric"] == metric) & (counted["runtime"] == runtime)]
    return chosen.set_index("block")["value"].dropna().sort_index()


# %% [markdown]
# ## Time until ready
# One dot is one start. A line joins the starts of one block: they ran within seconds of each other, in random order, so a
# slow moment of the host moves a whole line and not the ratio. The axis is logarithmic.

# %%
figure, axes = plt.subplots(figsize=(7, 4.2))
ready = {name: values_of("startup.ready", name) / 1e6 for name in runtimes}
for block in sorted(set().union(*(series.index for series in ready.values()))):
    points = [(place, ready[name][block]) for place, name in enumerate(runtimes) if block in ready[name].index]
    axes.plot(*zip(*points, strict=True), color="0.8", linewidth=0.8, zorder=1)
for place, name in enumerate(runtimes):
    axes.scatter([place] * len(ready[name]), ready[name], color=COLOURS[name], s=22, alpha=0.8, zorder=2)
    median = ready[name].median()
    text = f"{median / 1000:.2f} s" if median >= 1000 else f"{median:.1f} ms"
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.annotate(text, (place, median), xytext=(14, 0), textcoords="offset points", va="center", bbox=box)
axes.set_yscale("log")
axes.set_xlim(-0.5, len(runtimes) - 0.2)
axes.set_xticks(range(len(runtimes)), [labels[name] for name in runtimes])
axes.set_ylabel("requested to ready, ms")
axes.set_title(f"{run.meta.scenario}: time until ready, {len(ready[runtimes[0]])} blocks")
axes.spines[["top", "right"]].set_visible(False)
show(figure, "ready")

# %% [markdown]
# ## Where the time goes
# The milestones of a start, as the share of each runtime's own time until ready (medians). Absolute lengths would hide
# everything but the slowest runtime.

# %%
LADDER = ["runtime.exec", "vmm.exec", "firmware", "kernel", "init", "exec", "ready"]
MEANING = {
    "runtime.exec": "launcher starts", "vmm.exec": "QEMU starts", "firmware": "QEMU sets up, firmware begins",
    "kernel": "firmware, kernel is loaded", "init": "kernel or mounts, until the agent runs",
    "exec": "agent prepares", "ready": "workload starts",
}  # fmt: skip
SHADES = dict(zip(LADDER, ["#9ecae1", "#6baed6", "#fdd0a2", "#fdae6b", "#e6550d", "#a1d99b", "#31a354"], strict=True))
figure, axes = plt.subplots(figsize=(8.5, 0.75 * len(runtimes) + 1.6))
used = []
for place, name in enumerate(runtimes):
    medians = {step: values_of(f"startup.{step}", name).median() for step in LADDER}
    steps = [(step, value) for step, value in medians.items() if value == value]
    total, before = steps[-1][1], 0.0
    for step, value in steps:
        axes.barh(place, (value - before) / total, left=before / total, color=SHADES[step], edgecolor="white")
        before = value
        used += [step] if step not in used else []
handles = [plt.Rectangle((0, 0), 1, 1, color=SHADES[step]) for step in LADDER if step in used]
axes.legend(handles, [MEANING[step] for step in LADDER if step in used], loc="upper center",
            bbox_to_anchor=(0.5, -0.12), ncol=3, frameon=False, fontsize=8)  # fmt: skip
axes.set_yticks(range(len(runtimes)), [labels[name] for name in runtimes])
axes.invert_yaxis()
axes.set_xlim(0, 1)
axes.xaxis.set_major_formatter(lambda share, _position: f"{share:.0%}")
axes.set_title("Where the time until ready goes (share of each runtime's own time)")
axes.spines[["top", "right"]].set_visible(False)
show(figure, "ladder")

# %% [markdown]
# ## Memory of the host
# What the host gives for one instance: proportional set size, so that shared pages count once. For a VM it is split into
# the guest's RAM and the rest of the VMM (under TCG most of that is translated code).

# %%
MIB = 1 << 20
figure, axes = plt.subplots(figsize=(7, 0.6 * len(runtimes) + 1.4))
for place, name in enumerate(runtimes):
    pss = values_of("memory.pss", name).median() / MIB
    ram = values_of("memory.guest_ram", name).median() / MIB
    parts = [(pss, "#4c72b0", "instance")] if ram != ram else [(ram, "#dd8452", "guest RAM"), (pss - ram, "#c44e52", "VMM")]
    left = 0.0
    for size, colour, meaning in parts:
        axes.barh(place, size, left=left, color=colour, edgecolor="white")
        if size > 10:
            axes.text(left + size / 2, place, meaning, ha="center", va="center", color="white", fontsize=8)
        left += size
    axes.annotate(f"{pss:.1f} MiB", (left, place), xytext=(4, 0), textcoords="offset points", va="center")
axes.set_yticks(range(len(runtimes)), [labels[name] for name in runtimes])
axes.invert_yaxis()
axes.margins(x=0.18)
axes.set_xlabel("proportional set size, MiB")
axes.set_title("Host memory of one instance")
axes.spines[["top", "right"]].set_visible(False)
show(figure, "memory")
