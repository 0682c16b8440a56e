"""What every decoder keeps, whatever runs it: see `edgekit.runtime.base.Decoder`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from cases import IMAGE, DecoderCase, difference, picture, prompt, tokens

from edgekit.errors import InputError, UsageError
from edgekit.runtime.base import MOST_ROWS, Decoder, Embeddings, SupportsChunkSize, Tokens

CONTEXT = 800


@pytest.fixture(scope="module")
def decoder(decoder_case: DecoderCase) -> Iterator[Decoder]:
    opened = decoder_case.open(CONTEXT)
    yield opened
    opened.close()


def test_rows_are_float32_of_the_vocabulary(decoder_case: DecoderCase, decoder: Decoder) -> None:
    (row,) = decoder.prefill([tokens(decoder_case, 5)])
    assert (row.dtype, row.shape) == (np.float32, (decoder_case.vocabulary,))
    assert (decoder.vocabulary, decoder.context) == (decoder_case.vocabulary, CONTEXT)
    step = decoder.step([3])
    assert (step.dtype, step.shape) == (np.float32, (decoder_case.vocabulary,))


def test_steps_equal_one_prefill(decoder_case: DecoderCase, decoder: Decoder) -> None:
    """The cache, beyond the window and behind an image, gives what one pass gives."""
    segments = prompt(decoder_case, decoder_case.window + 120)
    *before, last = segments
    assert isinstance(last, Tokens)
    total = sum(map(len, segments))
    whole = list(decoder.prefill(segments, range(total - 9, total)))
    (row,) = decoder.prefill([*before, Tokens(last.ids[:-8])])
    stepped = [row, *(decoder.step([token]) for token in last.ids[-8:-4]), decoder.step(last.ids[-4:])]
    assert difference(stepped, [*whole[:5], whole[-1]]) < decoder_case.tolerance


def test_a_divided_prompt_equals_an_undivided_one(decoder_case: DecoderCase, decoder: Decoder) -> None:
    """Whether by the number of wanted rows, by what a caller asks at a time, or by the size of a chunk."""
    segments = prompt(decoder_case)
    total = sum(map(len, segments))
    want = range(0, total, 7)
    assert len(want) > MOST_ROWS
    together = list(decoder.prefill(segments, want))
    few = want[-3:]
    assert difference(list(decoder.prefill(segments, few)), together[-3:]) < decoder_case.tolerance
    if isinstance(decoder, SupportsChunkSize):
        for positions in (total, 40):
            decoder.set_chunk_size(positions)
            assert difference(list(decoder.prefill(segments, want)), together) < decoder_case.tolerance
        decoder.set_chunk_size(None)
        assert difference(list(decoder.prefill(segments, want)), together) == 0


def test_text_is_causal_and_an_image_sees_all_of_itself(decoder_case: DecoderCase, decoder: Decoder) -> None:
    image, start = picture(decoder_case, 3), tokens(decoder_case, 6, 4)
    changed = Embeddings(image.array.copy(), "changed at its end")
    changed.array[IMAGE // 2 :] *= -3
    end, other = tokens(decoder_case, 5, 5), tokens(decoder_case, 5, 6)
    want = [5, 6, 6 + IMAGE]  # the last of the text, the first of the image, the first behind it
    right = list(decoder.prefill([start, image, end], want))
    later = list(decoder.prefill([start, image, Tokens((end.ids[0], *other.ids[1:]))], want))
    assert difference(later, right) < decoder_case.tolerance
    text, first, behind = decoder.prefill([start, changed, end], want)
    assert difference([text], right[:1]) < decoder_case.tolerance
    assert difference([first], right[1:2]) > 2 * decoder_case.tolerance
    assert difference([behind], right[2:]) > 2 * decoder_case.tolerance


def test_a_prompt_that_sees_one_way(decoder_case: DecoderCase, decoder: Decoder) -> None:
    """Embeddings that are no image are text in another form."""
    array = picture(decoder_case, 7).array
    changed = array.copy()
    changed[IMAGE // 2 :] *= -3
    runs = [Embeddings(array, "a", bidirectional=False), Embeddings(changed, "b", bidirectional=False)]
    one, other = (list(decoder.prefill([tokens(decoder_case, 4), run], [4, 4 + IMAGE - 1])) for run in runs)
    assert difference(one[:1], other[:1]) < decoder_case.tolerance
    assert difference(one[1:], other[1:]) > 2 * decoder_case.tolerance


def test_a_prompt_forgets_the_last_one(decoder_case: DecoderCase, decoder: Decoder) -> None:
    (fresh,) = decoder.prefill([tokens(decoder_case, 30, 8)])
    list(decoder.prefill(prompt(decoder_case)))
    (again,) = decoder.prefill([tokens(decoder_case, 30, 8)])
    assert difference([again], [fresh]) < decoder_case.tolerance


def test_two_of_them_are_apart(decoder_case: DecoderCase, decoder: Decoder) -> None:
    other = decoder_case.open(CONTEXT)
    try:
        prompts = [tokens(decoder_case, 40, 9)], [tokens(decoder_case, 25, 10), picture(decoder_case, 4)]
        alone = []
        for segments in prompts:
            alone.append([*decoder.prefill(segments), *(decoder.step([token]) for token in (5, 6, 7))])
        both = [[*one.prefill(segments)] for one, segments in zip((decoder, other), prompts, strict=True)]
        for token in (5, 6, 7):
            for one, rows in zip((decoder, other), both, strict=True):
                rows.append(one.step([token]))
        for rows, expected in zip(both, alone, strict=True):
            assert difference(rows, expected) < decoder_case.tolerance
    finally:
        other.close()
    assert np.isfinite(decoder.step([8])).all(), "the one that stays open still works"


def test_the_context_is_a_limit_and_an_error_changes_nothing(decoder_case: DecoderCase) -> None:
    decoder = decoder_case.open(40)
    with pytest.raises(InputError, match=r"a prompt of 41 tokens(.|\n)*1 to 40"):
        list(decoder.prefill([tokens(decoder_case, 41)]))
    with pytest.raises(InputError, match="a prompt of 0 tokens"):
        list(decoder.prefill([]))
    list(decoder.prefill([tokens(decoder_case, 38)]))
    decoder.step([3])
    with pytest.raises(InputError, match="the context of 40 tokens is full"):
        decoder.step([3, 4])
    decoder.step([4])
    with pytest.raises(InputError, match="the context of 40 tokens is full"):
        decoder.step([5])
    assert len(list(decoder.prefill([tokens(decoder_case, 40)]))) == 1
    decoder.close()


def test_what_is_no_prompt_is_refused(decoder_case: DecoderCase, decoder: Decoder) -> None:
    wide = Embeddings(np.zeros((4, decoder_case.hidden + 1), np.float32), "of another width")
    with pytest.raises(InputError, match=rf"embeddings of shape \[4, {decoder_case.hidden + 1}\]"):
        list(decoder.prefill([wide]))
    for token in (-1, decoder_case.vocabulary):
        with pytest.raises(InputError, match=rf"token id of {token}(.|\n)*0 to {decoder_case.vocabulary - 1}"):
            list(decoder.prefill([Tokens((2, token))]))
        with pytest.raises(InputError, match=f"token id of {token}"):
            decoder.step([token])
    with pytest.raises(InputError, match="a step of no tokens"):
        decoder.step([])
    assert len(list(decoder.prefill([tokens(decoder_case, 3)]))) == 1


def test_closed_it_refuses(decoder_case: DecoderCase) -> None:
    decoder = decoder_case.open(64)
    rows = decoder.prefill([tokens(decoder_case, 40)], range(40))
    decoder.close()
    decoder.close()  # twice does no harm
    with pytest.raises(UsageError, match="this decoder is closed"):
        list(rows)
    with pytest.raises(UsageError, match="this decoder is closed"):
        decoder.prefill([tokens(decoder_case, 4)])
    with pytest.raises(UsageError, match="this decoder is closed"):
        decoder.step([3])
