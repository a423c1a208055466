"""Words that are kept with a speaker: names and terms that the model expects whenever it hears with this voice."""

from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.files import refusal_as_error, write_text
from pqm_plugin.models.families import family_of
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.words import WordList, check_spellable, read_words


def check_words(folder: ModelFolder, words: WordList, where: str) -> None:
    """See that the model can be told words, without loading it.

    Args:
        where: what to call the list in messages.

    Raises:
        PqmError: if it is of a family that cannot, or cannot write one of them.
    """
    family = family_of(folder.path)
    if not family.TAKES_WORDS:
        raise PqmError(
            f"{where}: a model of {family.NAME} takes the best path and cannot be told words: leave them out"
        )
    check_spellable(words, family.facts(folder.path).symbols, where)


def keep_words(folder: ModelFolder, speaker: str, source: Path) -> WordList:
    """Keep the words of a file with a speaker, in place of earlier ones.

    Raises:
        PqmError: if there is no such speaker, the file is no list of words, or the model cannot be told them.
    """
    folder.known_speaker(speaker)
    words = read_words(source)
    check_words(folder, words, str(source))
    target = folder.words_file(speaker)
    with refusal_as_error(target):
        target.parent.mkdir(exist_ok=True)
        write_text(target, words.text())
    return words


def clear_words(folder: ModelFolder, speaker: str) -> bool:
    """Forget the words of a speaker; False where there were none.

    Raises:
        PqmError: if there is no such speaker, or the folder may not be written.
    """
    folder.known_speaker(speaker)
    target = folder.words_file(speaker)
    with refusal_as_error(target):
        found = target.is_file()
        target.unlink(missing_ok=True)
    return found
