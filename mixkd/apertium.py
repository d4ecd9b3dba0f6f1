"""Translation by Apertium, the rule-based translator of the free-software distributions, as a function of the text.

Texts travel through one process as separate documents: a NUL byte after each (separated by newlines, words of one text
end up in the next), numbered, so that a lost document is noticed, and with the stream format's special characters
escaped. That alone does not make a translation depend on its text only: apertium-tagger 3.8 changes its model at the
first word with an unforeseen set of readings, and so for all later texts of the process; of 7,016 movie sentences, one
in twenty came out otherwise in other company. So the tagger is started anew for each text.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mixkd.store import UserError, file_sha256

# The tagger, one process per document, in place of the tagger in Apertium's pipeline.
_APERTIUM = """\
apertium-tagger() {
  while IFS= read -r -d '' text; do printf %s "$text" | command apertium-tagger "$@"; done
}
export -f apertium-tagger
exec "$0" "$@"
"""


def identity(pair: str) -> dict[str, Any]:
    """What decides a translation besides the text: the command's version, the modes' stages and their data's content.

    Raises:
        UserError: If Apertium or a mode is missing.
    """
    command, data = _find(pair)
    version = subprocess.run([command, "-V"], capture_output=True, text=True, check=False).stdout.strip()
    stages = [shlex.split((data / "modes" / f"{mode}.mode").read_text()) for mode in _modes(pair)]
    return {"version": version, "stages": [[_content(word) for word in words] for words in stages]}


def _content(word: str) -> str:
    """What a word of a pipeline stands for: the content of a file, else itself."""
    return file_sha256(Path(word)) if "/" in word and Path(word).is_file() else word


def translator(pair: str) -> Callable[[list[str]], list[str]]:
    """A function that translates texts, white space collapsed, forward and back on all cores.

    A text that Apertium does not give back becomes "".

    Args:
        pair: The forward mode, such as "eng-spa"; the way back is "spa-eng", or another mode after a comma.

    Raises:
        UserError: If Apertium or a mode is missing; from the function, if Apertium does not work.
    """
    command, data = _find(pair)
    num_parts = os.cpu_count() or 1

    def round_trip(texts: list[str]) -> list[str]:
        for mode in _modes(pair):
            texts = [" ".join(text.split()) for text in _run(command, data, mode, texts)]
        return texts

    def translate(texts: list[str]) -> list[str]:
        results = [""] * len(texts)
        with ThreadPoolExecutor(num_parts) as pool:  # the work is done by the processes that the threads wait for
            for part, done in enumerate(pool.map(round_trip, [texts[i::num_parts] for i in range(num_parts)])):
                results[part::num_parts] = done
        return results

    return translate


def _modes(pair: str) -> tuple[str, str]:
    forward, _, back = pair.partition(",")
    return forward, back or "-".join(reversed(forward.split("-")))


def _find(pair: str) -> tuple[str, Path]:
    """The command and its data folder, which has both modes."""
    command, modes = shutil.which("apertium"), _modes(pair)
    if command is None:
        raise UserError(
            "Back-translation with Apertium needs the `apertium` command: install it (Debian and Ubuntu: `apt-get "
            f"install apertium apertium-{modes[0]}`), or set bt_engine to marian."
        )
    prefix = Path(command).resolve().parent.parent
    data = Path(os.environ.get("APERTIUM_DATADIR", prefix / "share/apertium"))
    installed = sorted(path.stem for path in (data / "modes").glob("*.mode"))
    for mode in modes:
        if mode not in installed:
            raise UserError(
                f"Apertium has no mode {mode!r} here, only {', '.join(installed) or 'none'}: install the pair's data "
                f"(Debian and Ubuntu: `apt-get install apertium-{modes[0]}`; `apt-cache search apertium` lists them) "
                "or choose another bt_pair."
            )
    return command, data


def _run(command: str, data: Path, mode: str, texts: list[str]) -> list[str]:
    """Translate in one direction; what does not come back whole is tried again in halves, a single text is given up."""
    if not texts:
        return []
    stream = "".join(_document(number, text) for number, text in enumerate(texts))
    arguments = [command, "-d", str(data), "-z", "-u", "-f", "none", mode]  # -z: NUL ends a document; -u: no marks
    process = subprocess.run(
        ["bash", "-c", _APERTIUM, *arguments], input=stream.encode(), capture_output=True, check=False
    )
    documents = [document for document in process.stdout.decode(errors="replace").split("\0") if document]
    numbers = [document.partition("]")[0] for document in documents]
    if not process.returncode and numbers == [f"[{number}" for number in range(len(texts))]:
        return [_text(document, text) for document, text in zip(documents, texts, strict=True)]
    if len(texts) > 1:
        middle = len(texts) // 2
        return [*_run(command, data, mode, texts[:middle]), *_run(command, data, mode, texts[middle:])]
    if texts != ["1"]:
        _run(command, data, mode, ["1"])  # is it the text or Apertium?
        return [""]
    reason = process.stderr.decode(errors="replace").strip().partition("\n")[0] or "it returned nothing"
    raise UserError(f"Apertium does not work here ({reason}): try `echo 1 | apertium {mode}`, or install it again.")


def _document(number: int, text: str) -> str:
    """A text in Apertium's stream format; `[...]` is formatting, which passes through.

    Doubled apostrophes, quotation marks in many corpora, become one character on the way: in "''shut up''" Apertium
    finds an "'s".
    """
    escaped = re.sub(r"([\[\]{}^$/\\@<>])", r"\\\1", text.replace("''", '"') if _has_doubled_quotes(text) else text)
    return f"[{number}]{escaped}{_added_period(text)}[]\0"


def _text(document: str, source: str) -> str:
    """The text of a translated document, without formatting and without the period that was added to the source."""
    text = re.sub(r"\\(.)|\[[^\]]*\]", lambda match: match[1] or "", document, flags=re.DOTALL)
    text = text.removesuffix(_added_period(source))
    return text.replace('"', "''") if _has_doubled_quotes(source) else text


def _has_doubled_quotes(text: str) -> bool:
    return "''" in text and '"' not in text


def _added_period(text: str) -> str:
    return "" if text[-1:] in (".", "!", "?") else "."  # the analysis needs the end of the sentence
