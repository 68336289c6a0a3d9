# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       format_name: percent
# ---

# %% [markdown] tags=["de"]
# # Vergleich zur Virtualisierung
# Was man über Container und virtuelle Maschinen sagt, Satz für Satz, und daneben, was gemessen wurde. Jedes Urteil gilt für
# diesen Rechner, diese Arbeitslast und diese Läufe; `tcg` heißt: die VM lief in Software-Emulation, ihre Zeiten sagen nichts
# über KVM. Eine Wirkung ist ein Verhältnis, im selben Block gemessen, mit exaktem 95-%-Intervall.

# %% [markdown] tags=["en"]
# # A comparison of virtualisation
# What is said of containers and virtual machines, sentence by sentence, and beside it what was measured. Every verdict holds
# for this machine, this workload and these runs; `tcg` means that the VM ran in software emulation: its times say nothing of
# KVM. An effect is a ratio within one block, with its exact 95 % interval.

# %%
from harness import notebook

RUNS = []  # directories of runs: quickstart, layers, build-cache, portability, ...; none: those in results/reference
LANGUAGE = "de+en"  # de, en, or both
page = notebook.Page(RUNS, language=LANGUAGE)
run = page.run

# %% [markdown] tags=["de"]
# ## Die Tabelle

# %% [markdown] tags=["en"]
# ## The table

# %%
page.evidence("Operating system", "Startup time", "Resource consumption", "Portability", "Isolation")

# %% [markdown] tags=["de"]
# ## Virtuelle Maschinen

# %% [markdown] tags=["en"]
# ## Virtual machines

# %% [markdown] tags=["de"]
# ### Architektur
# > Jede VM enthält ein vollständiges Betriebssystem, eine virtuelle Kopie der Hardware und Anwendungen.
#
# Ob innen ein eigener Kernel läuft, sagt die Boot-ID, die der Agent dort liest: ist es nicht die des Wirts, ist es ein
# anderer Kernel. Ein vollständiges Betriebssystem muss es nicht sein: hier ist es ein Kernel, ein Agent und dieselbe
# Anwendung.

# %% [markdown] tags=["en"]
# ### Architecture
# > Every VM holds a complete operating system, a virtual copy of the hardware, and applications.
#
# Whether a kernel of its own runs inside is told by the boot id that the agent reads there: another one than the host's is
# another kernel. It need not be a complete operating system: here it is a kernel, an agent and the same application.

# %%
page.evidence("Operating system")
page.properties("isolation.kernel.shared", "isolation.devices.visible")

# %% [markdown] tags=["de"]
# ### Ressourcenverbrauch
# > VMs sind ressourcenintensiv, da sie komplette Betriebssysteme laden.
#
# Der Speicher des Wirts für eine Instanz; jede Seite zählt einmal.

# %% [markdown] tags=["en"]
# ### Resource consumption
# > VMs are resource-intensive, because they load complete operating systems.
#
# The host's memory for one instance; every page counts once.

# %%
page.evidence("Resource consumption")
page.try_show(run.plot.memory, page.say("Mediane; Punkte sind einzelne Versuche", "medians; dots are single trials"))

# %% [markdown] tags=["de"]
# ### Startzeit
# > VMs benötigen mehr Zeit zum Starten, da das gesamte Betriebssystem initialisiert wird.
#
# Ein Punkt ist ein Start. Wo die Zeit bleibt, zeigen die Phasen: Firmware, Kernel und der Weg bis zum Agenten kommen nur in
# der VM vor.

# %% [markdown] tags=["en"]
# ### Startup time
# > VMs take longer to start, because the whole operating system is initialised.
#
# A dot is a start. Where the time goes is shown by the phases: firmware, kernel and the way to the agent exist in the VM
# only.

# %%
page.evidence("Startup time")
page.try_show(lambda: run.plot.values("startup.ready"), page.say("Zeit bis bereit", "time until ready"))
for name in run.meta.runtimes:
    if run.meta.arms[name].get("boundary") == "vm":
        page.try_show(lambda name=name: run.plot.phases(name), page.say(f"Phasen von {name}", f"phases of {name}"))

# %% [markdown] tags=["de"]
# ### Flexibilität
# > Bieten vollständige Isolierung, da jede VM eine eigene Kernel-Instanz verwendet.
#
# Die eigene Kernel-Instanz ist gemessen; dass nichts hindurchkommt, ist es nicht.

# %% [markdown] tags=["en"]
# ### Flexibility
# > They offer complete isolation, because every VM uses a kernel instance of its own.
#
# The kernel of its own is measured; that nothing gets through is not.

# %%
page.evidence("Isolation")

# %% [markdown] tags=["de"]
# ## Container

# %% [markdown] tags=["en"]
# ## Containers

# %% [markdown] tags=["de"]
# ### Architektur
# > Container teilen sich denselben Betriebssystem-Kernel, isolieren jedoch Anwendungen und deren Abhängigkeiten.
#
# Was ein Container vom Wirt trennt, ist eine Liste von Eigenschaften, keine Zahl. Ein Stern: auf einem eigenen Kernel, also
# keine Macht über den Wirt.

# %% [markdown] tags=["en"]
# ### Architecture
# > Containers share the operating system's kernel, but isolate applications and what they depend on.
#
# What parts a container from the host is a list of properties, not a number. A star: on a kernel of its own, so no power
# over the host.

# %%
page.try_show(run.plot.isolation, page.say("grün: hier am besten, orange: am schlechtesten", "green: best here, orange: worst"))

# %% [markdown] tags=["de"]
# ### Ressourcenverbrauch
# > Container sind leichtgewichtig, da sie kein eigenes Betriebssystem benötigen.
#
# Gegen den nackten Prozess gehalten: was der Container zu ihm hinzufügt.

# %% [markdown] tags=["en"]
# ### Resource consumption
# > Containers are light-weight, because they need no operating system of their own.
#
# Held against the bare process: what the container adds to it.

# %%
page.measured("memory.pss")
many = next((one for one in page.runs if not one.density.empty), None)
if many:
    page.try_show(lambda: many.plot.density("density.pss"), page.say("je Anzahl Instanzen", "by number of instances"), run=many)
else:
    page.missing("what each further instance costs", "three-by-three", de="was jede weitere Instanz kostet")

# %% [markdown] tags=["de"]
# ### Startzeit
# > Container starten nahezu sofort, da nur die Anwendung und deren Abhängigkeiten geladen werden.

# %% [markdown] tags=["en"]
# ### Startup time
# > Containers start almost at once, because only the application and what it depends on are loaded.

# %%
page.measured("startup.ready")

# %% [markdown] tags=["de"]
# ### Flexibilität
# > Container sind portabler, da sie weniger Ressourcen benötigen und plattformunabhängig sind.
#
# Dieselben Dateien als Image und als VM, in jeweils der kleinsten Form. Plattformunabhängig ist ein Container nicht: er
# braucht einen Linux-Kernel und die CPU, für die er gebaut ist.

# %% [markdown] tags=["en"]
# ### Flexibility
# > Containers are more portable, because they need fewer resources and are independent of the platform.
#
# The same files as an image and as a VM, each in its smallest form. Independent of the platform a container is not: it needs
# a Linux kernel and the CPU that it was built for.

# %%
page.evidence("Portability")
moved = page.of("portability")
if moved:
    page.try_show(lambda: moved.plot.values("portability.bytes"), page.say("zu verschicken", "to ship"), run=moved)

# %% [markdown] tags=["de"]
# ## Container-Layering und Speicher-Management
# > Jedes Docker-Image beginnt mit einer Basisschicht. Weitere Schichten enthalten Änderungen. Jeder laufende Container hat
# > eine zusätzliche Schreib-Schicht.
#
# So auch im eingebauten Container dieses Projekts: dieselben Schichten, per OverlayFS oder anders verbunden.

# %% [markdown] tags=["en"]
# ## Layers and storage
# > Every Docker image begins with a base layer. Further layers hold changes. Every running container has a writable layer on
# > top.
#
# So it is in this project's built-in container: the same layers, joined by OverlayFS or otherwise.

# %% [markdown] tags=["de"]
# ### Effizienz
# > Gemeinsame Schichten werden zwischen Containern wiederverwendet, was Speicher spart.

# %% [markdown] tags=["en"]
# ### Efficiency
# > Shared layers are used by several containers, which saves storage.

# %%
page.evidence("Layers: efficiency")
layers = page.of("layers")
if layers:
    page.try_show(lambda: layers.plot.values("layers.disk"), page.say("Platz aller Images zusammen", "space of all images"),
                  run=layers)

# %% [markdown] tags=["de"]
# ### Portabilität
# > Änderungen an einem Container erfordern nicht den Neuaufbau des gesamten Images.

# %% [markdown] tags=["en"]
# ### Portability
# > Changes of a container do not need the whole image to be built anew.

# %%
page.evidence("Layers: changes")

# %% [markdown] tags=["de"]
# ### Caching
# > Docker speichert Schichten im Cache, um Builds zu beschleunigen.

# %% [markdown] tags=["en"]
# ### Caching
# > Docker keeps layers in a cache to make builds quicker.

# %%
page.evidence("Layers: caching")
build = page.of("build-cache")
if build:
    page.try_show(lambda: build.plot.values("build.duration"), page.say("Dauer eines Builds", "duration of a build"), run=build)

# %% [markdown] tags=["de"]
# ### Speichertreiber
# > 1. **OverlayFS**: Kombiniert mehrere Schichten zu einem einheitlichen Dateisystem.
# > 2. **aufs**: Unterstützt Layering, ist jedoch weniger verbreitet.
# > 3. **Device Mapper**: Nutzt Block-Level-Speicher für die Verwaltung.
#
# Was dem Kernel des Wirts fehlt, wird in einem Gast gemessen; aufs ist in keinem Kernel einer Distribution.

# %% [markdown] tags=["en"]
# ### Storage drivers
# > 1. **OverlayFS**: joins several layers to one file system.
# > 2. **aufs**: supports layers, but is less common.
# > 3. **Device Mapper**: uses storage by blocks.
#
# What the host's kernel lacks is measured in a guest; aufs is in no distribution's kernel.

# %%
page.evidence("OverlayFS", "aufs", "Device Mapper")

# %% [markdown] tags=["de"]
# ### Persistente Daten
# > Daten, die nach dem Neustart eines Containers erhalten bleiben sollen, werden in **Volumes** gespeichert. Bind Mounts
# > verknüpfen Container mit einem Host-Verzeichnis; Volumes sind von Docker verwaltete Speicherorte.

# %% [markdown] tags=["en"]
# ### Persistent data
# > Data that is to survive a restart of a container lies in **volumes**. Bind mounts join a container and a directory of the
# > host; volumes are places that Docker manages.

# %%
page.evidence("Volumes", "Bind mounts")

# %% [markdown] tags=["de"]
# ## Alles auf einen Blick
# Dasselbe als Datei: `harness claims LAUF... --output folie.png`, oder `.html`, `.md`.

# %% [markdown] tags=["en"]
# ## All at one glance
# The same as a file: `harness claims RUN... --output slide.png`, or `.html`, `.md`.

# %%
page.slide()
