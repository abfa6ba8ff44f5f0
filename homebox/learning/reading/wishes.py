"""What owners wish answers to be, as data: subjects, values, and the words of each.

The one idea: a table that is read from its top, so that a particular wish stands before a general
one. Invariant: each value is one that a checker knows, or stands in the owner's own words.
"""

import re
from dataclasses import dataclass

ANSWER_LENGTH = "answer length"  # short | long | N words | N sentences | one sentence
LIST_FORM = "lists"  # bullet points | numbered | none
SPELLING = "spelling"  # British | American
ANSWER_LANGUAGE = "answer language"  # German, French, ...
UNITS = "units"  # metric | imperial; also how temperatures are given
EMOJIS = "emojis"  # none | some
SIGN_OFF = "sign-off"  # the words at the end of each answer
OPENING = "greeting"  # the words at the beginning of each answer
TIME_FORMAT = "time format"  # 24-hour | 12-hour
DATE_FORMAT = "date format"  # day first | month first | ISO
LETTER_CASE = "letter case"  # lower case | upper case
INDENTATION = "code indentation"  # tabs | N spaces
CODE_LANGUAGE = "programming language"  # Python, Rust, ...
TONE = "tone"  # formal | informal
MARKDOWN = "markdown"  # none
EXCLAMATION = "exclamation marks"  # none
APOLOGIES = "apologies"  # none
HEADINGS = "headings"  # none
CLOSING_QUESTION = "closing question"  # none
ANSWER_FIRST = "begin with the answer"  # yes
CURRENCY = "currency"  # euros | dollars | pounds
SUBJECTS = (
    *(ANSWER_LENGTH, LIST_FORM, SPELLING, ANSWER_LANGUAGE, UNITS, EMOJIS, SIGN_OFF),
    *(OPENING, TIME_FORMAT, DATE_FORMAT, LETTER_CASE, INDENTATION, CODE_LANGUAGE, TONE, MARKDOWN),
    *(EXCLAMATION, APOLOGIES, HEADINGS, CLOSING_QUESTION, ANSWER_FIRST, CURRENCY),
)

ANSWERS = (
    r"(?:(?:all )?(?:of )?(?:your |the |my )?(?:answers|replies|responses|explanations|messages"
    r"|output))"
)
_NUMBER = r"(?P<n>\d{1,4}|one|two|three|four|five|six|seven|eight|nine|ten|a single)"
_LIMIT = (
    r"(?:at most|no more than|not more than|under|below|max(?:imum)?(?: of)?|within|up to"
    rf"|less than|fewer than|in|to|only|longer than|exceed(?:ing)?)? ?{_NUMBER} "
)
_NOT = (
    r"(?:no|without|never|don't|stop|avoid|hate|skip|drop|dislike|can't stand|not|zero|leave out"
    r"|ban)"
)
_LANGUAGE = (
    r"(?P<v>German|French|Spanish|Italian|Dutch|Portuguese|Polish|Swedish|Danish|Norwegian|Finnish"
    r"|Czech|Turkish|Greek|Russian|Ukrainian|Japanese|Chinese|Korean|Arabic|Hindi|Latin|English"
    r"|Welsh|Irish|Catalan|Hungarian|Romanian|Esperanto)"
)
_CODE = (
    r"(?P<v>Python|Rust|Go|Java|JavaScript|TypeScript|C\+\+|C#|Ruby|Kotlin|Swift|Haskell|OCaml"
    r"|Elixir|Clojure|Scala|Perl|PHP|Lua|Julia|Zig|Bash|C)"
)
NUMBERS = dict(
    zip(
        "one two three four five six seven eight nine ten".split(),
        map(str, range(1, 11)),
        strict=True,
    )
)


@dataclass(frozen=True)
class Wish:
    """A subject, its value, and the words by which somebody wishes for it."""

    subject: str
    value: str  # or empty: the group "v" has it
    pattern: re.Pattern[str]


def _wish(subject: str, value: str, pattern: str) -> Wish:
    return Wish(subject, value, re.compile(pattern, re.IGNORECASE))


WISHES = (
    _wish(ANSWER_LENGTH, "{n} words", rf"\b{_LIMIT}words?\b"),
    _wish(ANSWER_LENGTH, "{n} sentences", rf"\b{_LIMIT}(?:short )?sentences?\b"),
    _wish(ANSWER_LENGTH, "{n} lines", rf"\b{_LIMIT}lines?\b"),
    _wish(
        ANSWER_LENGTH,
        "short",
        rf"\b(?:short|shorter|brief|briefer|concise|terse|succinct|to the point|snappy|compact)\b.*"
        rf"\b{ANSWERS}\b|\b{ANSWERS}\b.*\b(?:short|shorter|brief|briefer|concise|terse|succinct"
        r"|to the point|snappy|compact)\b|\b(?:keep (?:it|things|everything)|be|answer|reply) "
        r"(?:always )?(?:short|shortly|brief|briefly|concise|concisely|terse|tersely|succinct)\b"
        r"|\b(?:no|hate|don't like|dislike|can't stand|stop|avoid|without|never) .*"
        rf"\b(?:long|lengthy|wordy|verbose|rambling|walls? of text)\b|\b{_NOT}\b.*\bramble?",
    ),
    _wish(
        ANSWER_LENGTH,
        "long",
        rf"\b(?:long|longer|detailed|thorough|in-depth|extensive)\b.*\b{ANSWERS}\b"
        rf"|\b{ANSWERS}\b.*\b(?:long|longer|detailed|thorough|in depth|extensive)\b"
        r"|\b(?:answer|reply|explain \w+) (?:always )?in (?:full )?detail\b",
    ),
    _wish(LIST_FORM, "none", rf"\b{_NOT}\b.*\b(?:lists?|bullets?|bullet points)\b"),
    _wish(LIST_FORM, "numbered", r"\b(?:numbered (?:lists?|points|steps)|number (?:your|the) \w+)"),
    _wish(
        LIST_FORM,
        "bullet points",
        r"\b(?:bullet(?:ed)?(?:[ -]?points?|[ -]lists?|s)|bulletpoints)\b",
    ),
    _wish(SPELLING, "British", r"\b(?:british|uk|gb|commonwealth|oxford) (?:english|spelling)s?\b"),
    _wish(SPELLING, "American", r"\b(?:american|us|u\.s\.) (?:english|spelling)s?\b"),
    _wish(
        ANSWER_LANGUAGE,
        "",
        r"\b(?:answer|reply|respond|speak|talk|write)(?: to)?(?: me)?(?: always| only)? "
        r"(?:only )?in "
        rf"{_LANGUAGE}\b|\b{ANSWERS} (?:should be |must be |to be |have to be )?(?:always )?in "
        rf"{_LANGUAGE.replace('?P<v>', '?P<v2>')}\b"
        rf"|\b{_LANGUAGE.replace('?P<v>', '?P<v3>')} {ANSWERS}\b",
    ),
    _wish(
        UNITS, "metric", r"\b(?:metric|si units|kilomet(?:er|re)s|kilograms|centimet(?:er|re)s)\b"
    ),
    _wish(UNITS, "imperial", r"\b(?:imperial|us customary|feet and inches|miles and pounds)\b"),
    _wish(UNITS, "imperial", r"\bfahrenheit\b"),
    _wish(UNITS, "metric", r"\b(?:celsius|centigrade)\b"),
    _wish(EMOJIS, "none", rf"\b{_NOT}\b.*\b(?:emojis?|emoticons?|smileys?|smilies)\b"),
    _wish(
        EMOJIS,
        "some",
        r"\b(?:use|add|put|with|like|love|include)\b.*\b(?:emojis?|emoticons?|smileys?)\b",
    ),
    _wish(
        CLOSING_QUESTION,
        "none",
        rf"\b{_NOT}\b.*\b(?:follow[- ]?up questions?|(?:closing|final) questions?"
        r"|(?:with|by asking) (?:a |me a )?questions?)\b",
    ),
    _wish(
        ANSWER_FIRST,
        "yes",
        r"\b(?:answer|conclusion|result|bottom line) (?:comes )?first\b"
        r"|\b(?:start|begin|lead) with the (?:answer|conclusion|result|bottom line)\b",
    ),
    _wish(
        SIGN_OFF,
        "",
        r"\b(?:end|finish|close|conclude|sign off)(?: every| each| all)?(?: of)?(?: your)? ?"
        r"(?:answers?|repl(?:y|ies)|responses?|messages?)? (?:with|by saying|as) (?P<v>.+)",
    ),
    _wish(
        OPENING,
        "",
        r"\b(?:begin|start|open)(?: every| each| all)?(?: of)?(?: your)? ?"
        r"(?:answers?|repl(?:y|ies)|responses?|messages?) (?:with|by saying) (?P<v>.+)",
    ),
    _wish(
        TIME_FORMAT,
        "24-hour",
        r"\b(?:24[- ]?(?:h|hours?|hr)|twenty[- ]four[- ]hour|military time)\b",
    ),
    _wish(TIME_FORMAT, "12-hour", r"\b(?:12[- ]?(?:h|hours?|hr)|twelve[- ]hour|am/pm|am and pm)\b"),
    _wish(
        DATE_FORMAT,
        "ISO",
        r"\b(?:iso(?: 8601)? dates?|yyyy[-/.]mm[-/.]dd|year first|dates? (?:as|like"
        r") \d{4}-\d\d-\d\d)\b",
    ),
    _wish(
        DATE_FORMAT,
        "day first",
        r"\b(?:dd[-/.]mm[-/.]yy(?:yy)?|day (?:first|before (?:the )?month))\b",
    ),
    _wish(
        DATE_FORMAT,
        "month first",
        r"\b(?:mm[-/.]dd[-/.]yy(?:yy)?|month (?:first|before (?:the )?day))\b",
    ),
    _wish(
        LETTER_CASE,
        "lower case",
        r"\b(?:in|all|only|use|prefer|to) (?:all |only )?(?:lower[- ]?case|small letters)\b",
    ),
    _wish(
        LETTER_CASE,
        "upper case",
        r"\b(?:in|all|only|use|prefer|to) (?:all |only )?(?:upper[- ]?case|capitals"
        r"|capital letters|caps)\b",
    ),
    _wish(
        INDENTATION,
        "tabs",
        r"\btabs\b(?=.*\b(?:spaces|indent\w*|code)\b)(?!.*\b(?:over|not|never) tabs)"
        r"|\bindent\w*.*\btabs\b|\btabs,? not spaces\b",
    ),
    _wish(
        INDENTATION,
        "{n} spaces",
        rf"\b{_NUMBER}[ -]spaces?\b|\b{_NUMBER.replace('?P<n>', '?P<n2>')}[ -]space indent\w*",
    ),
    _wish(
        CODE_LANGUAGE,
        "",
        rf"\b(?:code|examples?|snippets?|scripts?|programs?|solutions?)\b.*\bin {_CODE}(?!\w)"
        rf"|\b(?:write|program|code)(?: all| your| any| me)*(?: code)? in "
        rf"{_CODE.replace('?P<v>', '?P<v2>')}(?!\w)"
        rf"|\buse {_CODE.replace('?P<v>', '?P<v3>')} for (?:all |any |your )*"
        r"(?:code|examples|snippets|scripts)",
    ),
    _wish(
        TONE,
        "formal",
        r"(?<!in)(?<!less )(?<!not )(?<!too )\bformal(?:ly)?\b(?!.*\b(?:hate|stop)\b)",
    ),
    _wish(
        TONE, "informal", r"\b(?:informal(?:ly)?|casual(?:ly)?|less formal|not so formal|chatty)\b"
    ),
    _wish(MARKDOWN, "none", rf"\b{_NOT}\b.*\b(?:markdown|formatting)\b|\bplain text\b"),
    _wish(HEADINGS, "none", rf"\b{_NOT}\b.*\b(?:headings?|headlines?|headers)\b"),
    _wish(CURRENCY, "euros", r"\b(?:prices?|costs?|money|amounts?)\b.*\b(?:euros?|eur)\b"),
    _wish(CURRENCY, "dollars", r"\b(?:prices?|costs?|money|amounts?)\b.*\b(?:dollars?|usd)\b"),
    _wish(CURRENCY, "pounds", r"\b(?:prices?|costs?|money|amounts?)\b.*\b(?:pounds|gbp)\b"),
    _wish(EXCLAMATION, "none", rf"\b{_NOT}\b.*\b(?:exclamation (?:marks?|points?))\b"),
    _wish(
        APOLOGIES,
        "none",
        rf"\b{_NOT}\b.*\b(?:apologi[sz]\w*|apologies|say(?:ing)? sorry|saying you're sorry)\b",
    ),
)
