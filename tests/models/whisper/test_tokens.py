"""Byte-level BPE in Whisper's format."""

import pytest
from transformers import AutoTokenizer

from pqm_plugin.errors import PqmError
from pqm_plugin.models.whisper.data import SPECIAL_TOKENS, encode_transcript, make_tokenizer, token_id

TEXTS = ["red green red", "green red"]  # bytes: space, d, e, g, n, r


def test_n_tokens_counts_the_bytes_and_merges_of_the_texts_and_all_other_bytes_come_on_top():
    tokenizer = make_tokenizer(TEXTS, "bpe", 9)

    assert len(tokenizer) == 256 + (9 - 6) + len(SPECIAL_TOKENS)


def test_a_frequent_word_is_one_token_with_its_space():
    tokenizer = make_tokenizer(TEXTS, "bpe", 12)

    start, no_timestamps, *words, end = encode_transcript(tokenizer, "red red")

    assert tokenizer.convert_ids_to_tokens([start, no_timestamps, end]) == [
        "<|startoftranscript|>",
        "<|notimestamps|>",
        "<|endoftext|>",
    ]
    assert tokenizer.convert_ids_to_tokens(words) == ["Ġred", "Ġred"]


def test_what_no_text_had_can_be_spelled_and_read_back_from_a_folder(tmp_path):
    make_tokenizer(TEXTS, "bpe", 9).save_pretrained(tmp_path)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    assert type(tokenizer).__name__ == "WhisperTokenizer"
    assert tokenizer.decode(encode_transcript(tokenizer, "Grün, 漢!"), skip_special_tokens=True) == " Grün, 漢!"


def test_special_tokens_stand_last_and_no_speech_right_before_no_timestamps():
    tokenizer = make_tokenizer(TEXTS, "bpe", 9)

    assert [token_id(tokenizer, token) for token in SPECIAL_TOKENS] == list(range(len(tokenizer) - 5, len(tokenizer)))
    assert SPECIAL_TOKENS[-2:] == ("<|nospeech|>", "<|notimestamps|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == token_id(tokenizer, "<|endoftext|>")


def test_the_same_texts_give_the_same_bytes(tmp_path):
    texts = [f"{a}{b} {b}{c}" for a in "abcd" for b in "abcd" for c in "abcd"]  # many pairs are equally frequent
    for name in ("one", "two"):
        make_tokenizer(texts, "bpe", 20).save_pretrained(tmp_path / name)

    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("token_type", "n_tokens", "message"),
    [
        ("char", 9, "byte-level; give --token_type bpe"),
        ("bpe", 5, "2 transcripts, which have 6 different bytes: give a greater --n_tokens"),
        ("bpe", 99, "give --n_tokens 13 or less"),
    ],
)
def test_tokens_that_cannot_be_learned_are_refused(token_type, n_tokens, message):
    with pytest.raises(PqmError, match=message):
        make_tokenizer(TEXTS, token_type, n_tokens)
