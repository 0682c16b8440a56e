"""`edgekit cache`: what is kept of patients' images and conversations, and where; and how to be rid of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.errors import EdgekitError, InputError
from edgekit.terminal import say

if TYPE_CHECKING:
    from edgekit.machine.kept import Kept
    from edgekit.runtime.conversation import KeptConversation


def add_options(parser: ArgumentParser) -> None:
    """Whether something is to be removed."""
    removed = parser.add_mutually_exclusive_group()
    removed.add_argument("--clear", action="store_true", help="remove all of it")
    forgotten = "remove the conversation of this name, or file; embeddings of images stay until --clear"
    removed.add_argument("--forget", metavar="NAME", help=forgotten)


def run(options: Namespace) -> int:
    """Show what is kept, or remove it."""
    from edgekit.machine.kept import COMPUTED, CONVERSATIONS, IMAGES, Kept
    from edgekit.runtime.conversation import kept_conversations

    kept = {kind: Kept(kind) for kind in (IMAGES, CONVERSATIONS, COMPUTED)}
    conversations = kept_conversations(kept[CONVERSATIONS])
    if options.forget is not None:
        conversations = _forgotten(options.forget, conversations)
        if kept[IMAGES].entries():
            say("what was computed of images stays, which other conversations may show, too: --clear removes all")
    rows = [_row(kind, one) for kind, one in kept.items()]
    if options.clear:
        _clear(rows, kept, conversations)
    rows[1]["conversations"] = [
        {"name": one.name, "file": one.entry.path.name, "turns": one.turns, "whole": one.whole, "used": _at(one)}
        for one in conversations
    ]
    if options.json:
        print_json(rows)
    else:
        print_lines(_lines(rows, [] if options.clear else conversations))
    if options.clear and (left := sum(row["entries"] - row["removed"] for row in rows)):
        raise EdgekitError(
            f"{left} entries stay, which other processes have open", remedy="end those, then edgekit cache --clear"
        )
    return 0


def _forgotten(name: str, conversations: list[KeptConversation]) -> list[KeptConversation]:
    """Remove what has this name, or whose file has it; what is left. Raises InputError where there is none."""
    named = [one for one in conversations if name in (one.name, one.entry.path.name)]
    if not named:
        names = sorted({one.title for one in conversations})
        raise InputError(f"no conversation {name!r:.200} is kept", allowed=", ".join(names) or "none is")
    gone = [one for one in named if one.forget()]
    if len(gone) < len(named):
        raise EdgekitError(f"{name}: another process is writing it", remedy="end that one first")
    return [one for one in conversations if one not in gone]


def _clear(rows: list[dict[str, Any]], kept: dict[str, Kept], conversations: list[KeptConversation]) -> None:
    """Remove all but what other processes hold; how many entries of each kind is noted in its row."""
    from edgekit.runtime.conversation import unopened

    with ExitStack() as claims:
        held = set()
        for name in {one.name for one in conversations if one.name is not None}:
            if not claims.enter_context(unopened(name)):
                say(f"conversation {name} is open in another process")
                held |= {one.entry.path.name for one in conversations if one.name == name}
        for row in rows:
            row["removed"] = kept[row["kind"]].clear(held)


def _lines(rows: list[dict[str, Any]], conversations: list[KeptConversation]) -> list[str]:
    lines = []
    for row in rows:
        since = f", the oldest used on {row['oldest']}" if row["oldest"] else ""
        removed = f", {row['removed']} removed" if row.get("removed") else ""
        held = f"{row['bytes'] / 1e6:.1f} of at most {row['most_bytes'] / 1e6:.0f} MB"
        lines += [f"{row['kind']:<14} {row['entries']} entries, {held}{since}{removed}", f"{'':<14} {row['folder']}"]
    for one in conversations:
        damaged = "" if one.whole else f" (cannot be read: --forget {one.entry.path.name})"
        lines.append(f"{'':<14} {one.title}: {one.turns} turns, used on {_at(one)}{damaged}")
    return lines


def _row(kind: str, kept: Kept) -> dict[str, Any]:
    entries = kept.entries()
    return {
        "kind": kind,
        "folder": str(kept.folder),
        "entries": len(entries),
        "bytes": sum(entry.bytes for entry in entries),
        "most_bytes": kept.most_bytes,
        "oldest": _minute(entries[0].used) if entries else None,
    }


def _at(conversation: KeptConversation) -> str:
    return _minute(conversation.entry.used)


def _minute(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "minutes")


VERB = Verb(
    "show or clear what is kept of images and conversations",
    ("cache", "cache --forget case-12", "cache --clear"),
    run,
    add_options,
    order=75,
)
