"""How the owner wants answers to be: preferences that a program can check.

The one idea: such a wish has one of few values under a fixed subject ("answer length" = "short"),
whatever words it was told in, so that a checker can tell whether an answer keeps it. Invariant: a
wish for one answer ("make it shorter") is no preference; only what speaks of answers in general is.
"""

import re
from dataclasses import dataclass

from homebox.learning.reading.told import Told, cleaned

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

_LONGEST = 300  # characters of a clause that can be a wish
_ANSWERS = (
    r"(?:(?:all )?(?:of )?(?:your |the |my )?(?:answers|replies|responses|explanations|messages"
    r"|output))"
)
_LASTING = re.compile(
    r"\b(?:always|never|from now on|in (?:the )?future|by default|as a rule|generally|every time"
    r"|whenever|in general|at all times|going forward|ever(?: again)?|any ?more|no longer)\b",
    re.IGNORECASE,
)
_GENERAL = re.compile(
    rf"\b{_ANSWERS}\b|\b(?:i|i'd|we) (?:would |really |much |generally |usually |always"
    r" |strongly )*"
    r"(?:prefer|like|want|love|hate|dislike|don't like|don't want|can't stand|need|use|write in"
    r"|work with|work in|code in|think in|program in)\b"
    r"|\b(?:no|without|stop using|avoid|drop the|skip the|don't use|do not use|don't ever)\b"
    r"|\b(?:when|while|for) (?:you )?(?:writ\w+|answer\w*|reply\w*|giv\w+|code|coding)\b"
    r"|\b(?:every|each|per) (?:answer|reply|response|message)\b|\bstick to\b"
    # Said alone, with nothing that it is for, so for whatever comes.
    r"|^(?:please )?use (?:the )?(?:metric|imperial|celsius|centigrade|fahrenheit|(?:british"
    r"|american|u[ks])"
    r" (?:spelling|english)|24[ -]?h\w*|12[ -]?h\w*)(?: units| system| format| clock| time)?"
    r"(?:,? (?:not|instead of|rather than) \w+)?,?(?: please)?$"
    r"|^(?:please )?write (?:all |your )?(?:dates|times)\b"
    r"|\bkeep (?:it|things|everything|your \w+)\b",
    re.IGNORECASE,
)
# What somebody else wants, or once said.
_REPORTED = re.compile(
    r"\b(?:says?|said|told|asked|asks|according|claims?|wrote|writes|if|would you)\b", re.IGNORECASE
)
# A wish for this one answer, whatever else it says.
_ONCE = re.compile(
    r"\b(?:this time|just (?:this )?once|for (?:this|that) (?:one|answer|question|task)|now|here"
    r"|again but|this (?:text|answer|code|file|function|list|paragraph|sentence|email|essay)"
    r"|that (?:text|answer|code|file|function|list|paragraph|sentence)|the (?:following|above)"
    r"|my (?:essay|code|text|email|function|letter|cv|report))\b",
    re.IGNORECASE,
)
# "Celsius, not Fahrenheit": what is not wanted says nothing of what is.
_INSTEAD = re.compile(
    r",? (?:and )?(?:not|instead of|rather than|over) (?:in )?(?:metric|imperial|celsius|centigrade"
    r"|fahrenheit|kilomet(?:er|re)s|miles|british|american|u[ks])\b(?: units| english| spelling)?",
    re.IGNORECASE,
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
_NUMBERS = dict(
    zip(
        "one two three four five six seven eight nine ten".split(),
        map(str, range(1, 11)),
        strict=True,
    )
)


@dataclass(frozen=True)
class _Wish:
    subject: str
    value: str  # or empty: the group "v" has it
    pattern: re.Pattern[str]


def _wish(subject: str, value: str, pattern: str) -> _Wish:
    return _Wish(subject, value, re.compile(pattern, re.IGNORECASE))


_WISHES = (
    _wish(ANSWER_LENGTH, "{n} words", rf"\b{_LIMIT}words?\b"),
    _wish(ANSWER_LENGTH, "{n} sentences", rf"\b{_LIMIT}(?:short )?sentences?\b"),
    _wish(ANSWER_LENGTH, "{n} lines", rf"\b{_LIMIT}lines?\b"),
    _wish(
        ANSWER_LENGTH,
        "short",
        rf"\b(?:short|shorter|brief|briefer|concise|terse|succinct|to the point|snappy|compact)\b.*"
        rf"\b{_ANSWERS}\b|\b{_ANSWERS}\b.*\b(?:short|shorter|brief|briefer|concise|terse|succinct"
        r"|to the point|snappy|compact)\b|\b(?:keep (?:it|things|everything)|be|answer|reply) "
        r"(?:always )?(?:short|shortly|brief|briefly|concise|concisely|terse|tersely|succinct)\b"
        r"|\b(?:no|hate|don't like|dislike|can't stand|stop|avoid|without|never) .*"
        rf"\b(?:long|lengthy|wordy|verbose|rambling|walls? of text)\b|\b{_NOT}\b.*\bramble?",
    ),
    _wish(
        ANSWER_LENGTH,
        "long",
        rf"\b(?:long|longer|detailed|thorough|in-depth|extensive)\b.*\b{_ANSWERS}\b"
        rf"|\b{_ANSWERS}\b.*\b(?:long|longer|detailed|thorough|in depth|extensive)\b"
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
        rf"{_LANGUAGE}\b|\b{_ANSWERS} (?:should be |must be |to be |have to be )?(?:always )?in "
        rf"{_LANGUAGE.replace('?P<v>', '?P<v2>')}\b"
        rf"|\b{_LANGUAGE.replace('?P<v>', '?P<v3>')} {_ANSWERS}\b",
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


def wished(clause: str) -> Told | None:
    """Read one clause as a lasting wish for answers, or return None."""
    if len(clause) > _LONGEST or _ONCE.search(_LASTING.sub("", clause)):
        return None
    if _REPORTED.search(clause):
        return None
    if not (_LASTING.search(clause) or _GENERAL.search(clause)):
        return None
    kept = _INSTEAD.sub("", clause)
    for wish in _WISHES:
        match = wish.pattern.search(kept)
        if match:
            value = _value(wish, match)
            return Told(wish.subject, value, "preference") if value else None
    return None


def _value(wish: _Wish, match: re.Match[str]) -> str:
    groups = {name: text for name, text in match.groupdict().items() if text}
    if "{n}" in wish.value:
        number = next((text.lower() for name, text in groups.items() if name[0] == "n"), "")
        number = _NUMBERS.get(number.replace("a single", "one"), number)
        noun = wish.value.removeprefix("{n} ")
        return f"1 {noun.removesuffix('s')}" if number == "1" else f"{number} {noun}"
    if wish.value:
        return wish.value
    said = cleaned(next((text for name, text in groups.items() if name[0] == "v"), ""))
    return (
        said[:1].upper() + said[1:] if said.islower() and wish.subject == ANSWER_LANGUAGE else said
    )
