"""Secrets that nobody owns, and texts in which people, files and programs tell them.

The one idea: values are drawn, contexts are written by hand, and both come from a seed, so that a
failure can be had again. Contexts are as people write, not as the patterns that are tested read.
"""

import base64
import json
import random
import string
from collections.abc import Callable
from typing import NamedTuple

LETTERS = string.ascii_letters + string.digits
WORDS = """acid alley amber anchor apple arrow autumn bacon badge bamboo banner barrel basket beach
beaver bishop blanket blossom bottle branch bridge bronze brush bucket butter cabin cactus camera
candle canyon carbon carpet castle cattle cement cherry circle clover cobalt coffee copper coral
cotton cradle crater cricket crystal curtain dagger desert dinner dolphin dragon drawer eagle earth
elbow ember engine falcon fabric feather fiddle finger forest fossil galaxy garlic ginger glacier
goblin gravel guitar hammer harbor hazard helmet hockey honey island ivory jacket jungle kettle
kitten ladder lagoon lantern lemon lizard magnet maple marble meadow mirror monkey muffin napkin
needle nickel noodle ocean olive orange orchid oyster paddle panda parrot pebble pencil pepper
piano pickle pigeon pillow planet pocket poster potato pretzel pumpkin puzzle rabbit raven ribbon
river rocket saddle salmon sandal scarf shadow silver spider spruce stable storm sugar sunset
table tiger timber tomato tunnel turtle velvet violin walnut willow window winter yellow
zebra""".split()


class Canary(NamedTuple):
    """A secret, the kind of it, and a text that tells it."""

    kind: str
    secret: str
    text: str


def canaries(count: int, seed: int = 0) -> list[Canary]:
    """Draw that many canaries, as many of each kind."""
    draw = random.Random(seed)
    kinds = list(_KINDS)
    return [_canary(draw, kinds[number % len(kinds)]) for number in range(count)]


def _canary(draw: random.Random, kind: str) -> Canary:
    make, contexts = _KINDS[kind]
    secret = make(draw)
    context = draw.choice(contexts)
    text = context.replace("<S>", secret)
    if draw.random() < 0.5:
        text = f"{draw.choice(_BEFORE)}{text}{draw.choice(_AFTER)}"
    return Canary(kind, secret, text)


_BEFORE = (
    "Hi! ",
    "Quick one before I leave.\n",
    "So I am setting up the new laptop and it asks me for everything again. ",
    "Remember this: ",
    "Here you go:\n\n",
    "ok so, ",
    "I told Anna yesterday but she lost the note. ",
    "Please keep it somewhere:\n",
)
_AFTER = (
    "",
    "\nThanks!",
    " - can you help me?",
    "\n\nWhat should I do next?",
    " and that is all.",
    "\nbut it does not work and I don't know why",
)


def _some(draw: random.Random, signs: str, low: int, high: int | None = None) -> str:
    return "".join(draw.choice(signs) for _ in range(draw.randint(low, high or low)))


def _digits(draw: random.Random, count: int) -> str:
    return _some(draw, string.digits, count)


def _password(draw: random.Random) -> str:
    word = draw.choice(WORDS)
    number = str(draw.randint(0, 9999))
    return draw.choice(
        (
            word + number.zfill(2),
            word.capitalize() + number.zfill(2) + draw.choice("!?#$%&*"),
            word.capitalize() + draw.choice("-_.+") + draw.choice(WORDS) + number,
            word.replace("a", "4").replace("e", "3").replace("o", "0").replace("i", "1") + "7X",
            _some(draw, LETTERS + "!#$%&*+-?@^_", 9, 18) + "k7",
            draw.choice(WORDS) + draw.choice(WORDS).capitalize() + number.zfill(3),
        )
    )


def _passphrase(draw: random.Random) -> str:
    return draw.choice((" ", "-")).join(draw.sample(WORDS, draw.randint(4, 6)))


def _key(draw: random.Random) -> str:
    upper = string.ascii_uppercase + "234567"
    return draw.choice(
        (
            lambda: f"sk-proj-{_some(draw, LETTERS, 48)}",
            lambda: f"sk-ant-api03-{_some(draw, LETTERS + '-_', 80)}AA",
            lambda: f"AKIA{_some(draw, upper, 16)}",
            lambda: f"ghp_{_some(draw, LETTERS, 36)}",
            lambda: f"github_pat_{_some(draw, LETTERS, 22)}_{_some(draw, LETTERS, 59)}",
            lambda: f"glpat-{_some(draw, LETTERS, 19)}7",
            lambda: f"xoxb-{_digits(draw, 12)}-{_digits(draw, 12)}-{_some(draw, LETTERS, 24)}",
            lambda: f"sk_live_{_some(draw, LETTERS, 24)}",
            lambda: f"AIza{_some(draw, LETTERS + '-_', 35)}",
            lambda: f"SG.{_some(draw, LETTERS, 22)}.{_some(draw, LETTERS, 43)}",
            lambda: f"hf_{_some(draw, LETTERS, 34)}",
            lambda: f"npm_{_some(draw, LETTERS, 36)}",
            lambda: f"{_digits(draw, 9)}:AA{_some(draw, LETTERS, 33)}",
        )
    )()


def _bearer(draw: random.Random) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    token = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': _digits(draw, 10)})}"
    return draw.choice(
        (f"{token}.{_some(draw, LETTERS + '-_', 43)}", _some(draw, LETTERS, 32, 64) + "9z")
    )


def _pem(draw: random.Random) -> str:
    name = draw.choice(("RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY"))
    body = base64.b64encode(draw.randbytes(draw.randint(90, 900))).decode()
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {name}-----", *lines, f"-----END {name}-----"])


def _check_digit(digits: str) -> str:
    for last in string.digits:
        total = 0
        for place, digit in enumerate(reversed(digits + last)):
            number = int(digit) << (place % 2)
            total += number - 9 * (number > 9)
        if total % 10 == 0:
            return digits + last
    raise ValueError(digits)


def _card(draw: random.Random) -> str:
    start, length = draw.choice((("4", 16), ("51", 16), ("55", 16), ("37", 15), ("6011", 16)))
    digits = _check_digit(start + _digits(draw, length - 1 - len(start)))
    cuts = (4, 10, 15) if length == 15 else (4, 8, 12, 16)
    groups = [digits[start:end] for start, end in zip((0, *cuts), cuts, strict=False)]
    return draw.choice(("", " ", "-")).join(groups)


def _iban(draw: random.Random) -> str:
    country, length = draw.choice((("DE", 22), ("FR", 27), ("NL", 18), ("GB", 22), ("AT", 20)))
    letters = {"NL": "INGB", "GB": "NWBK"}.get(country, "")
    account = letters + _digits(draw, length - 4 - len(letters))
    number = int("".join(str(int(sign, 36)) for sign in f"{account}{country}00"))
    iban = f"{country}{98 - number % 97:02}{account}"
    grouped = " ".join(iban[start : start + 4] for start in range(0, length, 4))
    return draw.choice((iban, grouped))


def _pin(draw: random.Random) -> str:
    return _digits(draw, draw.choice((4, 4, 4, 5, 6)))


def _door(draw: random.Random) -> str:
    number = _digits(draw, draw.choice((4, 4, 5, 6)))
    return draw.choice((number, number, f"{number}#", f"{number[:2]}-{number[2:]}"))


def _otp(draw: random.Random) -> str:
    code = _digits(draw, 6)
    return draw.choice((code, code, f"{code[:3]} {code[3:]}", f"{code[:3]}-{code[3:]}"))


def _ssn(draw: random.Random) -> str:
    area = draw.choice([number for number in range(1, 900) if number != 666])
    return f"{area:03}-{draw.randint(1, 99):02}-{draw.randint(1, 9999):04}"


def _passport(draw: random.Random) -> str:
    return draw.choice((_digits(draw, 9), f"{_some(draw, 'CFGHJK', 1)}{_digits(draw, 8)}"))


def _tax(draw: random.Random) -> str:
    return draw.choice(
        (f"{_digits(draw, 2)}-{_digits(draw, 7)}", _digits(draw, 11), f"9{_digits(draw, 9)}")
    )


def _seed(draw: random.Random) -> str:
    return " ".join(draw.sample(WORDS, draw.choice((12, 12, 24))))


def _codes(draw: random.Random) -> str:
    group = string.ascii_lowercase + string.digits
    codes = [
        f"{_some(draw, group, 4)}{draw.randint(0, 9)}-{_some(draw, group, 5)}" for _ in "123456"
    ]
    return draw.choice((" ", "\n", ", ")).join(codes)


def _hex(draw: random.Random) -> str:
    return draw.choice(("", "0x")) + draw.randbytes(32).hex()


def _random(draw: random.Random) -> str:
    return draw.choice(
        (
            lambda: base64.b64encode(draw.randbytes(32)).decode(),
            lambda: base64.urlsafe_b64encode(draw.randbytes(36)).decode(),
            lambda: _some(draw, LETTERS, 32, 48),
        )
    )()


_KINDS: dict[str, tuple[Callable[[random.Random], str], tuple[str, ...]]] = {
    "password": (
        _password,
        (
            "my password is <S>",
            "The password for the guest network is <S>, in case your phone asks.",
            "username: jonas\npassword: <S>",
            "I set the new Netflix password to <S> last night",
            "pw for the NAS: <S>",
            "my old one was fine but now the password's <S> and I hate it",
            "<S> is my password for the bank",
            '{"user": "mila", "password": "<S>"}',
            "DB_PASSWORD=<S>",
            "export PGPASSWORD='<S>'",
            "Login: mila@example.org / Password: <S>",
            "the wifi password at my parents' house is `<S>`",
            "my laptop password is still <S>",
            "Could you log in with user admin and password <S>?",
            'conn = connect(host="db1", user="app", password="<S>")',
            "I changed my password from <S> to something better",
            "mysql -u root -p'<S>' shop",
            "spring.datasource.password=<S>",
            "Wi-Fi: Fritzbox 7590\nKey: WPA2\nPassword: <S>",
            "her email password was <S> before she changed it",
        ),
    ),
    "passphrase": (
        _passphrase,
        (
            "my passphrase is <S>",
            "The passphrase for the backup disk is: <S>",
            'passphrase: "<S>"',
            "my ssh key's passphrase is '<S>'",
            "the password of the vault is <S>",
        ),
    ),
    "key": (
        _key,
        (
            "my key is <S>",
            "OPENAI_API_KEY=<S>",
            "Why does this fail? client = Client(api_key='<S>')",
            "I pasted <S> into the config and get a 401",
            "export TOKEN=<S>",
            "curl -H 'x-api-key: <S>' https://api.example.com/v1/me",
            "here is the token: <S>.",
            '{"apiKey":"<S>","region":"eu"}',
            "api key <S>",
            "git clone https://<S>@git.example.com/me/repo.git",
        ),
    ),
    "bearer": (
        _bearer,
        (
            "Authorization: Bearer <S>",
            'curl -H "Authorization: Bearer <S>" https://api.example.com/me',
            "headers = {'Authorization': 'Bearer <S>'}",
            "my access token is <S>",
            "access_token=<S>",
            '{"refresh_token": "<S>", "expires_in": 3600}',
            "the bearer token they gave me: <S>",
            "Cookie: session=<S>; theme=dark",
        ),
    ),
    "pem": (
        _pem,
        (
            "<S>",
            "this is my server's key:\n<S>\nwhere do I put it?",
            "```\n<S>\n```",
            "id_ed25519:\n\n<S>\n",
        ),
    ),
    "card": (
        _card,
        (
            "my card is <S>",
            "Visa <S> exp 09/29",
            "please fill in <S>, valid until 11/28, Jonas Weber",
            "card number: <S>",
            "I paid with <S> and now there is a charge that I don't know",
            '{"pan":"<S>"}',
            "Karte <S>",
        ),
    ),
    "iban": (
        _iban,
        (
            "send it to <S>",
            "IBAN: <S>",
            "my account is <S> at the savings bank",
            "Please transfer 50 euros to Mila, <S>, reference pizza",
            '{"iban": "<S>"}',
        ),
    ),
    "pin": (
        _pin,
        (
            "my PIN is <S>",
            "pin: <S>",
            "the pin for my debit card is <S>",
            "my phone's pin is <S>, don't tell the kids",
            "SIM PIN <S>",
            "PIN code: <S>",
            "I always forget that the PIN is <S>",
            "my bank card PIN was changed to <S>",
            "voicemail pin = <S>",
        ),
    ),
    "door": (
        _door,
        (
            "the alarm code is <S>",
            "Our front door code is <S>",
            "code for the garage: <S>",
            "gate code <S>",
            "The safe opens with <S>",
            "enter <S> at the gate",
            "the combination to my locker is <S>",
            "the key box code at the cabin is <S>",
            "To disarm the alarm you type <S> on the keypad.",
            "Building entry code: <S>",
            "alarm: <S>",
        ),
    ),
    "otp": (
        _otp,
        (
            "<S> is your verification code",
            "Your login code is <S>. It expires in 10 minutes.",
            "OTP: <S>",
            "the 2FA code is <S>",
            "Use code <S> to sign in to your account",
            "my one-time password is <S>",
            "Your confirmation code: <S>",
            "they sent me a security code: <S>",
        ),
    ),
    "ssn": (
        _ssn,
        (
            "my SSN is <S>",
            "Social Security number: <S>",
            "for the form: born 4 May 1981, <S>",
            "SSN <S>",
            '"ssn": "<S>"',
        ),
    ),
    "passport": (
        _passport,
        (
            "my passport number is <S>",
            "Passport No. <S>",
            "passport: <S>, expires 2031",
            "Mila's passport is <S>",
            "Passport number <S> (mine)",
            "my driver's license number is <S>",
        ),
    ),
    "tax": (
        _tax,
        (
            "my tax id is <S>",
            "Tax ID: <S>",
            "my taxpayer identification number is <S>",
            "EIN <S>",
            "Steuer-ID: <S>",
            "the tax number of my company is <S>",
        ),
    ),
    "seed": (
        _seed,
        (
            "my seed phrase is <S>",
            "recovery phrase: <S>",
            "here are the 12 words of my wallet: <S>",
            "mnemonic=<S>",
            "<S>",
            "I wrote down the seed words:\n<S>",
        ),
    ),
    "codes": (
        _codes,
        (
            "my backup codes:\n<S>",
            "GitHub recovery codes: <S>",
            "Recovery codes for my mail account:\n\n<S>",
            "these are the backup codes: <S>",
        ),
    ),
    "hex": (
        _hex,
        (
            "my private key is <S>",
            "PRIVATE_KEY=<S>",
            "the wallet's private key: <S>",
            'signing_key = "<S>"',
            "encryption key: <S>",
            "SECRET_KEY=<S>",
            "JWT secret: <S>",
        ),
    ),
    "random": (
        _random,
        (
            "<S>",
            "it printed <S> and then stopped",
            "what is this? <S>",
            "SESSION_SECRET=<S>",
            "I got <S> by mail",
        ),
    ),
    "url": (
        _password,
        (
            "postgres://app:<S>@db.example.org:5432/shop",
            "the stream is at rtsp://admin:<S>@192.168.1.20/live",
            "git remote add origin https://mila:<S>@git.example.org/x.git",
            "DATABASE_URL=mysql://root:<S>@localhost/shop?ssl=1",
            "redis://:<S>@cache:6379/0",
        ),
    ),
}
KINDS = tuple(_KINDS)
