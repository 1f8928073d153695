#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes common/io/tok_unicode.c: the code point classes that tokenizers' regexes see (their Unicode version).

Needs the `tokenizers` package; run once per Unicode update:  mk_unicode.py > common/io/tok_unicode.c
The classes are asked of the library itself, so that ours cannot differ: \\p{L}, \\p{N}, \\s of its regex engine, and
the Digits pre-tokenizer's idea of a number.
"""
from tokenizers import Regex
from tokenizers.pre_tokenizers import Digits, Punctuation, Split, Whitespace

TOP = 0x110000


def members(pre, hit):
    return [not (0xD800 <= c < 0xE000) and hit(pre, chr(c)) for c in range(TOP)]


def by_regex(pattern):
    return members(Split(Regex(pattern), "removed"), lambda p, ch: not p.pre_tokenize_str(ch))


def is_digit(pre, ch):
    # "a" + digit is split in two, "a" + anything else is not
    return len(pre.pre_tokenize_str("a" + ch)) == 2


def is_word(pre, ch):
    # "a" + word character stays whole
    return pre.pre_tokenize_str("a" + ch) == [("a" + ch, (0, 2))]


def ranges(m):
    out, lo = [], None
    for c in range(TOP + 1):
        if c < TOP and m[c]:
            lo = c if lo is None else lo
        elif lo is not None:
            out.append((lo, c - 1))
            lo = None
    return out


def table(name, rs):
    print(f"\nconst struct tok_range {name}[] = {{")
    for i in range(0, len(rs), 5):
        print("\t" + " ".join(f"{{0x{a:04X}, 0x{b:04X}}}," for a, b in rs[i:i + 5]))
    print(f"}};\nconst size_t {name}_n = sizeof {name} / sizeof {name}[0];")


if __name__ == "__main__":
    print("""/*
 * tok_unicode.c - code point classes of the pre-tokenizers' regexes; written by tests/oracle/mk_unicode.py
 *
 * Sorted inclusive ranges: letters (\\\\p{L}), numbers (\\\\p{N}), white space (\\\\s), what the Digits pre-tokenizer calls
 * a number beyond \\\\p{N}, word characters of Whitespace (\\\\w), and what Punctuation cuts off.
 * Asked of the reference library code point by code point, so the Unicode version is its own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h\"""".replace("\\\\", "\\"))
    num = by_regex(r"\p{N}")
    dig = members(Digits(individual_digits=True), is_digit)
    assert all(d for n, d in zip(num, dig) if n)
    table("tok_uni_letter", ranges(by_regex(r"\p{L}")))
    table("tok_uni_number", ranges(num))
    table("tok_uni_space", ranges(by_regex(r"\s")))
    table("tok_uni_numeric_more", ranges([d and not n for n, d in zip(num, dig)]))
    table("tok_uni_word", ranges(members(Whitespace(), is_word)))
    table("tok_uni_punct", ranges(members(Punctuation(), is_digit)))
