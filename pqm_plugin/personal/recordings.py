"""Find a user's recordings and their transcripts; audio is not opened."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pqm_plugin.corpus.names import AUDIO_ENDINGS, COMPANION_ENDINGS, is_audio_name, join_first, nfc, on_disk
from pqm_plugin.errors import PqmError
from pqm_plugin.files import decode_text

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recordings:
    """Paths, sorted, and the text of each; without texts the model's own words are trained on."""

    paths: tuple[Path, ...]
    texts: tuple[str, ...] | None


def find_recordings(
    places: Sequence[Path], transcripts: Path | None = None, *, unsupervised: bool = False
) -> Recordings:
    """The recordings in folders, with everything below them, or the files that are named.

    Args:
        transcripts: lines of name and words, the name being a file's with or without its ending; default: a text file
            beside each recording. Where only some recordings have a text, the others are left out, and that is said.
        unsupervised: use no texts.

    Raises:
        PqmError: if there is no recording, or `transcripts` names none of them.
    """
    paths = sorted({path for place in places for path in _below(on_disk(place.expanduser()))})
    if not paths:
        raise PqmError(f"{join_first(map(str, places), 3)}: no recordings there ({', '.join(AUDIO_ENDINGS)})")
    if unsupervised:
        if transcripts is not None:
            raise PqmError("--unsupervised and --transcripts: choose one")
        return Recordings(tuple(paths), None)
    known = _listed(transcripts.expanduser(), paths) if transcripts is not None else _beside(paths)
    if not known:
        _say_lists(places, transcripts)
        if transcripts is not None:
            raise PqmError(
                f"{transcripts} names none of the {len(paths)} recordings: its lines begin with the name of one, "
                f"such as `{paths[0].stem}`, then the words"
            )
        return Recordings(tuple(paths), None)
    without = [path.name for path in paths if path not in known]
    if without:
        _log.warning(
            "%d of %d recordings have no text and are left out: %s", len(without), len(paths), join_first(without, 5)
        )
    return Recordings(tuple(known), tuple(known.values()))


def _say_lists(places: Sequence[Path], transcripts: Path | None) -> None:
    """Where no recording has a text, a list that lies beside them was perhaps meant."""
    lists = sorted(file.name for place in places if place.is_dir() for file in place.iterdir() if _is_list(file))
    if lists and transcripts is None:
        _log.warning(
            "no recording has a text of its own; %s not read: --transcripts takes a list", join_first(lists, 3)
        )


def _is_list(file: Path) -> bool:
    return file.is_file() and (file.name == "text" or file.suffix.lower() in (".txt", ".tsv", ".csv"))


def _below(place: Path) -> Iterable[Path]:
    if place.is_dir():
        files = [path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")]
        unknown = [path.name for path in files if path.suffix.lower() not in (*AUDIO_ENDINGS, *COMPANION_ENDINGS)]
        if unknown:
            _log.warning(
                "%s: %d files are left out, their endings are not those of recordings: %s (a file that is named itself "
                "is read)",
                place,
                len(unknown),
                join_first(sorted(unknown), 5),
            )
        return (path for path in files if is_audio_name(path))
    if not place.exists():
        raise PqmError(f"{place} is missing: give a folder of recordings, or files")
    return [place]


def _beside(paths: Iterable[Path]) -> dict[Path, str]:
    texts = ((path, on_disk(path.with_suffix(ending))) for path in paths for ending in (".TXT", ".txt"))
    return {path: text for path, file in texts if file.is_file() and (text := " ".join(_read(file).split()))}


def _listed(file: Path, paths: Sequence[Path]) -> dict[Path, str]:
    """The text of each recording that the list names.

    Raises:
        PqmError: if a name fits two recordings, or stands in two lines.
    """
    exact, normal = _by_name(paths, str), _by_name(paths, nfc)
    texts: dict[Path, str] = {}
    unknown = []
    for number, line in enumerate(_read(file).splitlines(), start=1):
        # With a tab, the name may hold blanks, as file names of phones do.
        name, words = (*line.strip().split("\t" if "\t" in line.strip() else None, maxsplit=1), "", "")[:2]
        meant = exact.get(name) if name in exact else normal.get(nfc(name))
        if name and name not in exact and nfc(name) not in normal:
            unknown.append(name)
            continue
        if not name:
            continue
        if meant is None:
            raise PqmError(
                f"{file}:{number}: {name} is the name of two recordings, or they differ only in Unicode normalisation: "
                "give each a name of its own"
            )
        if meant in texts:
            raise PqmError(f"{file}:{number}: {name} appears twice here")
        if words.strip():
            texts[meant] = " ".join(words.split())
    if unknown:
        where = "not there, or not known as recordings"
        _log.warning("%s names %d recordings that are %s: %s", file, len(unknown), where, join_first(unknown, 5))
    return {path: texts[path] for path in paths if path in texts}


def _by_name(paths: Sequence[Path], spelled: Callable[[str], str]) -> dict[str, Path | None]:
    """The recording that each name means, with or without its ending and as `spelled` has it; None where it is two."""
    found: dict[str, Path | None] = {}
    for path in paths:
        for name in {spelled(path.stem), spelled(path.name)}:
            found[name] = None if name in found else path
    return found


def _read(path: Path) -> str:
    try:
        return decode_text(path.read_bytes(), path)
    except FileNotFoundError:
        raise PqmError(f"{path} is missing: give a list of transcripts") from None
    except OSError as error:
        raise PqmError(f"{path} cannot be read ({error}): give a UTF-8 text") from None
