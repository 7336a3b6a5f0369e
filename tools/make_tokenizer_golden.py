#!/usr/bin/env python3
"""Makes tests/calibration/golden/*.json: small tokenizers, texts, and the ids that Hugging Face's library gives them.

    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3
    venv/bin/python tools/make_tokenizer_golden.py tests/calibration/golden

Each file: {"about", "made_by", "tokenizer": the tokenizer.json, "cases": [{"text", "ids", "ids_no_special"}]}.
With --random N SEED each file gets N random texts more (for a wider check by hand, not to be committed).
"""
import argparse
import json
import os
import random

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

DEEPSEEK_WORDS = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
                  r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")
LLAMA3_WORDS = (r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
                r"""|\s*[\r\n]+|\s+(?!\S)|\s+""")
QWEN_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
O200K_WORDS = (r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
               r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
               r"""|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+""")

CORPUS = [
    "The storage is the bottleneck, and the program is right when it is as fast as the disk. It isn't, they're, we've.",
    "def amax(values): return max(abs(v) for v in values)  # 448.0 * 6.0 = 2688.0\n\n\tif x >= 1234567: pass\n",
    "量化是把模型权重变小的方法。日本語のテキストとカタカナ、ひらがな。한국어 문장도 있습니다.",
    "Ünïcödé naïve café Straße ÅÄÖ ﬁne ① ² ½ Ⅷ ｆｕｌｌ ελληνικά Русский עברית العربية हिन्दी ไทย",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 and $100,000.50 or 3.14159e-10; http://example.org/a?b=c&d=e <tag attr='x'/>",
] * 3

TEXTS = [
    "", " ", "   ", "\n", "\r\n\r\n", "\t\t x \t", "a", "Hello, world!", " leading and trailing  ",
    "don't DON'T I'm we'Ll it'S 'tis", "1 12 123 1234 12345678901234567890", "٣٤٥ ४५६ Ⅷ ① ½ ² 三",
    "x=1;y=22;zz=333\n\n\n  if(a){b[0]+=c;}\r\n", "量化是把模型权重变小 日本語カタカナひらがな한국어",
    "e\u0301 \u00e9 a\u0323\u0302 a\u0302\u0323 \u1e9b\u0323 \ufb01 \u2126 \u212b \u1100\u1161\u11a8 \uac01 \uff21 \u00a0\u2003x",
    "\u0301\u0327starts with marks \u0315\u0300\u05ae\u0062", "👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪", "\x01\x02\x1f\x7f\u0085\u200b\u200d\ufeff\ufffd\U0010fffd",
    "\x00nul\x00", "mixed \u3000ideographic\u3000space \u2028line\u2029para", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the the the  the\nthe\tthe", "foo-bar--baz---qux - -- --- x", "ΑΒΓ αβγ ǅ ǈ ʰ ª º", "______ __init__ a_b", "\ud55c\u0000\uac00",
    "<s>hello</s>", " <s> hello </s> ", "x<s>y</s>z", "<s><s></s>", "[A][AB][ABC] [A] x[A]y", "tok tokx xtok tok, (tok) _tok tok1 étok tok\u0301",
    "  [L]  [R]  [LR]  [L][R][LR]  ", "[R]   [L]", "caf\u00e9 cafe\u0301 CAF\u00c9", "ﬁne \u212bngström ½", "q\u0307\u0323 [N\u00e9] [Ne\u0301]",
    "[R]  \u2003\n[S] [S]", "end [R] \n", "word\u200dtok tok\u200c ⓐtok \u0903tok ‿tok ②tok", "a\u0315\u0300\u05ae\u0327\u0062 \u0f71\u0f72\u0f74 \u0344",
]

ALPHABETS = [
    "abcdefghij ABC", " \t\n\r\u00a0\u3000\u2003\u2028", "0123456789٣४①½²", "'sStTdDlL re ve ",
    "量化模型日本語カナひら한국어\u1100\u1161\u11a8", "\u0301\u0300\u0323\u0327\u0315\u05ae\u0345\u093c\u0f71\u3099aeiouAEOc\u00e9\u00c5\u212b\uac00\u304b",
    "👩‍👧🏳️🌈👍🏽\u200d\ufe0f🇩🇪", "\x00\x01\x7f\u0085\u200b\u200c\u200d\ufeff\ufffd", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»—…€", "ﬁﬀⅧ①ｆ㌔㎏ĳǆſẛ",
]
SPECIALS = ["<s>", "</s>", "[A]", "[AB]", "[L]", "[R]", "[LR]", "[S]", "tok", "[Né]", "  "]


def random_texts(count, seed):
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        pieces = []
        for _ in range(rng.randint(1, 12)):
            if rng.random() < 0.25:
                pieces.append(rng.choice(SPECIALS))
            elif rng.random() < 0.15:
                pieces.append(chr(rng.choice([rng.randint(1, 0xD7FF), rng.randint(0xE000, 0xFFFF), rng.randint(0x10000, 0x1FFFF)])))
            else:
                alphabet = rng.choice(ALPHABETS)
                pieces.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 12))))
        texts.append("".join(pieces))
    return texts


def byte_level(use_regex=False, add_prefix_space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(pattern, behavior=behavior, invert=invert)


def train(pre_tokenizer, normalizer=None, vocab_size=330, alphabet=None, specials=(), **model):
    tokenizer = Tokenizer(models.BPE(**model))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False, special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def gpt2():
    """GPT-2: ByteLevel with its own expression and a prefix space, no special tokens"""
    return train(byte_level(use_regex=True, add_prefix_space=True))


def deepseek():
    """DeepSeek-V3: three Splits, then bytes; BOS by a template in a Sequence of post-processors"""
    tokenizer = train(pre_tokenizers.Sequence([
        split(Regex(r"\p{N}{1,3}")), split(Regex("[一-龥\u3040-ゟ゠-ヿ]+")), split(Regex(DEEPSEEK_WORDS)), byte_level()]),
        specials=["<s>", "</s>"])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])])
    return tokenizer


def llama3():
    """Llama 3: one Split, bytes, ignore_merges, BOS and EOS; merges in the old spelling"""
    tokenizer = train(pre_tokenizers.Sequence([split(Regex(LLAMA3_WORDS)), byte_level()]),
                      specials=["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    data = json.loads(tokenizer.to_str())
    # Some merges gone: their words are then found only whole, by ignore_merges.
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"][::2]]
    kept = {merge.replace(" ", "") for merge in data["model"]["merges"]}
    data["model"]["merges"] = [m for m in data["model"]["merges"]
                               if all(len(part) == 1 or part in kept for part in m.split(" "))]
    data["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(data)), data


def qwen():
    """Qwen: NFC, single digits, added tokens behind the vocabulary"""
    tokenizer = train(pre_tokenizers.Sequence([split(Regex(QWEN_WORDS)), byte_level()]), normalizers.NFC())
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    tokenizer.add_tokens([AddedToken("[Né]", normalized=True), AddedToken("tok", normalized=False)])
    return tokenizer


def o200k():
    """The expression of o200k, NFKD in a Sequence"""
    return train(pre_tokenizers.Sequence([split(Regex(O200K_WORDS)), byte_level()]),
                 normalizers.Sequence([normalizers.NFC(), normalizers.NFKD()]))


def digits_individual():
    """Digits one by one, then GPT-2's words; NFKC"""
    return train(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=True)]),
                 normalizers.NFKC())


def digits_runs():
    """Digits in runs; NFD"""
    return train(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), byte_level()]),
                 normalizers.NFD())


def splits():
    """Each behavior of Split, strings and expressions, inverted and not, and one that matches nothing at many places"""
    return train(pre_tokenizers.Sequence([
        split("--", "removed"), split("-", "merged_with_previous"), split(Regex(r"[,;]"), "merged_with_next"),
        split(Regex(r"\s"), "contiguous"), split(Regex(r"\p{L}+|\p{N}+"), "isolated", invert=True),
        split(Regex(r"x*"), "isolated"), split(Regex(r"[a-m]+"), "merged_with_next", invert=True), byte_level()]))


def added():
    """Added tokens: overlapping, stripping, whole words, normalized and not, special and not"""
    tokenizer = train(pre_tokenizers.Sequence([split(Regex(LLAMA3_WORDS)), byte_level()]), normalizers.NFKC(),
                      specials=["<s>", "</s>"])
    tokenizer.add_tokens([
        AddedToken("[A]"), AddedToken("[AB]"), AddedToken("[A][AB]", normalized=False),
        AddedToken("[L]", lstrip=True), AddedToken("[R]", rstrip=True), AddedToken("[LR]", lstrip=True, rstrip=True),
        AddedToken("[S]", lstrip=True, single_word=True), AddedToken("tok", single_word=True, normalized=False),
        AddedToken("Né", single_word=True), AddedToken("ﬁne", normalized=True), AddedToken("\u212bng", normalized=False)])
    tokenizer.add_special_tokens([AddedToken("½", special=True, normalized=False)])
    return tokenizer


def fallback():
    """No bytes but characters: byte_fallback, an unknown token, no pre-tokenizer"""
    tokenizer = train(None, alphabet=list("abcdefghijklmnopqrstuvwxyz "), vocab_size=60, specials=["<unk>"])
    return char_model(tokenizer, byte_fallback=True, missing_bytes=())


def unknown_fused():
    """Unknown characters fused to one token; three bytes lack, so some characters fall back and others do not"""
    tokenizer = train(split(" ", "merged_with_next"), alphabet=list("abcdefghij "), vocab_size=60, specials=["<unk>"])
    return char_model(tokenizer, byte_fallback=True, missing_bytes=(0xE9, 0x31, 0xCC), fuse_unk=True)


def unknown_single():
    """Unknown characters one by one"""
    tokenizer = train(split(" ", "isolated"), alphabet=list("abcdefghij "), vocab_size=60, specials=["<unk>"])
    return char_model(tokenizer)


def dropped():
    """Characters that nothing knows vanish"""
    tokenizer = train(split(" ", "isolated"), alphabet=list("abcdefghij "), vocab_size=60)
    return char_model(tokenizer, unk_token=None)


def sentence_pieces(normalizer, pre_tokenizer):
    """As Sentencepiece's BPE models are converted: characters, ▁ for spaces, bytes for what lacks."""
    tokenizer = train(pre_tokenizer, normalizer, alphabet=list("abcdefghijklmnopqrstuvwxyz▁"), vocab_size=220,
                      specials=["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return char_model(tokenizer, byte_fallback=True, fuse_unk=True, keep="abcdefghijklmnopqrstuvwxyz▁",
                      specials=("<unk>", "<s>", "</s>"))


def llama2():
    """Llama 2, Mistral 7B v0.1: Prepend and Replace, no pre-tokenizer"""
    return sentence_pieces(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None)


def metaspace_first():
    """Mistral 7B v0.3: Metaspace for the text's begin alone, not split"""
    return sentence_pieces(None, pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False))


def metaspace_words():
    """Metaspace before every piece, split into words; Replace by an expression"""
    return sentence_pieces(normalizers.Replace(Regex(r"[\t\n]+"), " "),
                           pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True))


def metaspace_never():
    """Metaspace that adds nothing, behind single digits"""
    return sentence_pieces(None, pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=True)]))


def char_model(tokenizer, byte_fallback=False, missing_bytes=(), fuse_unk=False, unk_token="<unk>",
               keep="abcdefghijklmnopqrstuvwxyz ", specials=("<unk>",)):
    data = json.loads(tokenizer.to_str())
    model = data["model"]
    keep = set(keep)
    tokens = [t for t in sorted(model["vocab"], key=model["vocab"].get) if t in specials or set(t) <= keep]
    model["merges"] = [m for m in model["merges"] if set("".join(m)) <= keep]
    if byte_fallback:
        tokens += [f"<0x{b:02X}>" for b in range(256) if b not in missing_bytes]
    model["vocab"] = {token: i for i, token in enumerate(tokens)}
    for token in data["added_tokens"]:
        token["id"] = model["vocab"].get(token["content"], token["id"])
    model.update(byte_fallback=byte_fallback, fuse_unk=fuse_unk, unk_token=unk_token)
    return Tokenizer.from_str(json.dumps(data)), data


MAKERS = [gpt2, deepseek, llama3, qwen, o200k, digits_individual, digits_runs, splits, added, fallback,
          unknown_fused, unknown_single, dropped, llama2, metaspace_first, metaspace_words, metaspace_never]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--random", nargs=2, type=int, metavar=("N", "SEED"), default=(6, 1))
    options = parser.parse_args()
    texts = TEXTS + random_texts(*options.random)
    for maker in MAKERS:
        made = maker()
        tokenizer, data = made if isinstance(made, tuple) else (made, json.loads(made.to_str()))
        cases = [{"text": text, "ids": tokenizer.encode(text).ids,
                  "ids_no_special": tokenizer.encode(text, add_special_tokens=False).ids} for text in texts]
        for case in cases:
            if case["ids"] == case["ids_no_special"]:
                del case["ids_no_special"]
        golden = {"about": maker.__doc__, "made_by": f"tokenizers {tokenizers.__version__}", "tokenizer": data, "cases": cases}
        with open(os.path.join(options.folder, maker.__name__ + ".json"), "w", encoding="utf-8") as file:
            file.write(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
