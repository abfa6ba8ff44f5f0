"""Wordings of topics, as data: beyond those that the relations list, and as typed in a hurry.

The one idea: a topic and a pattern of the whole clause, `{v}` for the value. Invariant: what stands
here only proposes; `topics` doubts every value.
"""

import re

from homebox.language.relation_data import ONLY, PEOPLE, PETS
from homebox.language.values import MONTHS

MONTH = "|".join(MONTHS)

# Wordings of listed topics beyond those that the relations list themselves.
WORDINGS = (
    ("name", r"my (?:full |first )?name is {v}"),
    ("name", r"(?:i am|i'm) (?:called|named) {v}"),
    ("surname", r"my (?:last|family) name is {v}"),
    ("age", r"i am (?P<value>\d{1,3})(?: years old| years of age)?"),
    ("age", r"i (?:will be|turned|just turned) (?P<value>\d{1,3})(?: .*)?"),
    ("birthday", rf"i was born on (?:the )?(?P<value>\d{{1,2}}\.? (?:{MONTH})|(?:{MONTH}) \d+)"),
    ("home", r"(?:we live|i live|i reside|i am based|i am staying|i have lived) (?:over )?in {v}"),
    ("home", r"(?:i|we) (?:have )?(?:just )?moved (?:here |over )?(?:to|into) {v}"),
    ("home town", r"i grew up in {v}"),
    ("birthplace", r"(?:i am|i come) (?:originally )?from {v}"),
    ("job", r"(?:i am working|i work|i have worked) (?:\w+ly )?as an? {v}"),
    ("job", r"i am an? (?P<value>(?:[\w-]+ )?[\w-]+) (?:by profession|by trade|for a living)"),
    ("job", r"(?:my (?:profession|occupation|work) is) (?:being )?an? {v}"),
    ("employer", r"(?:i am working|i work|i have worked|i am employed) (?:at|for|by) {v}"),
    ("car", r"i (?:drive|own) (?P<value>(?:an? )?[A-Z0-9][\w-]*(?: [\w-]+)?)"),
    (
        "car",
        r"i drive (?P<value>an? (?:(?:very )?old|new|used|second-hand|little|red|blue|black|white"
        r"|green|silver|yellow) (?!taxi|bus|truck|lorry|van\b)[\w-]+(?: [\w-]+)?)",
    ),
    ("football team", r"(?:i support|i am a (?:fan|supporter) of|i root for) {v}"),
    ("language spoken", r"my (?:native|first|mother) (?:language|tongue) is {v}"),
    ("language learned", r"i am (?:currently )?(?:learning|studying) {v}"),
    (
        "language learned",
        r"i (?:learn|study) (?P<value>German|French|Spanish|Italian|Dutch|Portuguese|Polish|Swedish"
        r"|Danish|Norwegian|Finnish|Czech|Turkish|Greek|Russian|Ukrainian|Japanese|Chinese|Korean"
        r"|Arabic|Hindi|Latin|English|Welsh|Irish|Hungarian|Romanian)(?: atm)?",
    ),
    ("instrument", r"i (?:play|practise|practice) the {v}"),
    ("hobby", r"i (?:do|love doing|enjoy|like doing) (?P<value>[\w-]+ing)"),
    ("bedtime", r"i (?:usually |always |normally )?go to (?:bed|sleep) at {v}"),
    ("lunch time", r"i (?:usually |always |normally )?(?:have|eat) (?:my )?lunch at {v}"),
    ("getting up", r"i (?:usually |always |normally )?(?:get|wake) up at {v}"),
    ("shoe size", r"i (?:wear|have|take) (?:a )?(?:shoe size|size) (?P<value>\d+)(?: shoes)?"),
    ("house number", r"i live at (?:house )?number {v}"),
    ("bus line", r"i (?:always |usually )?take (?:the )?(?:bus|bus line|bus number|line) {v}"),
    ("allergy", r"i (?:can't|cannot|must not|mustn't|am not allowed to) (?:eat|have) (?:any )?{v}"),
    ("alarm time", r"my alarm (?:goes off|rings|is set|is set for|is) (?:at |for )?{v}"),
    ("language learned", r"i have been (?:learning|studying) {v}"),
    ("allergy", r"i am (?:very |really |badly )?allergic to {v}"),
    ("intolerance", r"i am (?P<value>lactose|gluten|fructose|histamine)[ -]intolerant"),
    ("year of birth", r"i was born (?:in )?(?P<value>(?:19|20)\d\d)"),
    ("preferred drink", r"i (?:usually |always |mostly )?(?:prefer to )?drink {v}"),
    (
        "disliked food",
        r"i (?:really |absolutely )?(?:hate|can't stand|dislike|don't like) {v}",
    ),
    ("disliked food", r"i don't eat (?:any )?{v}"),
    ("wife's name", r"i am married to (?P<value>(?!an? )[\w'-]+), my wife"),
    ("what to call me", r"(?:please )?call me {v}"),
    ("what to call me", r"(?:my friends|friends|people) (?:all )?call me {v}"),
    ("what to call me", r"(?:everyone|everybody) calls me {v}"),
    # Topics that no relation lists are asked by the general frames.
    ("liking", r"i (?:really |also |just |absolutely )*(?:like|love|enjoy|adore) {v}"),
    (
        "liking",
        r"i am (?:very |really )?(?:fond of|keen on|mad about|a (?:big |huge )?fan of) {v}",
    ),
    ("preferring", r"i (?:really |much |usually |generally |always |also )*prefer {v}"),
    ("preferring", r"i(?: would|'d) rather (?:have |use |take |get )?{v}"),
    (
        "number of children",
        r"(?:i|we) have (?P<value>\d|two|three|four|five|six|seven) (?:children|kids)",
    ),
    ("diet", r"i am (?:an? )?(?P<value>vegetarian|vegan|pescatarian|pescetarian|coeliac|teetotal)"),
    ("handedness", r"i am (?P<value>(?:left|right)[- ]handed|ambidextrous)"),
    ("marital status", r"i am (?P<value>single|married|divorced|widowed|engaged)"),
    ("height", r"i am (?P<value>\d[\d.,]* ?(?:cm|m|metres?|meters?|ft|feet)(?: \d+)?)(?: tall)?"),
    ("eye colour", r"i have (?P<value>blue|brown|green|grey|gray|hazel) eyes"),
    ("blood type", r"my blood (?:type|group) is (?P<value>(?:a|b|ab|o)[+-]?(?: \w+)?)"),
)
# What people type in a hurry, and how the forms have it.
HURRIED = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"\bfave?(?= \w)", "favourite"),
        (r"\b(?:bday|b-day)\b", "birthday"),
        (r"^(my(?: \w+)?) names (?!of\b|are\b|were\b|is\b)", r"\1 name is "),
        (r"\b(name|birthday|anniversary|job|home)'s (?=\w)", r"\1 is "),
        (r"\bcan ?not\b|\bcant\b", "can't"),
        (r"^(can't|must not|mustn't) (?=(?:eat|have) )", r"I \1 "),
        (r"\bmust not (?=(?:eat|have) )", "mustn't "),
        (rf"\b(?:the )?(\d{{1,2}})(?:st|nd|rd|th) of (?={MONTH})", r"\1 "),
        (r"^what i (?:really |most |mostly )?(\w+)(?: most)? (?:is|are) (?=\w)", r"I \1 "),
        (r"^(?:my )?fav(?:e|ou?rite)? (\w+): ?(?=\w)", r"my favourite \1 is "),
        (r"^(birthday|anniversary) is (?=\w)", r"my \1 is "),
        (r"^(?:very |badly )?allergic to (?=\w)", "I am allergic to "),
        (r"^shoe size:? (?=\d)", "my shoe size is "),
        (r"^the name of our (?=\w)", "the name of my "),
        (rf"^(my (?:{'|'.join(PETS)}))s called (?=\w)", r"\1 is called "),
        (r"^(?:just |recently )?moved (?=to |into )", "I moved "),
        (
            r"^(wife|husband|partner|son|daughter|dog|cat|boss|mum|mom|dad)'?s name is ",
            r"my \1's name is ",
        ),
    )
)
_BEING = r"(?:,? (?:and |who is |that is |which is )?(?:he|she|it|his name|her name|its name) is"
NAMED = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?i:i|we) (?:have|adopted|bought|got|keep|own)(?: an?"
        rf"| the) (?P<noun>[a-z-]+(?: (?!yesterday|today|last|now)[a-z-]+)?)"
        rf"(?: [a-z ]+?)?{_BEING}(?: called| named)?) (?P<value>[A-Z][\w'-]*(?: [A-Z][\w'-]*)*)$",
        r"(?i:my) (?P<noun>[\w' -]{2,30}?) goes by(?: the name)?(?: of)? (?P<value>[A-Z].*)$",
        rf"(?i:my) (?P<noun>{'|'.join((*PEOPLE, *PETS, *ONLY))}),? (?P<value>[A-Z][\w-]+),? [a-z]",
    )
)
# What those who are near the owner like, where they live and work.
OF_OTHERS = tuple(
    (
        subject,
        re.compile(
            rf"(?i:my) (?P<who>(?:{'|'.join((*PEOPLE, *ONLY, 'mum', 'mom', 'dad'))}"
            rf")(?: [A-Z][\w-]+)?){said}"
        ),
    )
    for subject, said in (
        ("", r"'s (?P<what>(?:least )?favou?rite [a-z]+(?: [a-z]+)?|birthday) is (?P<value>.+)$"),
        ("home", r" lives in (?P<value>[A-Z].*)$"),
        ("employer", r" works (?:at|for) (?P<value>[A-Z].*)$"),
    )
)
# Roundabout ways to say "my ... is ...".
PLAINLY = tuple(
    re.compile(text)
    for text in (
        r"^(?i:as for|about|regarding) (?P<topic>(?i:my) .{2,60}?)[,:] (?i:it) is (?P<value>.+)$",
        r"^(?P<topic>(?i:my) .{2,60}?) (?i:happens to be|is now) (?P<value>.+)$",
    )
)
# A colon alone says so only of a listed topic of somebody with a name.
BY_COLON = re.compile(
    r"^(?P<topic>(?i:my) [a-z-]+ [A-Z][\w-]+'s (?P<what>[a-z' ]{2,40})): (?P<value>.+)$"
)
