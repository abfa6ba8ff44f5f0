"""The words by which a lasting fact is told from passing talk, as lists that are easy to extend.

A list is one text of phrases between commas. Invariant: everything is matched without regard to
case and at the borders of words.
"""

import re

# "my question is ...", "my head is ...": what follows is not a fact about the owner.
_PASSING = """
    question, point, problem, issue, guess, understanding, mistake, bad, idea, plan, goal, aim,
    opinion, apology, apologies, pleasure, turn, error, bug, fault, advice, answer, view,
    impression, assumption, intention, concern, worry, hope, wish, dream, task, homework,
    assignment, job here, code, program, function, test, query, input, output, example, first,
    last, next, other, only, whole, own, main, head, stomach, back, tooth, mind, time, day,
    week, life, heart, mood, fear, thing, word, text, message, request, command, prompt, file,
    variable, class, method, module, repo, repository, branch, server, database, table, column,
    field, package, script, order, flight, meeting, ticket, account, deadline, essay, draft,
    sentence, paragraph, argument, thesis, conclusion, teeth, eye, eyes, hand, hands, foot,
    feet, next step, best bet, best guess
"""
# Nouns whose value may be a plain small word: "my diet is vegan", "my shell is fish".
_LASTING = """
    favourite, favorite, name, nickname, number, size, colour, color, birthday, anniversary,
    hobby, job, profession, occupation, language, tongue, brand, model, make, type, diet, team,
    band, genre, instrument, sport, subject, degree, school, university, college, street,
    address, town, city, country, village, flat, car, bike, bicycle, phone, laptop, computer,
    printer, editor, shell, keyboard, camera, guitar, piano, boat, religion, nationality, sign,
    height, weight, age, salary, title, role, employer, company, boss, hometown, topping,
    flavour, flavor, drink, dish, food, breakfast, lunch, dinner, snack, tea, coffee, project,
    species, breed, day, time, date, appointment, line, route, code name, codename, motto,
    mascot, allergy, unit, units, timezone, time zone, currency, layout, theme, font, season,
    pet, plant, tree
"""
# How "my X is ..." and "I am ..." go on where they tell of a moment.
_STATES = """
    not, no, so, very, too, quite, really, just, still, already, always, never, also, all, only,
    about, like, as, out, in, on, off, up, down, over, under, away, back, here, there, gone,
    done, ready, fine, ok, okay, good, bad, great, nice, happy, sad, ill, sick, tired, busy,
    late, early, sore, hungry, angry, dead, alive, new, old, big, small, broken, empty, full,
    dirty, clean, slow, fast, hot, cold, wet, dry, lost, stuck, wrong, right, better, worse,
    best, worst, important, due, free, safe, sure, afraid, funny, weird, strange, cute,
    beautiful, lovely, lazy, loud, quiet, pregnant, young, tall, short, it, that, this, these,
    those, what, why, how, where, when, who, which, whether, if, because, to, for, from, with,
    by, of, at, my, your, his, her, our, their, mine, yours, the, same, different, similar,
    almost, nearly, probably, maybe, perhaps, currently, getting, being, something, nothing,
    everything, anything, one, none, asking, he, she, they, you, i, we
"""
# No value has these inside: the clause went on.
_CLAUSAL = """
    is, are, was, were, will, can, could, would, should, does, did, doesn't, isn't, don't,
    didn't, i, i'm, me, you, he, she, they, it, it's, that, this, these, those, if, unless,
    whether, when, while, until, than, not, what, how, why, maybe, perhaps, probably, your,
    anymore
"""
# No value begins with these: they only point at something.
_POINTING = """
    it, that, this, myself, my, our, these, those, them, him, her, you, your, his, its, their,
    what, how, why, when, where, who, whom, which, to, if, being, doing, having, not, no,
    nothing, something, everything, anything, all, both, one, the idea, the way, the fact, the
    first, the second, the last, the other, the same, the new, the one, the answer, the result,
    the sound, the look, the thought, the tone, more, less, some, any, another, someone,
    somebody, everyone, nobody, most, so, very, too, only, either
"""
# "I study hard", "call me later", "I live in hope": what stands where a value would.
_MANNER = """
    hard, well, badly, a lot, alone, late, early, often, much, full time, full-time, part time,
    part-time, night, nights, later, back, tomorrow, soon, tonight, today, now, again, names,
    anything, anytime, hope, peace, fear, luxury, comfort, poverty, exile, town, together,
    apart, remotely, home, from home, weekends, too much, enough
"""
# "I have two questions."
_COUNTED = """
    question, questions, minute, minutes, hour, hours, day, days, week, weeks, month, months,
    year, years, problem, problems, issue, issues, error, errors, option, options, thing,
    things, point, points, idea, ideas, choice, choices, file, files, line, lines, meeting,
    meetings, exam, exams, test, tests, time, times, request, requests, task, tasks,
    appointment, appointments, email, emails, message, messages, reason, reasons, left, more
"""


def phrases(text: str) -> str:
    """Make an alternative of a list, the longest phrases first."""
    items = [" ".join(item.split()) for item in text.split(",")]
    return "|".join(re.escape(item) for item in sorted(items, key=lambda item: -len(item)))


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


PASSING_NOUN = _pattern(
    rf"^({phrases(_PASSING)}|current \w+)$|^(next|last|first|biggest|main|current|real|only|best"
    r"|final) (question|problem|issue|point|idea|guess|concern|worry|mistake|task|plan|choice)$"
)
LASTING_NOUN = _pattern(rf"^(least )?favou?rite \w|\b({phrases(_LASTING)})s?$")
STATE = _pattern(rf"^({phrases(_STATES)})\b|^\w+(ing|ed)\b(?! (?-i:[A-Z]))")
CLAUSAL = _pattern(rf"\b({phrases(_CLAUSAL)})\b")
POINTING = _pattern(rf"^({phrases(_POINTING)})\b")
MANNER = _pattern(rf"^({phrases(_MANNER)})\b")
COUNTED_IN_PASSING = _pattern(rf"\b({phrases(_COUNTED)})\b")
NUMBER_WORD = _pattern(
    r"\d|^(zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fifteen"
    r"|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred)\b"
)
