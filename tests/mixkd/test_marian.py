"""MarianMT on tiny random models, whose "translations" are deterministic gibberish."""

import io
import json
import shutil

import pytest

pytest.importorskip("sentencepiece", reason="sentencepiece is not installed (extra `bt`)")

import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

from mixkd import marian
from mixkd.augment import back_translate
from mixkd.marian import identity, translator
from mixkd.store import UserError

SENTENCES = ["the film is good and the plot is dull", "a lovely story with a great cast", "it was awful and very poor"]


def make_marian(folder, seed):
    """A tiny MarianMT model with its tokenizer."""
    folder.mkdir()
    vocabulary = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 5), model_writer=vocabulary, vocab_size=60, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(vocabulary.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.getvalue())
    words = [pieces.id_to_piece(i) for i in range(3, pieces.get_piece_size())]  # after <unk>, <s> and </s>
    numbers = {word: i for i, word in enumerate(["</s>", "<unk>", *words, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    MarianTokenizer(*(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json"))).save_pretrained(
        folder
    )
    torch.manual_seed(seed)
    sizes = {f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in
             (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
    pad = numbers["<pad>"]
    config = MarianConfig(
        vocab_size=len(numbers), d_model=16, max_position_embeddings=24, init_std=1.0, pad_token_id=pad, eos_token_id=0,
        decoder_start_token_id=pad, forced_eos_token_id=0, bad_words_ids=[[pad]],
        tie_word_embeddings=False, share_encoder_decoder_embeddings=False, **sizes,
    )  # fmt: skip
    model = MarianMTModel(config)
    model.generation_config.num_beams = 4  # as opus-mt checkpoints have it
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("marian")
    for seed, name in enumerate(("forward", "back")):
        make_marian(root / name, seed)
    return root


@pytest.fixture
def pair(checkpoints):
    return f"{checkpoints / 'forward'},{checkpoints / 'back'}"


def greedy(folder, text):
    """One text, token by token, through the model's forward alone."""
    model, tokenizer = MarianMTModel.from_pretrained(folder), MarianTokenizer.from_pretrained(folder)
    limit, pad = model.config.max_position_embeddings, model.config.pad_token_id
    ids = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt").input_ids
    tokens = [pad]
    with torch.no_grad():
        while len(tokens) < limit and (len(tokens) == 1 or tokens[-1] != 0):
            logits = model(input_ids=ids, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
            logits[pad] = -torch.inf
            tokens.append(0 if len(tokens) == limit - 1 else int(logits.argmax()))
    return " ".join(tokenizer.decode(tokens, skip_special_tokens=True).split())


def test_translations_are_the_greedy_ones_in_any_company(checkpoints, pair, monkeypatch):
    texts = [*SENTENCES, "a cast", "unseen zebra!", "the film " * 40, "good", "it was"]
    expected = [greedy(checkpoints / "back", greedy(checkpoints / "forward", text)) for text in texts]
    assert len(set(expected)) > 4
    assert translator(pair, "cpu")(texts) == expected
    monkeypatch.setattr(marian, "_BATCH_SIZE", 3)
    assert translator(pair, "cpu")(texts[::-1]) == expected[::-1]


def test_marian_stands_behind_back_translate(checkpoints, pair, tmp_path, monkeypatch):
    cache = tmp_path / "bt.sqlite3"
    first = back_translate(SENTENCES, "marian", pair, cache, device="cpu")
    assert first == translator(pair, "cpu")(SENTENCES)
    monkeypatch.setattr(marian, "translator", None)
    assert back_translate([SENTENCES[1], "", SENTENCES[0]], "marian", pair, cache) == [first[1], "", first[0]]


def test_the_identity_is_that_of_the_files(checkpoints, pair, tmp_path):
    for name in ("forward", "back"):
        shutil.copytree(checkpoints / name, tmp_path / name)
    copy = f"{tmp_path / 'forward'}, {tmp_path / 'back'}"
    first = identity(pair)
    assert identity(copy) == first and str(checkpoints) not in str(first)
    assert identity(",".join(reversed(pair.split(",")))) != first
    for changed in ("model.safetensors", "source.spm", "generation_config.json", "vocab.json"):
        path = tmp_path / "back" / changed
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert identity(copy) != first, changed
        path.write_bytes(content)
    assert identity("a/b,c/d")["checkpoints"] == ["a/b", "c/d"]


def error(pair):
    with pytest.raises(UserError) as caught:
        translator(pair, "cpu")
    return str(caught.value)


def test_what_cannot_be_loaded_is_said_in_one_sentence(checkpoints, tmp_path, tiny_bert):
    forward, broken = checkpoints / "forward", tmp_path / "broken"

    def breaking(*names, content=None):
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(forward, broken)
        for name in names:
            (broken / name).unlink()
            if content is not None:
                (broken / name).write_bytes(content)
        return error(f"{forward},{broken}")

    assert "two checkpoints, forward and back, not 'eng-spa'" in error("eng-spa")
    assert "two checkpoints" in error("a,b,c")
    assert "two checkpoints" in error("a,")
    assert "is a bert model" in error(f"{tiny_bert},{forward}")
    assert "There is no folder" in error(f"{forward},{tmp_path}/nothing")
    message = error("Helsinki-NLP/opus-mt-en-es,Helsinki-NLP/opus-mt-es-en")
    assert message.startswith("Helsinki-NLP/opus-mt-en-es cannot be loaded (") and "check the name" in message
    assert "lacks its tokenizer" in breaking("source.spm")
    assert "lacks its tokenizer" in breaking("vocab.json")
    assert f"{broken} cannot be loaded (" in breaking("model.safetensors", content=b"junk")
    assert f"{broken} cannot be loaded (" in breaking("source.spm", content=b"junk")


def test_pickled_weights_are_never_loaded_and_the_way_to_convert_them_works(checkpoints, tmp_path, capsys):
    forward, pickled = checkpoints / "forward", tmp_path / "pickled"
    shutil.copytree(forward, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(MarianMTModel.from_pretrained(forward).state_dict(), pickled / "pytorch_model.bin")
    message = error(f"{forward},{pickled}")
    assert message.startswith(f"{pickled} has no model.safetensors, and pickled weights are never loaded")
    command = message.partition('python -c "')[2].partition('"`')[0]
    exec(command.replace("FOLDER", str(tmp_path / "converted")))  # what the message tells the user to run
    converted = translator(f"{tmp_path / 'converted'},{forward}", "cpu")
    assert converted(SENTENCES) == translator(f"{forward},{forward}", "cpu")(SENTENCES)


def test_without_sentencepiece_the_extra_is_named(pair, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'mixkd[bt]'" in error(pair)
