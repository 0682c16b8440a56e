"""What decoders keep that hold several sequences: `SupportsSequences`, `SupportsTruncate` and `SupportsSnapshot`.

The measure is one prefill of the same tokens by the same decoder, which `test_decoders.py` holds to its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cases import IMAGE, DecoderCase, difference, picture, prompt, tokens

from edgekit.errors import InputError, SnapshotError, UsageError
from edgekit.runtime.base import (
    MOST_ROWS,
    Float,
    Segment,
    SupportsSequences,
    SupportsSnapshot,
    SupportsTruncate,
    Tokens,
)
from edgekit.runtime.snapshots import pack

CONTEXT = 1300
LONG = 1100  # beyond what any backend keeps of its windowed layers
BEHIND_IMAGES = 29 + 2 * IMAGE  # where the last text of `prompt` begins


@pytest.fixture(scope="module")
def decoder(decoder_case: DecoderCase) -> Iterator[Any]:
    """Three sequences."""
    opened = decoder_case.open(CONTEXT, sequences=3)
    yield opened
    opened.close()


@pytest.fixture
def several(decoder: Any) -> SupportsSequences:
    if not isinstance(decoder, SupportsSequences):
        pytest.skip("it holds one sequence")
    assert decoder.sequences == 3
    return decoder


@pytest.fixture
def cuttable(several: SupportsSequences) -> Any:
    if not isinstance(several, SupportsTruncate):
        pytest.skip("it cannot forget the end of a sequence alone")
    return several


@pytest.fixture
def savable(several: SupportsSequences) -> Any:
    if not isinstance(several, SupportsSnapshot):
        pytest.skip("it gives no snapshots")
    return several


def cut(segments: Sequence[Segment], length: int) -> list[Segment]:
    """A prompt's beginning, which ends in its last text."""
    *before, last = segments
    assert isinstance(last, Tokens)
    return [*before, Tokens(last.ids[: length - sum(map(len, before))])]


def continued(decoder: Any, more: Tokens, sequence: int = 0) -> list[Float]:
    """Logits behind each of so many more tokens."""
    held = decoder.length(sequence)
    return list(decoder.extend([more], range(held, held + len(more)), sequence=sequence))


def fresh(decoder: Any, segments: Sequence[Segment], more: Tokens, sequence: int = 2) -> list[Float]:
    """The same of one prefill."""
    held = sum(map(len, segments))
    return list(decoder.prefill([*segments, more], range(held, held + len(more)), sequence=sequence))


# ---------------------------------------------------------------- several sequences


def test_extended_piece_by_piece_it_is_one_prompt(decoder_case: DecoderCase, several: SupportsSequences) -> None:
    """After images, within a text, and beyond the window."""
    segments = prompt(decoder_case, LONG)
    *_, last = segments
    assert isinstance(last, Tokens)
    whole = list(several.prefill(segments, [19, 20 + IMAGE - 1, 600, *range(LONG - 6, LONG)]))
    (first,) = several.prefill(segments[:1], sequence=1)
    (image,) = several.extend(segments[1:2], sequence=1)
    list(several.extend(segments[2:4], sequence=1))
    assert several.length(1) == BEHIND_IMAGES
    text = list(several.extend([Tokens(last.ids[:-3])], [600, *range(LONG - 6, LONG - 3)], sequence=1))
    end = list(several.extend([Tokens(last.ids[-3:])], range(LONG - 3, LONG), sequence=1))
    assert difference([first, image, *text, *end], whole) < decoder_case.tolerance
    assert (several.length(0), several.length(1)) == (LONG, LONG)


def test_an_empty_sequence_can_be_extended(decoder_case: DecoderCase) -> None:
    decoder = decoder_case.open(64)
    if not isinstance(decoder, SupportsSequences):
        pytest.skip("it holds one sequence")
    assert (decoder.sequences, decoder.length()) == (1, 0)
    extended = list(decoder.extend([tokens(decoder_case, 12)]))
    assert difference(extended, list(decoder.prefill([tokens(decoder_case, 12)]))) < decoder_case.tolerance
    decoder.close()


def test_together_sequences_are_what_each_is_alone(decoder_case: DecoderCase, several: SupportsSequences) -> None:
    """Of different lengths, with several tokens of one, each with a row of its own."""
    prompts = [[tokens(decoder_case, 40, 9)], prompt(decoder_case, LONG), [picture(decoder_case, 4)]]
    rounds: list[dict[int, list[int]]] = [
        {0: [5], 1: [6, 7, 8, 9], 2: [10, 11]},
        {2: [12], 0: [13]},
        {1: [14], 0: [15, 16, 17], 2: [18]},
    ]
    alone: list[list[Float]] = []
    for number, segments in enumerate(prompts):
        rows = list(several.prefill(segments))
        rows += [several.step([token]) for one in rounds for token in one.get(number, [])]
        alone.append(rows)
    together = [list(several.prefill(segments, sequence=number)) for number, segments in enumerate(prompts)]
    for one in rounds:
        decoded = several.decode(one)
        assert {number: rows.shape for number, rows in decoded.items()} == {
            number: (len(ids), decoder_case.vocabulary) for number, ids in one.items()
        }
        assert all(rows.dtype == np.float32 for rows in decoded.values())
        for number, rows in decoded.items():
            together[number] += list(rows)
    for number, (one, expected) in enumerate(zip(together, alone, strict=True)):
        assert difference(one, expected) < decoder_case.tolerance
        assert several.length(number) == sum(map(len, prompts[number])) + len(expected) - 1


@pytest.mark.parametrize("between", [LONG, 3, 0])
def test_what_is_decoded_on_both_sides_of_a_sequence_leaves_it_alone(
    decoder_case: DecoderCase, several: SupportsSequences, between: int
) -> None:
    """Whatever a backend computes of the one between: its positions, how far it may be cut, and what follows."""
    more = tokens(decoder_case, 5, 11)
    segments = prompt(decoder_case, LONG) if between == LONG else [tokens(decoder_case, between)] if between else []
    expected = fresh(several, segments, more)
    for number, begin in enumerate(([tokens(decoder_case, 7)], segments, [tokens(decoder_case, 5)])):
        if begin:
            list(several.prefill(begin, sequence=number))
        elif isinstance(several, SupportsTruncate):
            several.truncate(0, sequence=number)
    before = several.length(1), several.changes(1)
    room = several.shortest(1) if isinstance(several, SupportsTruncate) else 0
    for token in range(3, 43):
        several.decode({0: [token], 2: [token + 1]})
    assert (several.length(1), several.changes(1)) == before
    if isinstance(several, SupportsTruncate):
        assert several.shortest(1) <= room + 1
    assert difference(continued(several, more, 1), expected) < decoder_case.tolerance


def test_a_step_is_the_last_row_of_one_sequence(decoder_case: DecoderCase, several: SupportsSequences) -> None:
    for sequence in (0, 1):
        list(several.prefill([tokens(decoder_case, 30)], sequence=sequence))
    rows = several.decode({0: [3, 4, 5]})[0]
    assert difference([several.step([3, 4, 5], sequence=1)], rows[-1:]) < decoder_case.tolerance


def test_a_prompt_leaves_other_sequences_alone(decoder_case: DecoderCase, several: SupportsSequences) -> None:
    segments, more = prompt(decoder_case, 300), tokens(decoder_case, 5, 11)
    expected = fresh(several, segments, more)
    list(several.prefill(segments, sequence=1))
    for sequence in (0, 2):
        list(several.prefill(prompt(decoder_case, LONG), sequence=sequence))
        list(several.prefill([tokens(decoder_case, 3)], sequence=sequence))
    assert difference(continued(several, more, 1), expected) < decoder_case.tolerance


def test_what_cannot_be_decoded_changes_nothing(decoder_case: DecoderCase, several: SupportsSequences) -> None:
    vocabulary, more = decoder_case.vocabulary, tokens(decoder_case, 4, 12)
    for sequence in (0, 1):
        list(several.prefill([tokens(decoder_case, 20)], sequence=sequence))
    half = [3] * (MOST_ROWS // 2)
    wrong: list[tuple[dict[int, list[int]], str]] = [
        ({}, f"0 tokens in one call(.|\n)*1 to {MOST_ROWS}"),
        ({0: [], 1: []}, "0 tokens in one call"),
        ({0: [3], 1: []}, "a step of no tokens"),
        ({0: half, 1: [*half, 3]}, f"{MOST_ROWS + 1} tokens in one call"),
        ({0: [3], 1: [vocabulary]}, f"token id of {vocabulary}"),
        ({0: [3], 1: [-1]}, "token id of -1"),
    ]
    for asked, message in wrong:
        with pytest.raises(InputError, match=message):
            several.decode(asked)
    for want in ([19], [20 + len(more)]):
        with pytest.raises(InputError, match=rf"logits of position {want[0]}(.|\n)*20 to 23"):
            several.extend([more], want)
    assert (several.length(0), several.length(1)) == (20, 20)
    expected = fresh(several, [tokens(decoder_case, 20)], more)
    assert difference(continued(several, more, 1), expected) < decoder_case.tolerance
    assert {one: len(rows) for one, rows in several.decode({0: half, 1: half}).items()} == {0: len(half), 1: len(half)}


@pytest.mark.parametrize("sequence", [-1, 3, 10**12])
def test_a_sequence_that_does_not_exist_is_refused(
    decoder_case: DecoderCase, several: SupportsSequences, sequence: int
) -> None:
    more = tokens(decoder_case, 4)
    uses = {
        "length": lambda: several.length(sequence),
        "prefill": lambda: several.prefill([more], sequence=sequence),
        "extend": lambda: several.extend([more], sequence=sequence),
        "step": lambda: several.step([3], sequence=sequence),
        "decode": lambda: several.decode({0: [3], sequence: [3]}),
    }
    held = several.length(0)
    if isinstance(several, SupportsTruncate):
        uses |= {
            "shortest": lambda: several.shortest(sequence),
            "truncate": lambda: several.truncate(0, sequence=sequence),
        }
    if isinstance(several, SupportsSnapshot):
        data = several.snapshot()
        uses |= {
            "snapshot": lambda: several.snapshot(sequence=sequence),
            "restore": lambda: several.restore(data, sequence=sequence),
        }
    for use in uses.values():
        with pytest.raises(UsageError, match=rf"no sequence {sequence}(.|\n)*0 to 2"):
            use()
    assert several.length(0) == held


def test_each_sequence_has_the_whole_context(decoder_case: DecoderCase) -> None:
    decoder = decoder_case.open(300, sequences=2)
    if not isinstance(decoder, SupportsSequences):
        pytest.skip("it holds one sequence")
    for sequence in (0, 1):
        assert len(list(decoder.prefill([tokens(decoder_case, 300)], sequence=sequence))) == 1
    with pytest.raises(InputError, match=r"a prompt of 1 tokens(.|\n)*a context of 300"):
        decoder.extend([Tokens((3,))], sequence=1)
    list(decoder.prefill([tokens(decoder_case, 290)], sequence=1))
    with pytest.raises(InputError, match="the context of 300 tokens is full"):
        decoder.decode({1: [3], 0: [3]})
    with pytest.raises(InputError, match=r"a prompt of 11 tokens(.|\n)*1 to 10"):
        decoder.extend([tokens(decoder_case, 11)], sequence=1)
    assert (decoder.length(0), decoder.length(1)) == (300, 290)
    assert decoder.decode({1: [3] * 10})[1].shape[0] == 10
    decoder.close()


def test_an_extension_asks_what_there_is_when_it_begins(decoder_case: DecoderCase, several: SupportsSequences) -> None:
    list(several.prefill([tokens(decoder_case, CONTEXT - 3)]))
    rows = several.extend([Tokens((3, 4))])
    several.step([5, 6])
    with pytest.raises(InputError, match="a prompt of 2 tokens"):
        list(rows)
    assert several.length() == CONTEXT - 1


def test_a_sequence_is_its_users_until_another_takes_it_over(
    decoder_case: DecoderCase, several: SupportsSequences
) -> None:
    for sequence in (0, 1):
        list(several.prefill([tokens(decoder_case, 9)], sequence=sequence))
    with ThreadPoolExecutor(1) as other:
        with pytest.raises(UsageError, match="a step behind another's prompt"):
            other.submit(several.step, [3]).result()
        other.submit(lambda: list(several.extend([Tokens((3,))]))).result()
        other.submit(several.step, [4]).result()
        with pytest.raises(UsageError, match="a step behind another's prompt"):
            several.step([5])
        several.step([5], sequence=1)
        assert set(other.submit(several.decode, {0: [5], 1: [6]}).result()) == {0, 1}
        several.step([7], sequence=1)


# ---------------------------------------------------------------- cuts


def test_what_follows_a_cut_is_as_if_nothing_else_had_been(decoder_case: DecoderCase, cuttable: Any) -> None:
    """Behind images, ever further back, down to the least length that there is."""
    segments, more = prompt(decoder_case, LONG), tokens(decoder_case, decoder_case.window + 20, 13)
    list(cuttable.prefill(segments))
    for length in (LONG, LONG - 1, LONG - 40, None):
        length = max(cuttable.shortest(), BEHIND_IMAGES) if length is None else length
        cuttable.truncate(length)
        assert cuttable.length() == length
        expected = fresh(cuttable, cut(segments, length), more)
        assert difference(continued(cuttable, more), expected) < decoder_case.tolerance
        cuttable.truncate(length)
        list(cuttable.extend([Tokens(segments[-1].ids[length - BEHIND_IMAGES :])] if length < LONG else [more]))


def test_a_cut_within_the_window_can_go_back_to_one_token(decoder_case: DecoderCase, cuttable: Any) -> None:
    text, more = tokens(decoder_case, 50), tokens(decoder_case, 90, 14)
    list(cuttable.prefill([text]))
    assert cuttable.shortest() == 1
    cuttable.truncate(1)
    expected = fresh(cuttable, [Tokens(text.ids[:1])], more)
    assert difference(continued(cuttable, more), expected) < decoder_case.tolerance


def test_nothing_is_always_left(decoder_case: DecoderCase, cuttable: Any) -> None:
    list(cuttable.prefill(prompt(decoder_case, LONG), sequence=1))
    list(cuttable.prefill([tokens(decoder_case, 20)]))
    cuttable.truncate(0, sequence=1)
    assert (cuttable.length(1), cuttable.shortest(1), cuttable.length(0)) == (0, 0, 20)
    cuttable.truncate(0, sequence=1)
    rows = [cuttable.step([token], sequence=1) for token in (4, 5)]
    assert difference(rows, list(cuttable.prefill([Tokens((4, 5))], [0, 1], sequence=2))) < decoder_case.tolerance


def test_a_cut_that_cannot_be_exact_is_refused_and_changes_nothing(decoder_case: DecoderCase, cuttable: Any) -> None:
    segments, more = prompt(decoder_case, LONG), tokens(decoder_case, 5, 15)
    expected = fresh(cuttable, segments, more)
    list(cuttable.prefill(segments))
    least = cuttable.shortest()
    wrong: list[Any] = [-1, LONG + 1, 10**12, 0.5, None, *((least - 1, 1) if least > 1 else ())]
    for length in wrong:
        with pytest.raises(UsageError, match=rf"cut to {length}(.|\n)*0, or {least} to {LONG}"):
            cuttable.truncate(length)
        assert (cuttable.length(), cuttable.shortest()) == (LONG, least)
    assert difference(continued(cuttable, more), expected) < decoder_case.tolerance


def test_the_least_length_is_exact(decoder_case: DecoderCase) -> None:
    """Where nothing is rounded, one forgotten position would be seen."""
    decoder = decoder_case.open(CONTEXT, sequences=3, exact=True)
    if not (isinstance(decoder, SupportsSequences) and isinstance(decoder, SupportsTruncate)):
        pytest.skip("it cannot forget the end of a sequence alone")
    segments, more = prompt(decoder_case, LONG), tokens(decoder_case, 8, 16)
    list(decoder.prefill(segments))
    length = max(decoder.shortest(), BEHIND_IMAGES)
    decoder.truncate(length)
    expected = fresh(decoder, cut(segments, length), more)
    assert difference(continued(decoder, more), expected) < 1e-5
    decoder.close()


# ---------------------------------------------------------------- snapshots


def test_a_snapshot_is_the_sequence_wherever_it_is_restored(decoder_case: DecoderCase, savable: Any) -> None:
    segments, more = prompt(decoder_case, LONG), tokens(decoder_case, decoder_case.window + 20, 17)
    expected = fresh(savable, segments, more)
    list(savable.prefill(segments))
    data = savable.snapshot()
    assert isinstance(data, bytes)
    list(savable.prefill([tokens(decoder_case, 30)], sequence=1))
    savable.restore(data, sequence=1)
    other: Any = decoder_case.open(CONTEXT, sequences=3)
    other.restore(data, sequence=2)
    for one, sequence in ((savable, 1), (other, 2), (savable, 0)):
        assert one.length(sequence) == LONG
        assert difference(continued(one, more, sequence), expected) < decoder_case.tolerance
    other.close()


def test_what_was_restored_can_be_cut_and_kept_again(decoder_case: DecoderCase, savable: Any) -> None:
    segments, more = prompt(decoder_case, LONG), tokens(decoder_case, 70, 18)
    list(savable.prefill(segments))
    savable.restore(savable.snapshot(), sequence=1)
    length = max(savable.shortest(1), BEHIND_IMAGES)
    savable.truncate(length, sequence=1)
    savable.restore(savable.snapshot(sequence=1))
    expected = fresh(savable, cut(segments, length), more)
    for sequence in (1, 0):
        assert savable.length(sequence) == length
        assert difference(continued(savable, more, sequence), expected) < decoder_case.tolerance


def test_an_empty_sequence_has_a_snapshot(decoder_case: DecoderCase, savable: Any) -> None:
    list(savable.prefill([tokens(decoder_case, 3)]))
    savable.truncate(0, sequence=1)
    savable.restore(savable.snapshot(sequence=1))
    assert savable.length() == 0
    assert savable.step([3]).shape == (decoder_case.vocabulary,)


def damaged(data: bytes) -> Iterator[tuple[Any, str]]:
    """Wrong snapshots, and what is said of each."""
    size = len(data)
    for place in (0, 7):
        yield flipped(data, place), "no snapshot of edgekit's"
    yield data[:8] + struct.pack("<I", 2) + data[12:], "a snapshot of version 2"
    places = (12, 43, 44, 50, 52, 56, 60, 80, size // 2, size - 1)
    for place in places:
        yield flipped(data, place), "cut or changed"
    for length in (0, 7, 8, 44, 55):
        yield data[:length], f"{length} bytes that are no snapshot of edgekit's"
    for length in (56, 60, size // 2, size - 1):
        yield data[:length], "cut or changed"
    yield data + b"\0", "cut or changed"
    yield "text", "a snapshot of type str"
    yield None, "a snapshot of type NoneType"
    length, named = struct.unpack_from("<QI", data, 44)
    identity, state = data[56 : 56 + named].decode(), data[56 + named :]
    assert pack(identity, length, state) == data
    yield pack(identity.replace("hidden ", "hidden 1"), length, state), "of another decoder: .*hidden 1"
    yield pack("", length, state), "of another decoder"
    yield pack(identity, CONTEXT + 1, state), f"a snapshot of {CONTEXT + 1} tokens(.|\n)*at most {CONTEXT}"
    yield pack(identity, 0, state), "a snapshot of 0 tokens in"
    yield pack(identity, length, b""), f"a snapshot of {length} tokens in 0 bytes"


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_what_is_no_snapshot_is_refused_and_leaves_an_empty_sequence(decoder_case: DecoderCase, savable: Any) -> None:
    text, more = [tokens(decoder_case, 40)], tokens(decoder_case, 5, 19)
    expected = fresh(savable, text, more)
    list(savable.prefill(text))
    data = savable.snapshot()
    for wrong, message in damaged(data):
        list(savable.prefill([tokens(decoder_case, 3)], sequence=1))
        with pytest.raises(SnapshotError, match=message):
            savable.restore(wrong, sequence=1)
        assert savable.length(1) == 0
    list(savable.prefill(text, sequence=1))
    for sequence in (1, 0):
        assert difference(continued(savable, more, sequence), expected) < decoder_case.tolerance


def test_a_snapshot_must_fit_the_context(decoder_case: DecoderCase, savable: Any) -> None:
    list(savable.prefill([tokens(decoder_case, 65)]))
    data = savable.snapshot()
    small: Any = decoder_case.open(64, sequences=3)
    with pytest.raises(SnapshotError, match=r"a snapshot of 65 tokens(.|\n)*at most 64"):
        small.restore(data)
    assert small.length() == 0
    small.close()


def test_closed_it_refuses(decoder_case: DecoderCase) -> None:
    decoder: Any = decoder_case.open(64, sequences=2)
    if not isinstance(decoder, SupportsSequences):
        pytest.skip("it holds one sequence")
    list(decoder.prefill([tokens(decoder_case, 20)]))
    rows, data = decoder.extend([tokens(decoder_case, 20)]), decoder.snapshot()
    decoder.close()
    uses = [
        lambda: list(rows),
        lambda: decoder.extend([tokens(decoder_case, 4)]),
        lambda: decoder.decode({0: [3]}),
        lambda: decoder.shortest(),
        lambda: decoder.truncate(1),
        lambda: decoder.snapshot(),
        lambda: decoder.restore(data),
    ]
    for use in uses:
        with pytest.raises(UsageError, match="this decoder is closed"):
            use()
