"""The stream to and from Apertium with a fake command, and the real one where it is installed."""

import random
import shutil
import subprocess

import pytest
from fake_apertium import FakeApertium

from mixkd.apertium import identity, translator
from mixkd.store import UserError


@pytest.fixture
def apertium(tmp_path, monkeypatch):
    (tmp_path / "apertium").mkdir()
    fake = FakeApertium(tmp_path / "apertium")
    monkeypatch.setenv("PATH", f"{fake.bin}:/usr/bin:/bin")
    monkeypatch.delenv("APERTIUM_DATADIR", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    return fake


def test_texts_come_back_translated_and_in_order(apertium):
    assert translator("eng-spa")(["a good film", "good.", "bad", "a film!"]) == [
        "a fine film",
        "fine.",
        "bad",
        "a film!",
    ]
    assert apertium.calls() == [["a good film.", "good.", "bad.", "a film!"]]  # one process; a sentence has its end


def test_more_cores_share_the_texts_and_keep_the_order(apertium, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    texts = [f"film {n}" for n in range(10)]
    assert translator("eng-spa")(texts) == texts
    assert sorted(map(len, apertium.calls())) == [3, 3, 4]
    assert translator("eng-spa")(["film"]) == ["film"]


def test_every_character_survives_the_stream_format(apertium):
    apertium.behave(words={"eng-spa": {}, "spa-eng": {}})
    draw = random.Random(0)
    alphabet = "[]{}^$/\\@<>*#+~.!?-_&;:'\"()0a é“…😀\u200b"
    texts = [" ".join("".join(draw.choices(alphabet, k=draw.randint(1, 12))).split()) for _ in range(500)]
    texts = [text for text in texts if text] + [
        "[0]x[]",
        "].[]",
        "\\[",
        "a\\",
        "[[t:b:1]]x[[/]]",
        "^a/b<n>$",
        "x" * 10**5,
    ]
    assert translator("eng-spa")(texts) == texts
    translator("eng-spa")(["''good''", "\"a\" ''b''"])
    assert apertium.calls()[-1] == ['"good".', "\"a\" ''b''."]  # a doubled apostrophe would be taken for one


@pytest.mark.parametrize(
    ("fault", "texts", "expected"),
    [
        ("loses", ["good 0", "LOST", "good 2", "good 3"], ["fine 0", "", "fine 2", "fine 3"]),
        ("merges", ["good 0", "GLUE", "good 2", "GLUE"], ["fine 0", "GLUE", "fine 2", "GLUE"]),
        ("reverses", ["good 0", "good 1", "good 2"], ["fine 0", "fine 1", "fine 2"]),
    ],
)
def test_texts_are_never_confused_when_apertium_returns_others_than_it_was_given(apertium, fault, texts, expected):
    apertium.behave(fault)
    assert translator("eng-spa")(texts) == expected


def test_only_the_text_that_is_lost_costs_further_processes(apertium):
    apertium.behave("loses")
    translator("eng-spa")(["LOST", *["good"] * 63])
    assert len(apertium.calls()) == 1 + 2 * 6 + 1  # halves down to the single text, then whether Apertium works at all


def test_a_broken_apertium_is_no_lost_text(apertium):
    apertium.behave("fails")
    with pytest.raises(UserError, match=r"Apertium does not work here \(lt-proc: no such file\).*install it again"):
        translator("eng-spa")(["good", "bad"])


def test_the_way_back_can_be_named(apertium):
    assert translator("eng-spa,spa-eng_US")(["good film"]) == ["bueno cine"]
    assert apertium.calls("spa-eng") == [] and len(apertium.calls("spa-eng_US")) == 1


def test_what_is_missing_is_said_with_the_way_to_install_it(apertium, monkeypatch):
    for pair, mode in (("eng-fra", "eng-fra"), ("spa-eng_US", "eng_US-spa"), ("eng-spa,spa-fra", "spa-fra")):
        with pytest.raises(UserError) as error:
            translator(pair)
        assert f"no mode '{mode}' here, only eng-spa, spa-eng, spa-eng_US:" in str(error.value)
        assert f"apt-get install apertium-{pair.partition(',')[0]}`" in str(error.value)
    monkeypatch.setenv("PATH", "")
    for function in (translator, identity):
        with pytest.raises(UserError, match="`apt-get install apertium apertium-eng-spa`"):
            function("eng-spa")


def test_the_identity_holds_all_that_decides_a_translation_and_no_folder(apertium, tmp_path, monkeypatch):
    seen = [identity("eng-spa")]

    def changed():
        seen.append(identity("eng-spa"))
        return seen[-1] not in seen[:-1]

    assert not changed()
    assert str(tmp_path) not in str(seen[0])
    apertium.behave(version="Apertium 3.9.0")
    assert changed()
    (apertium.folder / "spa-eng.bin").write_text("new data of the way back")
    assert changed()
    mode = apertium.folder / "share/apertium/modes/eng-spa.mode"
    mode.write_text(mode.read_text() + " | lrx-proc")
    assert changed()
    assert identity("eng-spa,spa-eng_US") not in seen

    (tmp_path / "elsewhere").mkdir()
    other = FakeApertium(tmp_path / "elsewhere")
    monkeypatch.setenv("PATH", str(other.bin))
    assert identity("eng-spa") == seen[0]
    monkeypatch.setenv("APERTIUM_DATADIR", str(apertium.folder / "share/apertium"))
    assert identity("eng-spa")["stages"] == seen[-1]["stages"]


REAL = [
    "The film isn't bad; it's ''good'' & funny!", "No final dot", "Costs $5 and 50% off", "^caret^ [bracket] {curly}",
    "a\\b and/or c:\\dir", "me@example.com #tag <b>bold</b> *star* ~tilde +plus", "“quotes” … – — ‘single’", "[0][]",
    "&amp; &lt; &#39;", "😀 emoji café naïve Łódź 日本語", "...", "?", "Why? Because. No!", "a", "I", "x" * 3000, "1",
    "Mr. Smith etc.", "word " * 400 + "end", "he said", "(parenthesis", "known", "good ethics its", "It is [0] good",
    "]", "\\", "$", "It is ''shut up'' now.", "zero\u200bwidth", "It bites hard.",
    "The plot, the cast and the score are great.",
]  # fmt: skip


def has_pair():
    """Whether Apertium itself says that it translates English to Spanish and back."""
    if shutil.which("apertium") is None:
        return False
    modes = subprocess.run(["apertium", "-l"], capture_output=True, text=True, check=False).stdout.split()
    return {"eng-spa", "spa-eng"} <= set(modes)


@pytest.mark.skipif(not has_pair(), reason="apertium or its pair eng-spa is not installed")
def test_the_real_apertium_gives_every_text_its_own_translation_in_any_company(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    translate = translator("eng-spa")
    texts = [" ".join(text.split()) for text in REAL]
    translations = dict(zip(texts, translate(texts), strict=True))
    assert translate(texts[::-1]) == [translations[text] for text in texts[::-1]]
    # After "known", the tagger of a process that goes on would take "good" for an adverb.
    alone = "good ethics its"
    assert texts.index("known") < texts.index(alone)
    assert translate([alone]) == [translations[alone]]

    assert translations["The plot, the cast and the score are great."].startswith("The plot, the ")
    assert all(translations.values())
    assert (
        translations["It is ''shut up'' now."].count("''") == 2 and "hut" not in translations["It is ''shut up'' now."]
    )
    for text, translation in translations.items():
        for mark in "[]{}^$\\@<>*#/&":
            assert translation.count(mark) == text.count(mark), (text, translation)
        assert translation.endswith(".") == text.endswith("."), (text, translation)
    assert translations["😀 emoji café naïve Łódź 日本語"].count("日本語") == 1
