#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes common/io/tok_unicode.c: the code point classes that tokenizers' regexes see (their Unicode version).

Needs the `tokenizers` package; run once per Unicode update:  mk_unicode.py > common/io/tok_unicode.c
and  mk_unicode.py forms > common/io/tok_unicode_nf.c  and  mk_unicode.py since > common/io/tok_unicode_since.c
The classes are asked of the library itself, so that ours cannot differ: \\p{L}, \\p{N}, \\s of its regex engine, and
the Digits pre-tokenizer's idea of a number.
"""
import sys
import unicodedata

from tokenizers import Regex
from tokenizers.normalizers import Lowercase, NFD, NFKD
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


def in_forms():
    """Code points that Unicode normalization of the library's version decomposes, reorders or composes."""
    m, nfd, nfkd = [False] * TOP, NFD(), NFKD()
    for c in range(TOP):
        if 0xD800 <= c < 0xE000:
            continue
        ch = chr(c)
        full, part = nfkd.normalize_str(ch), nfd.normalize_str(ch)
        # moves before a mark of class 232, or lets one of class 1 before it: has a class of its own
        marks = nfd.normalize_str("a\u0315" + ch) != "a\u0315" + part or nfd.normalize_str("a" + ch + "\u0334") != "a" + part + "\u0334"
        m[c] |= full != ch or marks or c in (0x315, 0x334)
        for x in part if part != ch else "":
            m[ord(x)] = True
    return m


def forms():
    print("""/*
 * tok_unicode_nf.c - code points that take part in Unicode normalization; written by tests/oracle/mk_unicode.py forms
 *
 * Those that decompose, have a combining class or are part of a decomposition, as the reference library knows them: its
 * Unicode version is older than utf8proc's, and what only the newer one knows must stay.  And pairs of a letter and its
 * lower case from Unicode versions after 14.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h\"""")
    table("tok_uni_forms", ranges(in_forms()))
    low = Lowercase()
    table("tok_uni_lower", [(c, ord(low.normalize_str(chr(c)))) for c in range(0x300, TOP)
                            if not 0xD800 <= c < 0xE000 and low.normalize_str(chr(c)) != chr(c).lower()])


def since():
    """What regex categories have that PCRE2 with Unicode 14 lacks; Python 3.11's own data are Unicode 14."""
    assert unicodedata.unidata_version == "14.0.0"
    print("""/*
 * tok_unicode_since.c - code points that have a category since Unicode 15 or later; written by tests/oracle/mk_unicode.py since
 *
 * For patterns that PCRE2 matches, whose Unicode may be older than that of the reference's engine.  Asked of that one,
 * category by category, less what Unicode 14 has.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tok_impl.h"

const struct tok_since tok_uni_since[] = {""")
    for kind in "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So".split():
        old = [unicodedata.category(chr(c)) for c in range(TOP)]
        now = by_regex(r"\p{%s}" % kind)
        for a, b in ranges([x and o != kind for x, o in zip(now, old)]):
            print(f'\t{{ "{kind}", 0x{a:04X}, 0x{b:04X} }},')
    print("};\nconst size_t tok_uni_since_n = sizeof tok_uni_since / sizeof tok_uni_since[0];")


if __name__ == "__main__":
    if sys.argv[1:] == ["forms"]:
        sys.exit(forms())
    if sys.argv[1:] == ["since"]:
        sys.exit(since())
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
