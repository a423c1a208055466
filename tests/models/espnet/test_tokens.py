"""Token lists."""

import pytest
import sentencepiece

from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet.train import make_tokens

TEXTS = ["TURN ON THE LAMP", "TURN OFF THE FAN", "OPEN THE DOOR", "CLOSE THE DOOR"]


def tokens(folder):
    return (folder / "tokens.txt").read_text(encoding="utf-8").splitlines()


def test_bpe_tokens_are_the_pieces_of_the_model_between_espnets_own_symbols(tmp_path):
    make_tokens(TEXTS, tmp_path, "bpe", 20)

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "bpe.model"))
    assert tokens(tmp_path)[:2] == ["<blank>", "<unk>"]
    assert tokens(tmp_path)[-1] == "<sos/eos>"
    assert tokens(tmp_path)[2:-1] == [pieces.id_to_piece(index) for index in range(3, 20)]


def test_the_same_texts_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        make_tokens(TEXTS, tmp_path / name, "bpe", 20)

    assert (tmp_path / "a" / "bpe.model").read_bytes() == (tmp_path / "b" / "bpe.model").read_bytes()


def test_characters_are_ordered_by_frequency_and_a_blank_is_spelled_space(tmp_path):
    make_tokens(["AB A", "A C"], tmp_path, "char", 0)

    assert tokens(tmp_path) == ["<blank>", "<unk>", "A", "<space>", "B", "C", "<sos/eos>"]


def test_words_are_cut_to_the_most_frequent(tmp_path):
    make_tokens(TEXTS, tmp_path, "word", 2)

    assert tokens(tmp_path) == ["<blank>", "<unk>", "THE", "DOOR", "<sos/eos>"]


def test_too_many_tokens_for_the_texts_is_an_error_that_names_the_most(tmp_path):
    with pytest.raises(PqmError, match=r"500 BPE tokens do not fit 4 transcripts.*<= \d+"):
        make_tokens(TEXTS, tmp_path, "bpe", 500)

    assert not (tmp_path / "tokens.txt").exists()


def test_an_unknown_token_type_is_an_error(tmp_path):
    with pytest.raises(PqmError, match="must be one of bpe, char, word"):
        make_tokens(TEXTS, tmp_path, "phone", 10)
