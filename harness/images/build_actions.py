"""COPY, ADD and RUN of a Containerfile as actions: flags read, variables replaced, nothing looked up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from harness.images.build_steps import Copy, Inline, Origin, Run, RunMount
from harness.images.containerfile import HEREDOC, Heredoc, Instruction
from harness.images.instructions import NotSupportedError, Settings
from harness.images.words import WordError

PROXIES = frozenset(
    name for word in ("HTTP", "HTTPS", "FTP", "NO", "ALL") for name in (f"{word}_PROXY", f"{word}_PROXY".lower())
)
"""Build arguments that every RUN sees without an ARG, and that no image and no key of the cache holds."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MODE = re.compile(r"[0-7]{3,4}")
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TRUE = {"", "true", "1"}

FindOrigin = Callable[[str], Origin]


# -- COPY and ADD ----------------------------------------------------------------------------------------------------


def copy_action(step: Instruction, settings: Settings, find_origin: FindOrigin) -> Copy:
    """Return what COPY or ADD does. Raises: WordError, NotSupportedError."""
    flags = _copy_flags(step, settings)
    form = step.exec_form
    words = [settings.expand(word) for word in form] if form is not None else settings.split(step.text)
    documents = {document.name: document for document in step.heredocs}
    found: list[Inline] = []
    sources: list[str] = []
    for word in words[:-1]:
        match = HEREDOC.fullmatch(word)
        if match and match.group(3) in documents:
            found.append(_inline(documents[match.group(3)], settings))
        else:
            sources.append(word)
    if len(words) < 2:
        raise WordError(f"{' '.join(words)}: expected SOURCE... TARGET")
    if step.keyword == "ADD":
        _refuse_urls(sources)
    origin = find_origin(flags["from"]) if "from" in flags else None
    owner, mode = flags.get("chown", ""), flags.get("chmod", "")
    if mode and not _MODE.fullmatch(mode):
        raise NotSupportedError(f"--chmod={mode}: expected an octal mode", "for instance --chmod=755")
    unpack = step.keyword == "ADD" and flags.get("unpack", "true") in _TRUE
    return Copy(tuple(sources), tuple(found), words[-1], settings.workdir, origin, owner, mode, unpack)


def _copy_flags(step: Instruction, settings: Settings) -> dict[str, str]:
    known = {"chown", "chmod", "link", "from"} if step.keyword == "COPY" else {"chown", "chmod", "link", "unpack"}
    flags = {}
    for name, text in step.flags:
        if name not in known:
            hint = f"supported: {', '.join(f'--{word}' for word in sorted(known))}"
            raise NotSupportedError(f"--{name}: unknown or not supported option", hint)
        if not text and name not in {"link", "unpack"}:
            raise WordError(f"--{name}: expected --{name}=VALUE")
        flags[name] = settings.expand(text)
    return flags


def _inline(document: Heredoc, settings: Settings) -> Inline:
    content = document.content if document.quoted else settings.expand_document(document.content)
    return Inline(document.name, content.encode("utf-8", "surrogateescape"))


def _refuse_urls(sources: list[str]) -> None:
    for source in sources:
        if "://" in source or source.startswith("git@"):
            hint = "RUN curl or wget, or download it beforehand and COPY it: it is then checked what came"
            raise NotSupportedError(f"{source}: not supported: a URL", hint)


# -- RUN -------------------------------------------------------------------------------------------------------------


def run_action(step: Instruction, settings: Settings, find_origin: FindOrigin, network: str) -> Run:
    """Return what RUN does. Raises: WordError, NotSupportedError."""
    mounts: list[RunMount] = []
    for name, text in step.flags:
        if name == "mount":
            mounts.append(_mount(settings.expand(text), settings.workdir, find_origin))
        elif name == "network" and text in {"default", "none", "host"}:
            network = network if text == "default" else text
        else:
            hint = "supported: --mount=type=bind|cache|tmpfs, --network=none|host"
            raise NotSupportedError(f"--{name}={text}: unknown or not supported option", hint)
    argv, script = _command(step, settings)
    env = {"PATH": _PATH, **settings.variables}
    untold = {name: value for name, value in settings.given.items() if name in PROXIES and name not in env}
    user = str(settings.config.get("User") or "")
    return Run(argv, env, user, settings.workdir, network, untold, tuple(mounts), script)


def _command(step: Instruction, settings: Settings) -> tuple[tuple[str, ...], Inline | None]:
    """Return the argv, and the document that it executes: one that begins with #! and is all that RUN says."""
    if step.exec_form is not None:
        if not step.exec_form:
            raise WordError("[]: expected a command")
        return step.exec_form, None
    if not step.heredocs:
        return (*settings.shell, step.text), None
    first = step.heredocs[0]
    if len(step.heredocs) == 1 and HEREDOC.fullmatch(step.text):
        if first.content.startswith("#!"):
            script = Inline(first.name, first.content.encode("utf-8", "surrogateescape"))
            return (f"/dev/pipes/{first.name}",), script
        return (*settings.shell, first.content), None
    documents = "".join(f"{document.content}{document.name}\n" for document in step.heredocs)
    return (*settings.shell, f"{step.text}\n{documents}"), None


_NAMES = {"dst": "target", "destination": "target", "src": "source", "readwrite": "rw", "readonly": "ro"}
_KNOWN = {
    "bind": {"target", "source", "from", "rw", "ro"},
    "cache": {"target", "id", "sharing", "uid", "gid", "mode", "ro"},
    "tmpfs": {"target", "size"},
}


def _mount(text: str, workdir: str, find_origin: FindOrigin) -> RunMount:
    pairs = dict(_pair(part) for part in text.split(","))
    kind = pairs.pop("type", "bind")
    if kind not in _KNOWN:
        hint = "supported: type=bind, type=cache, type=tmpfs"
        raise NotSupportedError(f"--mount=type={kind}: not supported", hint)
    unknown = set(pairs) - _KNOWN[kind]
    if unknown:
        hint = f"type={kind} takes {', '.join(sorted(_KNOWN[kind]))}"
        raise NotSupportedError(f"--mount={text}: {min(unknown)}: unknown or not supported", hint)
    if not pairs.get("target"):
        raise WordError(f"--mount={text}: expected target=PATH")
    target = pairs["target"] if pairs["target"].startswith("/") else f"{workdir.rstrip('/')}/{pairs['target']}"
    if kind == "bind":
        origin = find_origin(pairs["from"]) if "from" in pairs else None
        return RunMount("bind", target, pairs.get("source", "."), origin, writable=_is(pairs, "rw"))
    if kind == "tmpfs":
        return RunMount("tmpfs", target, writable=True, size_bytes=_size_bytes(pairs.get("size", "0")))
    if pairs.get("sharing", "shared") not in {"shared", "private", "locked"}:
        raise WordError(f"--mount={text}: sharing: expected shared, private or locked")
    owner = (_number(pairs, "uid"), _number(pairs, "gid"))
    mode = int(pairs["mode"], 8) if _MODE.fullmatch(pairs.get("mode", "")) else 0o755
    return RunMount("cache", target, id=pairs.get("id", target), writable=not _is(pairs, "ro"), owner=owner, mode=mode)


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return _NAMES.get(name, name), value


def _is(pairs: Mapping[str, str], name: str) -> bool:
    return pairs.get(name, "false") in _TRUE


def _number(pairs: Mapping[str, str], name: str) -> int:
    text = pairs.get(name, "0")
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**32 - 1:
        raise WordError(f"--mount: {name}={text}: expected a number")
    return int(text)


def _size_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([bkmg]?)", text.lower(), re.ASCII)
    if not match:
        raise WordError(f"--mount: size={text}: expected bytes, such as 64m")
    return int(match.group(1)) * _SIZES[match.group(2)]
