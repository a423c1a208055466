"""Lists of words of one's own, and what a search that expects them gives each token."""

import itertools
import random
import unicodedata

import numpy as np
import pytest

from pqm_plugin.biasing import Bonus, Rows, Spelling, Tries, WordTrie
from pqm_plugin.errors import PqmError
from pqm_plugin.words import MOST_WORDS, check_spellable, forms, parse_words, read_words, spellable, words_of

EVEN = Bonus(letter=1.0)


def listed(*lines):
    return parse_words(lines, "list")


def spelling(*tokens):
    """A vocabulary whose first token, number 0, ends a text."""
    return Spelling([None, *(token.encode() for token in tokens)])


def trie_of(words, tokens, bonus=EVEN):
    return WordTrie(listed(*words), spelling(*tokens), bonus)


def numbers(tokens, *said):
    return [1 + tokens.index(one) for one in said]


def test_a_list_has_a_word_a_line_with_a_weight_after_a_tab():
    found = listed("# names", "Kaliko", "", "  Nome   King\t2", "O’Brien\t0.5", "Kaliko")

    assert found.entries == (("Kaliko", 1.0), ("Nome King", 2.0), ("O'Brien", 0.5))
    assert listed(*found.text().splitlines()) == found


def test_composed_and_decomposed_letters_are_one_word():
    decomposed = unicodedata.normalize("NFD", "Zoë")

    assert len(decomposed) == 4
    assert listed(decomposed) == listed("Zoë") == listed("Zoë", decomposed)


def test_the_hash_of_a_list_is_that_of_its_words_and_weights_in_any_order():
    assert listed("a1", "b2").digest == listed("b2", "a1").digest
    assert listed("a1", "b2").digest != listed("a1", "b2\t2").digest


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "list has no words"),
        (["", "# nothing"], "list has no words"),
        (["fine", "---"], "list:2: '---' has no letter or digit"),
        (["Ada\tmuch"], "list:1: 'much' is no weight: use a number above 0 and up to 10"),
        (["Ada\t-1"], "'-1' is no weight"),
        (["Ada\tnan"], "'nan' is no weight"),
        (["Ada\t1e9"], "'1e9' is no weight"),
        (["a\x07b"], "has a character that no text has"),
        (["x" * 101], "has more than 100 characters"),
    ],
)
def test_what_is_no_list_is_refused_with_its_line(lines, said):
    with pytest.raises(PqmError, match=said):
        listed(*lines)


def test_a_hundred_thousand_words_are_refused_at_once(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("".join(f"word{number}\n" for number in range(100_000)))

    with pytest.raises(PqmError, match=rf"words\.txt has more than {MOST_WORDS} words, which is the most"):
        read_words(path)
    path.write_bytes(b"x" * 5_000_000)
    with pytest.raises(PqmError, match=r"has more than 4 MiB"):
        read_words(path)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(PqmError, match=r"gone\.txt is missing: give a list of words"):
        read_words(tmp_path / "gone.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfeA\x00")
    with pytest.raises(PqmError, match=r"b\.txt"):
        read_words(tmp_path / "b.txt")
    with pytest.raises(PqmError, match="cannot be read"):
        read_words(tmp_path)
    (tmp_path / "bom.txt").write_text("\ufeffAda\r\nBob\r\n")
    assert words_of(str(tmp_path / "bom.txt")) == listed("Ada", "Bob")


def test_two_lists_are_one_and_the_second_decides_weights():
    assert (listed("a1", "b2") + listed("b2\t3", "c3")).entries == (("a1", 1.0), ("b2", 3.0), ("c3", 1.0))
    half = listed(*(f"w{number}" for number in range(MOST_WORDS)))
    with pytest.raises(PqmError, match="both lists together has more than"):
        half + listed("other")


def test_a_word_without_a_case_of_its_own_may_be_written_in_any():
    assert forms("soames") == ("soames", "Soames")
    assert forms("new york") == ("new york", "New york", "New York")
    assert set(forms("IBM")) == {"IBM", "ibm", "Ibm"}
    assert forms("iPhone") == ("iPhone", "IPhone")


def test_a_word_is_written_in_the_letters_of_the_model_or_refused_by_name():
    upper, lower = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ'"), frozenset("abcdefghijklmnopqrstuvwxyz'")

    assert spellable("McCoy", upper) == ("MCCOY",)
    assert spellable("McCoy", lower) == ("mccoy",)
    assert spellable("Jean-Luc", lower) == ("jean luc",)
    assert spellable("R2D2", lower) == ()
    with pytest.raises(PqmError, match=r"names: the model cannot write '2' of 'R2D2': spell the word in its letters"):
        check_spellable(listed("Ada", "R2D2"), lower, "names")
    with pytest.raises(PqmError, match="cannot write 'R2D2'"):
        WordTrie(listed("R2D2"), Spelling([b"a"], lower), EVEN)


def test_a_word_gains_as_it_is_said_and_gives_all_back_where_it_is_not_finished():
    tokens = [" so", "a", "m", "es", " he", "p"]
    trie = trie_of(["soames"], tokens)

    def gained(*said):
        return trie.total(numbers(tokens, *said))

    assert gained(" so") == 2
    assert gained(" so", "a", "m") == 4
    assert gained(" so", "a", "m", "es") == 6
    assert gained(" so", "a", "p") == 0
    assert gained(" so", " he") == 0
    assert trie.finished(numbers(tokens, " so", "a")) == 0
    assert trie.finished(numbers(tokens, " so", "a", "m", "es")) == 6


def test_a_word_counts_where_it_ends_and_not_as_the_beginning_of_another():
    tokens = [" cat", "s", " sat", "'", ",", "."]
    trie = trie_of(["cat"], tokens)

    assert trie.total(numbers(tokens, " cat", "s", " sat")) == 0
    for after in (" sat", "'", ",", "."):
        assert trie.total(numbers(tokens, " cat", after, " sat")) == 3
    assert trie.total([*numbers(tokens, " cat"), 0]) == 3
    assert trie.total([*numbers(tokens, " cat", "s"), 0]) == 0
    assert trie.total(numbers(tokens, " sat", "s", " cat", " cat")) == 6


def test_every_way_to_cut_a_word_into_tokens_gains_the_same():
    tokens = [" ", " k", " ka", "k", "a", "al", "l", "li", "i", "ik", "ko", "o", "kaliko", " kaliko"]
    trie, spelled = trie_of(["kaliko"], tokens), {}
    for length in range(1, 6):
        for said in itertools.product(tokens, repeat=length):
            if "".join(said) == " kaliko":
                spelled[said] = trie.finished(numbers(tokens, *said))

    assert len(spelled) > 10
    assert set(spelled.values()) == {6.0}


def test_a_phrase_goes_on_over_blanks_and_signs_and_its_end_may_begin_another():
    tokens = [" new", " york", " hall", "-", ","]
    trie = trie_of(["new york", "york hall"], tokens)

    assert trie.finished(numbers(tokens, " new", " york")) == 8
    assert trie.finished(numbers(tokens, " new", "-", " york")) == 8
    # What "new" had is given back, and "york" was the beginning of a listed phrase all along.
    assert trie_of(["new york city", "york hall"], tokens).finished(numbers(tokens, " new", " york", " hall")) == 9
    assert trie_of(["new", "new york"], tokens).finished(numbers(tokens, " new", " hall")) == 3


def test_weights_and_scale_make_a_word_worth_more():
    tokens = [" cat", " dog"]
    words = listed("cat\t2", "dog")

    assert WordTrie(words, spelling(*tokens), EVEN).finished([1]) == 6
    assert WordTrie(words, spelling(*tokens), EVEN, 0.5).finished([2]) == 1.5


def test_words_of_scripts_without_blanks_are_found_anywhere():
    tokens = ["我", "在", "北", "京", "人"]
    trie = trie_of(["北京"], tokens)

    assert trie.total(numbers(tokens, "我", "在", "北", "京", "人")) == 2
    assert trie.total(numbers(tokens, "在", "北", "人")) == 0


def test_tokens_of_single_bytes_spell_a_word_as_others_do():
    bytes_of = "Zoë".encode()
    trie = WordTrie(listed("Zoë"), Spelling([b" ", *(bytes([byte]) for byte in bytes_of), " Zoë".encode()]), EVEN)

    assert trie.finished(range(len(bytes_of) + 1)) == pytest.approx(3)
    assert trie.finished([len(bytes_of) + 1]) == pytest.approx(3)


def test_what_a_state_says_of_all_tokens_is_what_each_of_them_gains():
    alphabet, draw = "abc' -", random.Random(0)
    tokens = sorted({"".join(draw.choices(alphabet, k=draw.randint(1, 4))) for _ in range(250)})
    words = [
        " ".join("".join(draw.choices("abc", k=draw.randint(1, 4))) for _ in range(draw.choice((1, 1, 2))))
        for _ in range(25)
    ]
    trie, told = trie_of(words, tokens), spelling(*tokens)
    checked = set()
    for _ in range(400):
        state, said = trie.start, []
        for _ in range(draw.randint(0, 6)):
            liked = np.flatnonzero(trie.gains(state) > 0).tolist()
            said.append(draw.choice(liked) if liked and draw.random() < 0.7 else draw.randrange(len(told)))
            state = trie.after(state, said[-1])
        if state not in checked:
            expected = [trie.total([*said, token]) - trie.total(said) for token in range(len(told))]
            np.testing.assert_allclose(trie.gains(state), expected, atol=1e-5)
        checked.add(state)

    assert len(checked) > 20


def test_each_row_has_its_own_words_or_none():
    tokens = [" cat", " dog", "s"]
    [cats, nothing, dogs] = Tries(lambda: spelling(*tokens), EVEN).of([listed("cat"), None, listed("dog")])
    rows = Rows([cats, nothing, dogs], 4)

    assert rows.gains()[:, 0].tolist() == [[0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 3, 0]]
    rows.select(np.zeros((3, 2), int), np.array([[1, 2], [1, 2], [2, 1]]))
    assert rows.gains().shape == (3, 2, 4)
    assert rows.gains()[0, 0].tolist() == [0, 3, 0, -3]
    assert rows.gains()[2, 1].tolist() == [0, 0, 3, 0]
    rows.select(np.array([[1], [0], [1]]), np.array([[1], [1], [2]]))
    assert rows.gains()[:, 0, 3].tolist() == [-3, 0, -3]


def test_the_trie_of_a_list_is_made_once_and_no_list_needs_none():
    made = []
    tries = Tries(lambda: made.append(1) or spelling(" cat"), EVEN)

    assert tries.of([]) == tries.of([None, None]) == []
    assert not made
    [first] = tries.of([listed("cat")])
    [second] = tries.of([listed("cat")])
    assert first is second
    assert made == [1]
