"""An `apertium` command of the test's own, which speaks the stream format and misbehaves on request."""

import json
import sys

SCRIPT = """\
import json, os, pathlib, re, sys
here = pathlib.Path(__file__).parents[1]
behaviour = json.loads((here / "behaviour.json").read_text())
if sys.argv[1:] == ["-V"]:
    print(behaviour["version"])
    sys.exit()
options, mode = sys.argv[1:-1], sys.argv[-1]
assert options == ["-d", str(here / "share/apertium"), "-z", "-u", "-f", "none"], options
stream = sys.stdin.buffer.read().decode()
assert stream.endswith("\\0")
documents = stream[:-1].split("\\0")
shown, answers = [], []
for document in documents:
    # Only [number] at the start and [] at the end may be formatting; all else that is special must be escaped.
    number, body = re.fullmatch(r"(\\[\\d+\\])(.*)\\[\\]", document, re.DOTALL).groups()
    assert re.fullmatch(r"(?:[^\\[\\]{}^$/\\\\@<>\\n]|\\\\[\\[\\]{}^$/\\\\@<>])*", body), body
    shown.append(re.sub(r"\\\\(.)", r"\\1", body))
    for old, new in behaviour["words"][mode].items():
        body = body.replace(old, new)
    answers.append(f"{number}{body}[]")
with open(here / "log.jsonl", "a") as log:
    log.write(json.dumps([mode, shown]) + "\\n")
if behaviour["fault"] == "fails":
    sys.exit("lt-proc: no such file")
if behaviour["fault"] == "loses":
    answers = [answer for answer in answers if "LOST" not in answer]
if behaviour["fault"] == "merges":
    answers = "\\0".join(answers).replace("GLUE.[]\\0", "GLUE.[]").split("\\0")
if behaviour["fault"] == "reverses" and mode == "eng-spa":
    answers = answers[::-1]
sys.stdout.buffer.write("".join(answer + "\\0" for answer in answers).encode() + b"\\0" * 9)
"""

WORDS = {"eng-spa": {"good": "bueno", "film": "cine"}, "spa-eng": {"bueno": "fine", "cine": "film"}}


class FakeApertium:
    """Installed in a folder; `bin` belongs on PATH."""

    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin"
        modes = folder / "share/apertium/modes"
        self.bin.mkdir()
        modes.mkdir(parents=True)
        for mode in ("eng-spa", "spa-eng", "spa-eng_US"):
            (folder / f"{mode}.bin").write_text(f"data of {mode}")
            (modes / f"{mode}.mode").write_text(f"lt-proc '{folder}/{mode}.bin' | apertium-tagger -g $2")
        command = self.bin / "apertium"
        command.write_text(f"#!{sys.executable} -ISs\n{SCRIPT}")
        command.chmod(0o755)
        self.behave()

    def behave(self, fault=None, words=WORDS, version="Apertium 3.8.3"):
        """`words`: replacements by mode; `fault`: what it does wrong."""
        words = {"spa-eng_US": {}} | words
        (self.folder / "behaviour.json").write_text(json.dumps({"fault": fault, "words": words, "version": version}))

    def calls(self, mode="eng-spa"):
        """The texts of each process so far, as the translator was shown them."""
        log = self.folder / "log.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [texts for name, texts in map(json.loads, lines) if name == mode]
